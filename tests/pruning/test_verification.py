from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable

import pytest
import torch
from models.cutting import answers, random_keep
from models.zoo import ZOO, settled
from models.zoo_hard import HARD
from models.zoo_kinds import KINDS
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.pruning.masks import masked
from autoprune.pruning.one_shot import groups, prune_model
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable, traced, trial_cuts, verify


@pytest.mark.parametrize("name", KINDS)
def test_the_groups_are_those_by_hand_and_the_smaller_model_equals_the_masked_one(
    name: str,
) -> None:
    torch.manual_seed(0)
    build, draw, sizes = KINDS[name]
    model, inputs = build(), draw()
    graph = prunable(model, inputs)
    assert graph.sizes() == sizes
    keep = random_keep(graph, 3)
    small, dense = copy.deepcopy(model), masked(model, graph, keep)
    prune(small, graph, keep)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    for training in (False, True):
        got = answers(small.double().train(training), inputs)
        wanted = answers(dense.double().train(training), inputs)
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-9


def test_a_size_held_by_hand_freezes_its_group_only() -> None:
    build, draw = HARD["by_hand"]
    model, x = build(), draw(2)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 8}
    (fault,) = [f for f in graph.frozen if f.name == "b"]
    assert fault.reason.startswith("the smaller model does not run: RuntimeError: shape '[-1, 12]'")
    assert fault.size == 12
    small = prune_model(model, x, 0.5)
    assert (small.a.out_channels, small.b.out_channels) == (4, 12)


def test_a_miswired_group_is_found_by_its_outputs() -> None:
    """A scale that is not registered: the trace sees a constant, and has to keep what it meets."""

    class Sneaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.b(torch.relu(self.a(x))))
            scale = len(x[0]) / 4  # a number that depends on the width
            return self.c(x * scale)

    torch.manual_seed(0)
    model, x = Sneaky(), torch.randn(5, 4)
    traced = trace(model, x)
    assert traced.sizes() == {"a": 8, "b": 8}
    graph = verify(model, traced, x)
    assert graph.sizes() == {"a": 8}
    assert graph.frozen[-1].reason.startswith("the smaller model differs from the masked one")


def test_a_transformer_of_torch_loses_heads_with_their_share_of_the_width() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model, x = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), torch.randn(2, 5, 6)
    graph = prunable(model, x)
    assert graph.sizes() == {"0": 2, "1.linear1": 16}
    assert [group.kind for group in graph.groups] == ["head", "ffn"]
    small = prune_model(model, x, 0.5)
    assert (small[0].out_features, small[1].linear1.out_features) == (4, 8)
    attention = small[1].self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (4, 1, 4)
    assert small(x).shape == (2, 5, 3)


def test_a_last_layer_of_zeros_does_not_hide_a_fault() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.b.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.b(x * len(x[0]))

    graph = prunable(Scaled(), torch.randn(3, 4))
    (fault,) = [f for f in graph.frozen if f.name == "a"]
    assert fault.reason.startswith("the smaller model differs from the masked one")


class Hiding(nn.Module):
    """Attention between tokens whose scale is computed from the width in a way not followed."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(6, 16), nn.Linear(6, 16)
        self.v, self.o, self.answer = nn.Linear(6, 8), nn.Linear(8, 4), answer

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        scale = 4.0 / len(q[0, 0])
        return self.answer(self.o((q @ k.transpose(1, 2) * scale).softmax(-1) @ self.v(x)))


@pytest.mark.parametrize(
    ("answer", "x", "scaled"),
    [
        (nn.Identity(), torch.zeros(1, 5, 6), 1.0),  # all tokens alike: all weights are 1/5
        (nn.Identity(), torch.ones(1, 5, 6), 1.0),
        (nn.Identity(), torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0)), 3e-4),
        (lambda x: x.argmax(-1), torch.zeros(1, 5, 6), 1.0),
        (lambda x: torch.complex(x, x), torch.zeros(1, 5, 6), 1.0),
    ],
)
def test_no_example_and_no_kind_of_output_hides_a_difference(
    answer: Callable[[Tensor], Tensor], x: Tensor, scaled: float
) -> None:
    torch.manual_seed(0)
    model = Hiding(answer)
    with torch.no_grad():
        model.q.weight *= scaled
        model.q.bias *= scaled
    assert prunable(model, x).sizes() == {"v": 8}


def test_rounding_of_the_models_precision_is_no_difference() -> None:
    """Sums of large numbers that cancel: right up to 1 % in single precision."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) + 1e4) - self.b.weight.sum(1) * 1e4

    torch.manual_seed(0)
    assert prunable(Cancelling(), torch.randn(3, 4)).sizes() == {"a": 16}


