"""Contractions: convolutions of every kind, matrix products, attention."""

from __future__ import annotations

import copy

import pytest
import torch
from models.cutting import gap, random_keep
from models.through import units_of
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning.masks import masked
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable

CONVOLUTIONS = {
    "1d": (lambda i, o: nn.Conv1d(i, o, 3), (2, 3, 12)),
    "2d": (lambda i, o: nn.Conv2d(i, o, 3), (2, 3, 8, 8)),
    "3d": (lambda i, o: nn.Conv3d(i, o, 2), (2, 3, 5, 5, 5)),
    "transposed": (lambda i, o: nn.ConvTranspose2d(i, o, 3, stride=2), (2, 3, 4, 4)),
    "dilated": (lambda i, o: nn.Conv2d(i, o, 3, dilation=2), (2, 3, 12, 12)),
}


def checked(model: nn.Module, *inputs: Tensor) -> PruningGraph:
    """The graph of a model, after comparing the pruned with the masked one."""
    (x,) = inputs
    graph = prunable(model.eval(), x)
    assert graph.groups
    assert gap(model, graph, random_keep(graph, 1), x, train=False) < 1e-9
    return graph


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_outputs_of_one_are_inputs_of_the_next(kind: str) -> None:
    make, shape = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    graph = checked(nn.Sequential(make(3, 8), nn.ReLU(), make(8, 4)), torch.randn(shape))
    group = graph.group("0")
    roles = {(piece.tensor, piece.role) for piece in group.slices}
    assert roles == {("0.weight", "out"), ("0.bias", "out"), ("2.weight", "in")}


@pytest.mark.parametrize(
    ("groups", "units"), [(8, 8), (4, 4), (2, 4)], ids=["depthwise", "many", "two"]
)
def test_grouped_convolutions_stay_grouped(groups: int, units: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 4, 1))
    assert units_of(checked(net, torch.randn(2, 3, 6, 6)), "0") == units


class Tokens(nn.Module):
    """A convolution over tokens, whose spatial dimension is the channels (gMLP)."""

    def __init__(self, size: int, bias: bool, summed: bool) -> None:
        super().__init__()
        self.a, self.summed = nn.Linear(6, 8), summed
        self.mix = nn.Conv1d(5, 7, size, padding=size // 2, bias=bias)
        self.b = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.a(x))
        return self.b(y * y.sum(-1, keepdim=True) if self.summed else y)


@pytest.mark.parametrize(
    ("size", "bias", "summed"),
    [
        (1, True, False),
        (1, False, True),
        (1, True, True),  # the bias is added at pruned positions, too
        (3, True, False),  # zeros take the places of what is pruned
        (3, True, True),
    ],
)
def test_a_convolution_over_channels_passes_them_on(size: int, bias: bool, summed: bool) -> None:
    torch.manual_seed(0)
    net, x = Tokens(size, bias, summed).eval(), torch.randn(2, 5, 6)
    graph = prunable(net, x)
    assert units_of(graph, "a") == 8
    assert gap(net, graph, random_keep(graph, 1), x, train=False) < 1e-9


class Distances(nn.Module):
    """Distances to prototypes, and between tokens, by the norm p."""

    def __init__(self, p: float, tokens: int, sigmoid: bool) -> None:
        super().__init__()
        self.p, self.sigmoid = p, sigmoid
        self.a, self.prototypes = nn.Linear(6, 8), nn.Parameter(torch.randn(3, 8))
        self.head = nn.Linear(3 + tokens, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).sigmoid() if self.sigmoid else self.a(x).relu()
        to_others = torch.cdist(x, 2.0 * x, p=self.p)
        to_prototypes = torch.cdist(x, self.prototypes.expand(len(x), -1, -1), p=self.p)
        return self.head(torch.cat([to_prototypes, to_others], -1))


@pytest.mark.parametrize(("p", "tokens"), [(2.0, 5), (2.0, 30), (1.0, 5), (float("inf"), 5)])
def test_features_of_distances_are_prunable(p: float, tokens: int) -> None:
    torch.manual_seed(0)
    graph = checked(Distances(p, tokens, sigmoid=False), torch.randn(2, tokens, 6))
    assert graph.sizes() == {"a": 8}
    assert ("prototypes", 1, "in") in {(s.tensor, s.dim, s.role) for s in graph.groups[0].slices}
    kept = prunable(Distances(p, tokens, sigmoid=True).eval(), torch.randn(2, tokens, 6))
    assert kept.groups == ()


