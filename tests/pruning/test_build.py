"""From an architecture to a smaller model: which units stay, and what is refused."""

from __future__ import annotations

import pytest
import torch
from models.cutting import masked
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.errors import GraphError, UsageError
from autoprune.graph import PruningGraph, trace
from autoprune.pruning.build import build, narrowed, newly_dropped, shrink, units_of
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.sparsity import Choice


class Net(nn.Module):
    """A stem, a residual block, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.block(x)))


X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
SCORES = {"stem": torch.arange(8.0), "block.0": torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0, 2.0])}


@pytest.fixture
def made() -> tuple[nn.Module, PruningGraph]:
    torch.manual_seed(0)
    model = Net().eval()
    return model, trace(model, X)


def graph() -> PruningGraph:
    return trace(Net(), X)


def test_the_graph_of_the_net() -> None:
    found = graph()
    assert found.sizes() == {"stem": 8, "block.0": 6}
    assert [block.name for block in found.blocks] == ["block"]


def test_the_best_units_stay_and_of_equal_ones_the_first() -> None:
    architecture = Architecture({"stem": 2, "block.0": 2})
    assert units_of(graph(), architecture, SCORES) == {"stem": (6, 7), "block.0": (1, 2)}


def test_groups_that_keep_all_or_are_not_named_need_no_scores() -> None:
    assert units_of(graph(), Architecture({"stem": 8}), None) == {}
    assert units_of(graph(), Architecture(), None) == {}


def test_units_may_be_given() -> None:
    given = {"stem": (1, 5), "block.0": (0, 1, 2, 3, 4, 5)}
    assert units_of(graph(), Architecture({"stem": 2}), None, given) == {"stem": (1, 5)}


@pytest.mark.parametrize(
    ("architecture", "kept", "says"),
    [
        (
            Architecture({"stem": 3}),
            None,
            "the kept units must be given by scores or by kept_indices",
        ),
        (
            Architecture({"stem": 3}),
            {"stem": (1,)},
            "kept_indices['stem'] must hold 3 units, got 1",
        ),
        (Architecture({"stem": 3}), {}, "kept_indices['stem'] must hold 3 units, got 0"),
        (Architecture({"stem": 9}), None, "widths['stem'] must be at most 8, got 9"),
    ],
)
def test_what_does_not_say_which_units_is_refused(
    architecture: Architecture, kept: dict[str, tuple[int, ...]] | None, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        units_of(graph(), architecture, None, kept)
    assert str(caught.value) == says


def test_a_group_that_does_not_exist_is_refused_unless_it_went_with_a_block() -> None:
    inside = Architecture({"block.0": 2, "stem": 4}, ["block"])
    assert narrowed(graph(), inside) == {"stem": 4}
    shorter = graph().without(["block"])
    assert narrowed(shorter, inside) == {"stem": 4}
    assert newly_dropped(graph(), inside) == ["block"]
    assert newly_dropped(shorter, inside) == []
    with pytest.raises(GraphError, match=r"^group must be one of .*, got 'stam' · the nearest is"):
        narrowed(graph(), Architecture({"stam": 4}))


def test_the_smaller_model_is_the_masked_one_and_the_dense_one_stays(
    made: tuple[nn.Module, PruningGraph],
) -> None:
    dense, found = made
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    kept = {"stem": (0, 3, 7), "block.0": (2, 5)}
    small = build(dense, found, Architecture({"stem": 3, "block.0": 2}), kept_indices=kept)
    torch.testing.assert_close(small.model(X), masked(dense, found, kept)(X))
    assert small.kept_indices == kept
    assert small.graph.sizes() == {"stem": 3, "block.0": 2}
    assert small.masks == {}
    assert all(torch.equal(dense.state_dict()[name], value) for name, value in before.items())


def test_keeping_everything_changes_nothing(made: tuple[nn.Module, PruningGraph]) -> None:
    dense, found = made
    whole = build(
        dense, found, Architecture.dense(found.sizes()), calibration=calibrate(dense, [X])
    )
    assert torch.equal(whole.model(X), dense(X))
    assert whole.model is not dense


def test_a_dropped_block_leaves_what_goes_around_it(
    made: tuple[nn.Module, PruningGraph],
) -> None:
    dense, found = made
    small = build(dense, found, Architecture({}, ["block"]))
    wanted = dense.head(torch.relu(torch.relu(dense.stem(X))))
    torch.testing.assert_close(small.model(X), wanted)
    assert small.graph.dropped == frozenset({"block"})


def test_a_calibration_brings_the_outputs_nearer(made: tuple[nn.Module, PruningGraph]) -> None:
    dense, found = made
    architecture = Architecture({"stem": 4, "block.0": 3})
    plain, repaired = (
        build(dense, found, architecture, scores=SCORES, calibration=calibration).model(X)
        for calibration in (None, calibrate(dense, [X]))
    )
    wanted = dense(X)
    assert (repaired - wanted).square().mean() < 0.5 * (plain - wanted).square().mean()


def test_patterns_count_on_the_inputs_that_are_left(
    made: tuple[nn.Module, PruningGraph],
) -> None:
    dense, found = made
    architecture = Architecture(
        {"stem": 4}, patterns={"block.0.weight": "2:4", "head.weight": "0.5"}
    )
    small = build(dense, found, architecture, scores=SCORES, choice=Choice())
    assert {name: int(mask.sum()) for name, mask in small.masks.items()} == {
        "block.0.weight": 6 * 2,
        "head.weight": 6,
    }
    weights = dict(small.model.named_parameters())
    for name, mask in small.masks.items():
        assert (weights[name][mask > 0] == 0).all()
        assert (weights[name][mask == 0] != 0).all()


def test_patterns_of_a_dropped_block_go_with_it(made: tuple[nn.Module, PruningGraph]) -> None:
    dense, found = made
    patterns = {"block.0.weight": "0.5", "head.weight": "0.5"}
    small = build(dense, found, Architecture({}, ["block"], patterns))
    assert set(small.masks) == {"head.weight"}


def test_shrinking_in_place_keeps_parameters_and_the_optimizers_state(
    made: tuple[nn.Module, PruningGraph],
) -> None:
    model, found = made
    weight = model.stem.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(X).square().mean().backward()
    optimizer.step()
    momentum = optimizer.state[weight]["momentum_buffer"].clone()
    kept = {"stem": (0, 3, 7)}
    small = shrink(model, found, Architecture({"stem": 3}), kept_indices=kept, optimizer=optimizer)
    assert small.model is model
    assert model.stem.weight is weight
    assert tuple(weight.shape) == (3, 5)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], momentum[[0, 3, 7]])


def test_shrinking_twice_is_building_once(made: tuple[nn.Module, PruningGraph]) -> None:
    model, found = made
    whole = build(model, found, Architecture({"stem": 2}, ["block"]), scores=SCORES).model(X)
    first = shrink(model, found, Architecture({"stem": 5}, ["block"]), scores=SCORES)
    second = shrink(
        model,
        first.graph,
        Architecture({"stem": 2, "block.0": 3}, ["block"]),
        scores={"stem": SCORES["stem"][3:]},
    )
    assert second.kept_indices == {"stem": (3, 4)}
    torch.testing.assert_close(model(X), whole)


def test_zeros_so_far_stay_zero(made: tuple[nn.Module, PruningGraph]) -> None:
    model, found = made
    zeros = torch.zeros(3, 8, dtype=torch.bool)
    zeros[0, 6] = True  # not one of the smallest elements
    model.head.weight.data[0, 6] = 9.0
    small = shrink(
        model,
        found,
        Architecture({"stem": 6}, patterns={"head.weight": "0.5"}),
        kept_indices={"stem": (0, 1, 2, 3, 6, 7)},
        zeros={"head.weight": zeros},
    )
    assert small.masks["head.weight"][0, 4]  # the fifth of those that are left
    assert int(small.masks["head.weight"].sum()) == 9