def test_verification_leaves_the_model_as_it_was() -> None:
    build, draw = ZOO["mobilenet_v2"]
    model, x = settled(build()).train(), draw(2)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    prunable(model, x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


class Windowed(nn.Module):
    """Attention whose width and longest sequence are the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.width = self.max_len = self.num_classes = 64
        self.heads = 4
        self.qkv, self.out = nn.Linear(6, 3 * 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -self.max_len :]
        n, length = x.shape[:2]
        parts = self.qkv(x).view(n, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, length, self.width))


def test_a_number_that_only_equals_a_width_stays() -> None:
    torch.manual_seed(0)
    model = Windowed().eval()
    small = prune_model(model, torch.randn(2, 5, 6), 0.5)
    assert small.qkv.out_features == 96
    assert (small.width, small.heads) == (32, 2)
    assert (small.max_len, small.num_classes) == (64, 64)
    assert small(torch.randn(1, 70, 6)).shape == (1, 64, 3)


def test_a_number_that_must_not_follow_a_width_freezes_nothing() -> None:
    class Framed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = self.frames = 16
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x[:, : self.frames]))
            return self.b(x.reshape(-1, self.hidden))

    small = prune_model(Framed(), torch.randn(2, 16, 4), 0.5)
    assert (small.a.out_features, small.hidden, small.frames) == (8, 8, 16)


class Noisy(nn.Module):
    """Noise of a size held by hand, only in training, which one more layer cannot do at all."""

    def __init__(self, *, trains: bool = True) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
        self.head, self.trains = nn.Linear(8, 2), trains

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        if self.training:
            assert self.trains
            x = x + 0.1 * torch.randn(x.shape[0], 16, 1, 1)
        return self.head(self.b(x).mean((2, 3)))


def test_a_size_held_only_in_training_freezes_its_group() -> None:
    model, x = Noisy().eval(), torch.randn(1, 3, 4, 4)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    graph = prunable(model, x)
    assert graph.sizes() == {"b": 8}
    (fault,) = [f for f in graph.frozen if f.name == "a"]
    assert fault.reason.startswith("the smaller model does not run in training mode: RuntimeError")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    prune_model(model, x, 0.5).train()(x.repeat(2, 1, 1, 1))


def test_a_model_that_does_not_train_on_its_example_is_judged_by_evaluation() -> None:
    assert prunable(Noisy(trains=False), torch.randn(1, 3, 4, 4)).sizes() == {"a": 16, "b": 8}


def test_a_model_that_is_built_again_is_mended_as_the_pruned_one_was() -> None:
    model, example = Windowed().eval(), torch.randn(2, 5, 6)
    graph = traced(model, example)
    assert {a.name for a in graph.attributes if a.guessed} == {
        a.name for a in prunable(model, example).attributes if a.guessed
    }
    assert "max_len" not in {a.name for a in graph.attributes}


class Literal(nn.Module):
    """A block whose widths are written out, so that none of its groups can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).view(-1, 6)).view(-1, 8)


def test_equal_layers_are_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.pruning import verification

    runs = []
    accept = verification._Trials.accept
    monkeypatch.setattr(
        verification._Trials, "accept", lambda s, names: (runs.append(1), accept(s, names))[1]
    )
    net = nn.Sequential(*[Literal() for _ in range(40)], nn.Linear(8, 5), nn.Linear(5, 2))
    graph = prunable(net, torch.randn(2, 8))
    assert graph.sizes() == {"40": 5}
    assert len({frozen.name for frozen in graph.frozen}) == 81
    assert len(runs) < 25


def test_a_model_from_which_next_to_nothing_leaves_is_told_with_the_reasons(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prune_model(Literal(), torch.randn(2, 8), 0.5)
    (record,) = caplog.records
    assert (
        "100 % of the parameters are kept although a ratio of 0.5 was requested" in record.message
    )
    assert "a: the smaller model does not run: RuntimeError: shape '[-1, 6]'" in record.message
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prune_model(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4), 0.5)
        prune_model(Literal(), torch.randn(2, 8), 0.0)
    assert not caplog.records


def test_a_model_without_parameters_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU()), torch.randn(2, 3, 4)  # as quantized ones
    with caplog.at_level(logging.WARNING):
        prune_model(model, x, 0.0)
    assert not caplog.records
    prune_model(model, x, 0.5)
    (record,) = caplog.records
    assert record.message.startswith("nothing is pruned although a ratio of 0.5 was requested: ")
    assert "the model has no parameters" in record.message


class Follower(nn.Module):
    """A second branch that moves towards the first one whenever the model trains."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for one, other in zip(self.q.parameters(), self.k.parameters(), strict=True):
                    other.lerp_(one, 0.1)
            return self.q(x) + self.k(x)
        return self.q(x)


def test_looking_at_a_model_that_changes_its_parameters_changes_none() -> None:
    model = Follower().eval()
    before = copy.deepcopy(model.state_dict())
    groups(model, torch.randn(2, 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_model_is_pruned_as_the_module_behind_it() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    small = prune_model(torch.compile(net, backend="eager"), torch.zeros(1, 4), 0.5)
    assert isinstance(small, nn.Sequential)
    assert small[0].out_features == 4


class Momentum(nn.Module):
    """A teacher that follows the student in training: their widths must stay the same."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.student, self.teacher = (
            nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
                for one, other in pairs:
                    other.mul_(0.9).add_(one, alpha=0.1)
        return self.student(x) - self.teacher(x).detach()


@pytest.mark.parametrize(
    "widths", [(4, 12, 16, 20, 8), (4, 12, 12, 12, 8), (4, *[6] * 9, 8), (4, *[6] * 12, 8)]
)
def test_widths_that_must_be_equal_in_training_stay(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    graph = prunable(Momentum(widths), torch.randn(4, 4))
    assert graph.sizes() == {}
    reasons = {f.reason.partition(":")[0] for f in graph.frozen if f.reason != "model output"}
    assert reasons == {"the smaller model does not run in training mode"}


@pytest.mark.parametrize("size", [5, 6, 9, 12, 64])
def test_no_two_rows_of_groups_that_follow_each_other_are_cut_alike(size: int) -> None:
    cuts = list(trial_cuts({str(n): size for n in range(80)}).values())
    counts = [len(kept) for kept in cuts]
    for start in range(80):
        for layers in range(1, (80 - start) // 2 + 1):
            middle = start + layers
            assert counts[start:middle] != counts[middle : middle + layers]
    assert all(size // 3 <= count < size for count in counts)
    assert all(len(set(kept)) == len(kept) and max(kept) < size for kept in cuts)


def test_small_groups_lose_something() -> None:
    sizes = {"a": 2, "b": 2, "c": 3, "d": 3, "e": 4}
    assert [len(kept) for kept in trial_cuts(sizes).values()] == [1, 1, 2, 1, 3]