class Held(nn.Module):
    """A grouped convolution by function; the number of groups is an attribute."""

    def __init__(self, per_group: int = 1, *, transposed: bool = False, named: bool = True) -> None:
        super().__init__()
        self.dim, self.named = 16 // per_group, named
        self.run = F.conv_transpose2d if transposed else F.conv2d
        self.weight = nn.Parameter(torch.rand(16, per_group, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.named:
            return self.run(x, self.weight, groups=self.dim)
        return self.run(x, self.weight, None, 1, 0, 1, self.dim)


@pytest.mark.parametrize(
    ("middle", "units"),
    [
        (Held(), 16),
        (Held(named=False), 16),
        (Held(transposed=True), 16),
        (Held(per_group=2), 8),
    ],
)
def test_an_attribute_that_is_the_number_of_groups_follows(middle: Held, units: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), middle, nn.Conv2d(16, 4, 1))
    graph = checked(net, torch.randn(2, 3, 6, 6))
    assert units_of(graph, "0") == units
    assert {(a.module, a.name) for a in graph.attributes if not a.guessed} >= {("2", "dim")}
    small = copy.deepcopy(net)
    prune(small, graph, {graph.groups[0].name: [0, 2, 3]})
    assert small[2].dim == 3


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(6, 8), nn.Linear(6, 10), nn.Bilinear(8, 10, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.a(x), self.b(x)))


def test_both_inputs_and_the_output_of_a_bilinear_layer_are_prunable() -> None:
    torch.manual_seed(0)
    graph = checked(Bilinear(), torch.randn(4, 6))
    assert graph.sizes() == {"a": 8, "b": 10, "mix": 7}


class Attention(nn.Module):
    """Queries, keys and values by own layers; `shared` query heads a key head."""

    def __init__(self, heads: int = 4, shared: int = 1, *, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.shared, self.fused, self.width = heads, shared, fused, 6
        few = heads // shared * self.width
        self.q = nn.Linear(8, heads * self.width)
        self.k, self.v = nn.Linear(8, few), nn.Linear(8, few)
        self.out = nn.Linear(heads * self.width, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared > 1)
        else:
            scores = (q @ k.transpose(-2, -1)) * self.width**-0.5
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("fused", [True, False])
def test_heads_are_the_units_of_attention(fused: bool) -> None:
    torch.manual_seed(0)
    graph = checked(Attention(fused=fused), torch.randn(2, 7, 8))
    heads = [group for group in graph.groups if group.size == 4]
    assert len(heads) == 1
    tensors = {piece.tensor for piece in heads[0].slices}
    assert {"q.weight", "k.weight", "v.weight", "out.weight"} <= tensors


def test_query_heads_that_share_keys_are_pruned_together() -> None:
    torch.manual_seed(0)
    graph = checked(Attention(heads=4, shared=2), torch.randn(2, 7, 8))
    assert sorted(group.size for group in graph.groups)[0] == 2


class OwnAttention(nn.Module):
    """Attention by layers of its own, in heads of three features."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v = nn.Linear(20, 12, bias=False), nn.Linear(20, 12), nn.Linear(20, 12)
        self.mix = nn.Linear(12, 20)

    def forward(self, queries: Tensor, x: Tensor, _: Tensor) -> tuple[Tensor]:
        given = ((self.q, queries), (self.k, x), (self.v, x))
        q, k, v = (f(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, z in given)
        scores = (q @ k.transpose(-2, -1)) * 3**-0.5
        return (self.mix((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)),)


class Pooled(nn.Module):
    """Three learned queries attend to the tokens."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.queries = nn.Linear(6, 20), nn.Parameter(torch.randn(1, 3, 20))
        self.norm, self.attention, self.head = nn.LayerNorm(20), attention, nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.attention(self.norm(self.queries).repeat(len(x), 1, 1), x, x)[0])


def test_learned_queries_are_activations() -> None:
    torch.manual_seed(0)
    net = Pooled(OwnAttention())
    graph = checked(net, torch.randn(2, 7, 6))
    assert graph.sizes() == {"stem": 20, "attention.q": 4, "attention.mix": 20}
    assert graph.group("attention.q").kind == "head"
    assert {frozen.name for frozen in graph.frozen} == {"head"}  # the number of queries is none
    small = copy.deepcopy(net)
    prune(small, graph, {"attention.q": [0, 2]})
    assert small.attention.heads == 2
    assert small.attention.q.weight.shape == (2 * 3, 20)


def test_learned_queries_leave_the_heads_of_torch_prunable() -> None:
    torch.manual_seed(0)
    net = Pooled(nn.MultiheadAttention(20, 4, batch_first=True))
    graph = checked(net, torch.randn(2, 7, 6))
    assert graph.sizes() == {"stem": 4, "attention.out_proj": 20}
    small = copy.deepcopy(net)
    prune(small, graph, {"stem": [0, 2]})
    assert (small.attention.num_heads, small.attention.head_dim) == (2, 5)


