"""One small net for each kind of wiring in which a width is easily lost.

`KINDS` maps a name to (a builder, a function that draws the inputs, the groups by hand).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Net(nn.Module):
    """Attributes by name, and what `forward` does with them."""

    def __init__(self, run: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.run = run
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(*shape))


def ends(width: int = 16) -> dict[str, nn.Module]:
    return {"a": nn.Linear(10, width), "o": nn.Linear(width, 3)}


def rows() -> tuple[Tensor, ...]:
    return (torch.randn(4, 10),)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randn(2, 5, 10),)


def image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 6, 6),)


Kind = tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], dict[str, int]]
KINDS: dict[str, Kind] = {}


def kind(draw: Callable[[], tuple[Tensor, ...]], **groups: int) -> Callable[..., Any]:
    def keep(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        KINDS[build.__name__] = (build, draw, groups)
        return build

    return keep


# --- recurrent layers -----------------------------------------------------------------------------


@kind(tokens, r=32)
def lstm() -> nn.Module:
    rnn = nn.LSTM(10, 32, 2, batch_first=True, bidirectional=True)
    return Net(lambda s, x: s.o(s.r(x)[0][:, -1]), r=rnn, o=nn.Linear(64, 3))


@kind(tokens, r=32)
def rnn_last_state() -> nn.Module:
    return Net(
        lambda s, x: s.o(s.r(x)[1][-1]), r=nn.RNN(10, 32, 3, batch_first=True), o=nn.Linear(32, 3)
    )


@kind(tokens, r=16)  # torch wants hidden_size above proj_size: only the latter is prunable
def projected_lstm() -> nn.Module:
    rnn = nn.LSTM(10, 32, 2, proj_size=16, batch_first=True)
    return Net(lambda s, x: s.o(s.r(x)[0]), r=rnn, o=nn.Linear(16, 3))


@kind(tokens, r=32)
def learned_start() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        return s.o(s.r(x, s.h0.expand(-1, len(x), -1).contiguous())[0])

    rnn = nn.GRU(10, 32, batch_first=True)
    return Net(run, r=rnn, o=nn.Linear(32, 3), h0=parameter(1, 1, 32))


@kind(tokens, cell=32)
def cells_in_a_loop() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        h, c = torch.zeros(len(x), s.size, dtype=x.dtype), x.new_zeros(len(x), s.size)
        for step in x.unbind(1):
            h, c = s.cell(step, (h, c))
        return s.o(h)

    return Net(run, cell=nn.LSTMCell(10, 32), o=nn.Linear(32, 3), size=32)


@kind(lambda: (torch.randn(3, 5, 10), torch.tensor([3, 5, 2])), a=16, r=32)
def packed() -> nn.Module:
    def run(s: Any, x: Tensor, lengths: Tensor) -> Tensor:
        given = pack_padded_sequence(s.a(x), lengths, batch_first=True, enforce_sorted=False)
        return s.o(pad_packed_sequence(s.r(given)[0], batch_first=True)[0])

    rnn = nn.GRU(16, 32, 2, batch_first=True, bidirectional=True)
    return Net(run, a=nn.Linear(10, 16), r=rnn, o=nn.Linear(64, 3))


# --- attention ------------------------------------------------------------------------------------


def projections(queries: int = 32, keys: int = 32, **held: Any) -> dict[str, Any]:
    made = {"q": queries, "k": keys, "v": keys}
    layers = {name: nn.Linear(10, width) for name, width in made.items()}
    return {**layers, "o": nn.Linear(queries, 3), **held}


@kind(tokens, q=2)
def grouped_query_attention() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return s.o(y.transpose(1, 2).flatten(2))

    return Net(run, **projections(32, 16))


@kind(tokens, q=2)
def keys_repeated_by_hand() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, s.size).transpose(1, 2) for f in (s.q, s.k, s.v))
        k, v = (t[:, :, None].expand(-1, -1, s.times, -1, -1).flatten(1, 2) for t in (k, v))
        y = (q @ k.mT / math.sqrt(s.size)).softmax(-1) @ v
        return s.o(y.transpose(1, 2).reshape(b, n, -1))

    return Net(run, **projections(32, 16, size=8, times=2))


@kind(tokens, q=4)
def multi_query_attention() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = s.q(x).view(b, n, s.heads, -1).transpose(1, 2)
        k, v = s.k(x).unsqueeze(1), s.v(x).unsqueeze(1)
        y = (q @ k.mT * 0.35).softmax(-1) @ v
        return s.o(y.transpose(1, 2).reshape(b, n, -1))

    return Net(run, **projections(32, 8, heads=4))


@kind(tokens, q=6)
def as_many_heads_as_wide() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, s.heads, s.size).transpose(1, 2) for f in (s.q, s.k, s.v))
        y = (q @ k.mT / 8).softmax(-1) @ v
        return s.o(y.transpose(1, 2).reshape(b, n, s.heads * s.size))

    return Net(run, **projections(36, 36, heads=6, size=6))


@kind(tokens, a=4)
def width_of_the_input() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        b, n, c = x.shape
        q, k, v = s.qkv(x).reshape(b, n, 3, s.heads, c // s.heads).permute(2, 0, 3, 1, 4)
        y = ((q @ k.mT * 0.35).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return s.o(x + s.p(y))

    return Net(run, **ends(32), qkv=nn.Linear(32, 96), p=nn.Linear(32, 32), heads=4)


@kind(lambda: (torch.randn(2, 5, 10), torch.randn(2, 4, 10)), a=4, b=24, **{"m.out_proj": 32})
def multihead_attention() -> nn.Module:
    attention = nn.MultiheadAttention(32, 4, kdim=24, vdim=24, batch_first=True)
    return Net(
        lambda s, x, y: s.o(s.m(s.a(x), s.b(y), s.b(y))[0]),
        **ends(32),
        b=nn.Linear(10, 24),
        m=attention,
    )


@kind(lambda: (torch.randn(2, 5, 10), torch.randn(2, 4, 10)), a=4, **{"d.linear1": 48})
def decoder_layer() -> nn.Module:
    layer = nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    return Net(lambda s, x, y: s.o(s.d(s.a(x), s.a(y))), **ends(32), d=layer)


@kind(tokens, q=4)
def cache_beside_the_answer() -> nn.Module:
    def run(s: Any, x: Tensor) -> dict[str, Any]:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 8).transpose(1, 2) for f in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return {"logits": s.o(y), "past_key_values": [(k, v)]}

    return Net(run, **projections())


# --- sizes held in Python -------------------------------------------------------------------------


@kind(rows, a=16)
def zeros_of_a_shape() -> nn.Module:
    return Net(lambda s, x: s.o(torch.maximum(s.a(x), torch.zeros(s.a(x).shape))), **ends())


@kind(rows, a=16)
def full_of_an_attribute() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.o(torch.where(x > 0, x, torch.full((len(x), s.a.out_features), -1.0)))

    return Net(run, **ends())


@kind(tokens, a=16)
def zeros_before_the_first_step() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.o(torch.cat([x.new_zeros(x.shape[0], 1, x.shape[2]), x], 1))

    return Net(run, **ends())


@kind(rows, a=16)
def written_into_zeros() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), s.width)
        out[:2] = s.a(x)[:2]
        return s.o(out)

    return Net(run, **ends(), width=16)


@kind(rows, l=32, c=24)
def image_from_a_vector() -> nn.Module:
    layers = {"l": nn.Linear(10, 32 * 16), "c": nn.Conv2d(32, 24, 3), "o": nn.Conv2d(24, 3, 1)}
    return Net(lambda s, x: s.o(s.c(s.l(x).view(len(x), s.width, 4, 4))), **layers, width=32)


@kind(rows, **{"0": 48, "3": 32})
def decoder() -> nn.Module:
    up = nn.ConvTranspose2d(48, 32, 4, 2, 1)
    first = [nn.Linear(20 // 2, 48 * 16), nn.ReLU(), nn.Unflatten(1, (-1, 4, 4))]
    return nn.Sequential(*first, up, nn.ReLU(), nn.Conv2d(32, 3, 3))


@kind(rows, a=16)
def size_in_a_tuple() -> nn.Module:
    return Net(
        lambda s, x: s.o(s.a(x) * s.g.view(s.shape)), **ends(), g=parameter(16), shape=(1, 16)
    )


@kind(rows, a=16, b=12)
def sizes_in_a_list() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        return s.o(s.b(s.a(x).view(-1, s.sizes[0])).view(-1, s.sizes[1]))

    return Net(run, a=nn.Linear(10, 16), b=nn.Linear(16, 12), o=nn.Linear(12, 3), sizes=[16, 12])


@kind(rows, a=16)
def size_in_an_object() -> nn.Module:
    config = SimpleNamespace(width=16, name="net")
    return Net(lambda s, x: s.o(s.a(x).view(-1, s.config.width)), **ends(), config=config)


@kind(rows, a=16)
def half_of_an_attribute() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        one, two = torch.split(s.a(x), s.width // 2, 1)
        return s.o(one) + s.p(two)

    return Net(run, a=nn.Linear(10, 32), o=nn.Linear(16, 3), p=nn.Linear(16, 3), width=32)


@kind(rows, a=16)
def halves_by_slicing() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        half = x.shape[1] // 2
        return s.o(x[:, :half] * torch.sigmoid(x[:, half:]))

    return Net(run, a=nn.Linear(10, 32), o=nn.Linear(16, 3))


@kind(rows, **{"a": 16, "a#2": 8})
def unequal_parts() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        one, two = s.a(x).split(s.sizes, -1)
        return s.o(one) + s.p(two)

    return Net(run, a=nn.Linear(10, 24), o=nn.Linear(16, 3), p=nn.Linear(8, 3), sizes=[16, 8])


@kind(rows, a=16)
def width_checked() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        if x.shape[-1] != s.width:
            raise ValueError(f"{s.width} features are expected")
        return s.o(x)

    return Net(run, **ends(), width=16)


# --- norms ----------------------------------------------------------------------------------------


@kind(rows, a=16)
def rms_norm_by_hand() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.o(s.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)))

    return Net(run, **ends(), g=parameter(16))


@kind(rows, a=16)
def layer_norm_by_hand() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        centred = x - x.mean(-1, keepdim=True)
        return s.o(centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5))

    return Net(run, **ends())


@kind(rows, a=16)
def norm_of_two_moments() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        mean = x.mean(1, True)
        return s.o((x - mean) * ((x * x).mean(1, True) - mean**2 + 1e-5) ** -0.5)

    return Net(run, **ends())


@kind(rows, a=16)
def norm_of_torch_without_weights() -> nn.Module:
    layers = {"n": nn.RMSNorm(16, elementwise_affine=False)}
    return Net(
        lambda s, x: s.o(F.layer_norm(s.n(s.a(x)), s.shape)), **ends(), **layers, shape=(16,)
    )


@kind(image, a=8)
def group_norm_without_weights() -> nn.Module:
    layers = {"a": nn.Conv2d(3, 16, 1), "o": nn.Conv2d(16, 3, 1)}
    return Net(
        lambda s, x: s.o(torch.sigmoid(s.n(s.a(x)))), n=nn.GroupNorm(2, 16, affine=False), **layers
    )


@kind(image, a=16, b=12)
def standardized_weights() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        w = s.b.weight
        variance, mean = torch.var_mean(w, (1, 2, 3), keepdim=True)
        x = F.conv2d(torch.sigmoid(s.a(x)), (w - mean) / torch.sqrt(variance + 1e-5), s.b.bias)
        return s.o(torch.sigmoid(x))

    convs = {"a": nn.Conv2d(3, 16, 1), "b": nn.Conv2d(16, 12, 3), "o": nn.Conv2d(12, 3, 1)}
    return Net(run, **convs)


@kind(rows, a=16)
def cosine_of_weights() -> nn.Module:
    return Net(
        lambda s, x: F.linear(F.normalize(s.a(x)), F.normalize(s.w)),
        a=nn.Linear(10, 16),
        w=parameter(3, 16),
    )


# --- other contractions ---------------------------------------------------------------------------


@kind(rows, a=16, m=12)
def bilinear() -> nn.Module:
    layers = {"a": nn.Linear(10, 16), "m": nn.Bilinear(16, 10, 12), "o": nn.Linear(12, 3)}
    return Net(lambda s, x: s.o(torch.relu(s.m(s.a(x), x))), **layers)


@kind(rows, u=20)
def experts_by_index() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        chosen = s.g(x).argmax(-1)
        return torch.bmm(s.d[chosen], torch.relu(torch.bmm(s.u[chosen], x.unsqueeze(-1))))

    return Net(run, g=nn.Linear(10, 4), u=parameter(4, 20, 10), d=parameter(4, 3, 20))


@kind(rows, a=16, u=20)
def experts_in_a_loop() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x, chosen = s.a(x), s.g(x).argmax(-1)
        out = torch.zeros_like(x)
        for expert in chosen.unique():
            at = torch.where(chosen == expert)[0]
            out.index_add_(0, at, F.linear(F.linear(x[at], s.u[expert]), s.d[expert]))
        return s.o(out)

    return Net(run, **ends(), g=nn.Linear(10, 4), u=parameter(4, 20, 16), d=parameter(4, 16, 20))


@kind(rows, u=20, d=16)
def experts_weighed() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("bd,edh->beh", x, s.u))
        return s.o(torch.einsum("beh,ehd,be->bd", hidden, s.d, s.g(x).softmax(-1)))

    banks = {"u": parameter(4, 10, 20), "d": parameter(4, 20, 16)}
    return Net(run, g=nn.Linear(10, 4), o=nn.Linear(16, 3), **banks)


@kind(tokens, a=16, c=12)
def weight_norm_of_each_position() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        return s.o(torch.sigmoid(s.c(s.a(x).mT)).mT)

    conv = parametrizations.weight_norm(nn.Conv1d(16, 12, 3, padding=1), dim=2)
    return Net(run, a=nn.Linear(10, 16), c=conv, o=nn.Linear(12, 3))