class Masked(nn.Linear):
    """A linear layer whose weight has a fixed mask (MADE)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside)
        self.register_buffer("mask", (torch.rand(outside, inside) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.get_buffer("mask"), self.bias)


def test_features_of_a_layer_with_a_computed_weight_follow() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Masked(6, 8), nn.ReLU(), Masked(8, 10), nn.Linear(10, 3))
    graph = checked(net, torch.randn(4, 6))
    prune(net, graph, {"0": [0, 3, 4], "2": [1, 2]})
    assert [(m.in_features, m.out_features) for m in (net[0], net[2])] == [(6, 3), (3, 2)]


class Generated(nn.Module):
    """A weight that other layers make of a learned vector (a hypernetwork)."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.inside, self.outside = nn.Parameter(torch.randn(5)), 8, 10
        self.maker = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 8 * 10))
        self.a, self.head = nn.Linear(6, 8), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(self.vector).view(self.outside, self.inside)
        return self.head(F.linear(self.a(x), weight).relu())


def test_a_generated_weight_follows_the_features_that_it_reads() -> None:
    torch.manual_seed(0)
    net = Generated()
    graph = checked(net, torch.randn(4, 6))
    assert graph.sizes() == {"maker.0": 6, "maker.2": 8}  # the second with the outputs of a
    prune(net, graph, {"maker.2": [0, 3, 4]})
    assert (net.inside, net.outside, net.maker[2].out_features) == (3, 10, 30)


def test_the_rank_of_a_computed_weight_is_not_taken_for_its_features() -> None:
    class LowRank(nn.Linear):
        def __init__(self, inside: int, outside: int) -> None:
            super().__init__(inside, outside, bias=False)
            self.a, self.b = nn.Linear(inside, inside), nn.Linear(inside, outside)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight + 2.0 * self.b.weight @ self.a.weight)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), LowRank(8, 10), nn.ReLU(), nn.Linear(10, 3))
    graph = checked(net, torch.randn(4, 6))
    prune(net, graph, {"0": [0, 3, 4], "1": [1, 2]})
    assert (net[1].in_features, net[1].out_features) == (3, 2)


def test_a_low_rank_term_made_of_a_layers_own_parameters_stays_a_weight() -> None:
    class LowRank(nn.Module):
        def __init__(self, inside: int, outside: int) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(2, inside)), nn.Linear(2, outside, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.b.weight @ self.a)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), LowRank(8, 10), nn.ReLU(), nn.Linear(10, 3))
    assert checked(net, torch.randn(4, 6)).sizes() == {"0": 8, "1.b": 10}


class Repeated(nn.Module):
    """Keys and values repeated for the heads that share them, as often as computed by `ratio`."""

    def __init__(self, ratio: str) -> None:
        super().__init__()
        self.heads, self.few, self.width, self.ratio = 6, 3, 4, ratio
        self.q, self.k = nn.Linear(8, 24), nn.Linear(8, 12)
        self.v, self.out = nn.Linear(8, 12), nn.Linear(24, 5)

    def repeated(self, x: Tensor, q: Tensor) -> Tensor:
        batch, few, tokens, width = x.shape
        x = x[:, :, None]
        if self.ratio == "shapes":
            times = q.shape[1] // few
            return x.expand(batch, few, times, tokens, width).reshape(batch, -1, tokens, width)
        times = self.heads // self.few
        if self.ratio == "heads":
            return x.expand(batch, few, times, tokens, width).reshape(
                batch, self.heads, tokens, width
            )
        return x.expand(-1, -1, times, -1, -1).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.width).transpose(1, 2)
        k, v = (
            layer(x).view(batch, tokens, self.few, self.width).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, self.repeated(k, q), self.repeated(v, q))
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


@pytest.mark.parametrize("ratio", ["attributes", "heads", "shapes"])
def test_keys_may_be_repeated_by_a_ratio_of_sizes(ratio: str) -> None:
    torch.manual_seed(0)
    net, x = Repeated(ratio), torch.randn(2, 7, 8)
    graph = checked(net, x)
    assert graph.sizes() == {"q": 3}  # a key head with its two query heads
    small = copy.deepcopy(net)
    prune(small, graph, {"q": [2]})
    assert (small.heads, small.few, small.width) == (2, 1, 4)
    assert small(x).shape == (2, 7, 5)


class Interleaved(nn.Module):
    """Rows of one layer: for each key head its query heads, itself, its value head (litgpt)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.few, self.width = 4, 2, 4
        self.qkv, self.out = nn.Linear(8, (4 + 2 * 2) * 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        times = self.heads // self.few
        y = self.qkv(x).view(batch, tokens, self.few, times + 2, self.width)
        q, k, v = y.permute(0, 2, 3, 1, 4).split((times, 1, 1), dim=2)
        k, v = (z.expand(batch, self.few, times, tokens, self.width) for z in (k, v))
        q, k, v = (z.reshape(batch, -1, tokens, self.width) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(batch, tokens, self.width * self.heads))


def test_rows_may_be_interleaved_by_key_head() -> None:
    torch.manual_seed(0)
    net, x = Interleaved(), torch.randn(2, 7, 8)
    graph = checked(net, x)
    assert graph.sizes() == {"qkv": 2}
    small = copy.deepcopy(net)
    prune(small, graph, {"qkv": [1]})
    assert (small.heads, small.few, small.width) == (2, 1, 4)
    torch.testing.assert_close(small.qkv.weight, net.qkv.weight[16:])


class Fused(nn.Module):
    """Queries, keys and values of one layer, cut by slices; two query heads share keys (Phi-3)."""

    def __init__(self, *, mixed_up: bool = False) -> None:
        super().__init__()
        self.heads, self.few, self.width, self.mixed_up = 4, 2, 6, mixed_up
        self.qkv, self.out = nn.Linear(8, (4 + 2 * 2) * 6), nn.Linear(4 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, first, each = self.qkv(x), self.heads * self.width, self.few * self.width
        parts = (y[..., :first], y[..., first : first + each], y[..., first + each :])
        if self.mixed_up:
            parts = (y[..., first:], y[..., :each], y[..., each:first])
        q, k, v = (part.unflatten(-1, (-1, self.width)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(-2))


def test_slices_at_sums_of_attributes_leave_heads_prunable() -> None:
    torch.manual_seed(0)
    net, x = Fused(), torch.randn(2, 7, 8)
    graph = checked(net, x)
    assert graph.sizes() == {"qkv": 2}  # a key head with its two query heads
    small = copy.deepcopy(net)
    prune(small, graph, {"qkv": [1]})
    assert (small.heads, small.few, small.width) == (2, 1, 6)
    assert small.qkv.weight.shape == ((2 + 2) * 6, 8)
    by_hand = Fused()
    by_hand.heads, by_hand.few = 2, 1
    rows = [*range(12, 24), *range(30, 36), *range(42, 48)]
    by_hand.qkv, by_hand.out = nn.Linear(8, 24), nn.Linear(12, 5)
    with torch.no_grad():
        by_hand.qkv.weight.copy_(net.qkv.weight[rows])
        by_hand.qkv.bias.copy_(net.qkv.bias[rows])
        by_hand.out.weight.copy_(net.out.weight[:, 12:])
        by_hand.out.bias.copy_(net.out.bias)
    torch.testing.assert_close(small(x), by_hand(x))


def test_sums_that_cut_other_heads_than_they_count_are_not_followed() -> None:
    torch.manual_seed(0)
    net, x = Fused(mixed_up=True).eval(), torch.randn(2, 7, 8)
    graph = prunable(net, x)
    assert gap(net, graph, random_keep(graph, 1), x, train=False) < 1e-9


def test_a_product_with_a_constant_matrix_fixes_what_it_contracts() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(5, 9), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x) @ x.new_ones(8, 5)))

    torch.manual_seed(0)
    graph = checked(Mixed(), torch.randn(4, 6))
    assert units_of(graph, "a") == 0
    assert units_of(graph, "b") == 9


class Neighbors(nn.Module):
    """A graph convolution: sums of each node's neighbors, by a sparse matrix."""

    def __init__(self, held: Tensor | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 3)
        self.register_buffer("held", held)

    def forward(self, x: Tensor, adjacency: Tensor | None = None) -> Tensor:
        matrix = self.held if adjacency is None else adjacency
        return self.b(torch.relu(torch.sparse.mm(matrix, self.a(x))))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("held", [False, True], ids=["input", "buffer"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=["coo", "csr"])
def test_channels_pass_through_a_sparse_matrix(layout: torch.layout, held: bool) -> None:
    torch.manual_seed(0)
    matrix = (torch.eye(6) + torch.eye(6).roll(1, 0)).to_sparse(layout=layout)
    net, x = Neighbors(matrix if held else None).eval(), torch.randn(6, 8)
    inputs = (x,) if held else (x, matrix)
    graph = prunable(net, inputs)
    assert [(group.name, group.size) for group in graph.groups] == [("a", 32)]
    keep = {"a": [1, 4, 30]}
    small, dense = replica(net), masked(net, graph, keep)
    prune(small, graph, keep)
    assert small.a.weight.shape == (3, 8)
    torch.testing.assert_close(small(*inputs), dense(*inputs))


def test_a_matrix_applied_to_a_sparse_input_is_pruned() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(8, 32)), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sparse.mm(x, self.w))

    graph = prunable(Net(), torch.eye(8).to_sparse())
    assert [(group.name, group.size) for group in graph.groups] == [("w", 32)]
