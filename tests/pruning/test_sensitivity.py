"""Damage of one group alone: the table's promises, and its numbers against doing it by hand."""

import copy
import dataclasses
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autoprune.errors import TrainingError, UsageError
from autoprune.graph import trace
from autoprune.pruning import importance, surgery
from autoprune.pruning.compensate import calibrate, repair
from autoprune.pruning.sensitivity import (
    BUILDS_PER_BLOCK,
    Sensitivity,
    divergence,
    drop_order,
    measure,
)
from autoprune.space import FittedSpace, SearchSpace


@pytest.fixture
def case():
    """The first group's units are all different; the second's are four copies of two."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        for row in range(2, 8):
            model[2].weight[row] = model[2].weight[row % 2]
            model[2].bias[row] = model[2].bias[row % 2]
        model[4].weight.mul_(4.0)
    x = torch.randn(256, 6)
    return model, trace(model, x[:1]), calibrate(model, [x]), [torch.randn(128, 6)]


def test_copies_can_leave_without_damage_and_what_is_needed_cannot(case):
    model, graph, calibration, batches = case
    table = measure(model, graph, calibration, divergence(model, batches), ratios=(0.5, 0.75))
    assert table.dense == 0.0
    assert table.counts == {"0": (2, 4, 8), "2": (2, 4, 8)}
    assert table.increases["2"][0] < 1e-5
    assert table.increases["0"][0] > table.increases["0"][1] > 1e-3


def test_a_damage_is_the_rise_of_the_score_after_cut_and_repair(case):
    model, graph, calibration, batches = case
    before = copy.deepcopy(model.state_dict())
    score = divergence(model, batches)
    worth = importance.scores(model, graph, "l2")
    table = measure(model, graph, calibration, score, ratios=(0.5,), scores=worth)
    keep = importance.best_units(worth, {"0": 4})
    small = copy.deepcopy(model)
    surgery.prune(small, graph, keep)
    plain = score(small)
    repair(small, model, graph, keep, calibration)
    assert table.increases["0"][0] == pytest.approx(score(small), rel=1e-9)
    assert table.increases["0"][0] < plain
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_lucky_smaller_count_does_not_count(case):
    model, graph, calibration, _ = case
    luck = {8: 1.0, 6: 1.5, 4: 1.2, 2: 3.0}
    table = measure(
        model,
        graph,
        calibration,
        lambda m: luck[m[0].out_features] if m[2].out_features == 8 else 0.5,
        ratios=(0.25, 0.5, 0.75),
    )
    assert table.increases["0"] == (2.0, 0.5, 0.5, 0.0)
    assert table.increases["2"] == (0.0, 0.0, 0.0, 0.0)


def test_counts_are_those_of_the_search_space_with_its_rounding(case):
    model, graph, calibration, batches = case
    score = divergence(model, batches)
    space = FittedSpace.of(SearchSpace.parse({"round_to": 2}), graph.sizes())
    options = {"ratios": (0.1, 0.3, 0.6), "nearest": space.nearest}
    table = measure(model, graph, calibration, score, **options)
    assert table.counts["0"] == (4, 6, 8)


def test_divergence_is_kullback_leibler_for_classes_and_relative_for_anything_else():
    ones = nn.Linear(1, 2, bias=False)
    tilted = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        ones.weight.fill_(1.0)
        tilted.weight.copy_(torch.tensor([[math.log(3.0)], [0.0]]))
    # fair coin against (3/4, 1/4): 1/2 log(2/3) + 1/2 log 2
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert divergence(ones, [torch.ones(3, 1)])(tilted) == pytest.approx(expected, rel=1e-6)
    line, steep = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        line.weight.fill_(1.0)
        steep.weight.fill_(3.0)
    # outputs -1, 1 (variance 1) against -3, 3
    assert divergence(line, [torch.tensor([[-1.0], [1.0]])])(steep) == pytest.approx(4.0)


class Returning(nn.Module):
    """Returns what `pack` makes of the doubled (or else scaled) input."""

    def __init__(self, pack, scale=2.0):
        super().__init__()
        self.pack, self.scale = pack, nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.pack(x * self.scale)


class Outputs(OrderedDict):
    """A mapping that a tree of containers does not look into."""


@dataclass
class Fields:
    values: torch.Tensor


class Slots:
    __slots__ = ("values",)


def looped(x):
    result = SimpleNamespace(values=x, model=nn.Linear(1, 1))
    result.itself = result
    return result


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: Outputs(values=x),
        lambda x: SimpleNamespace(values=[x]),
        lambda x: (Fields(x), x > 0.0, None, "text", 1.0),
        lambda x: {"values": x, "none": x[:0]},
        looped,
    ],
)
def test_outputs_are_found_in_mappings_and_attributes(pack):
    x = torch.tensor([[[-1.0]], [[1.0]]])  # outputs -2, 2 (variance 4) against -4, 4
    assert divergence(Returning(pack), [x])(Returning(pack, 4.0)) == pytest.approx(1.0)


def test_a_single_value_counts_as_one_output_of_its_batch():
    def pack(x):
        return x[:, None], x.square().mean()

    batches = [torch.tensor([-1.0, 1.0]), torch.tensor([3.0])]
    score = divergence(Returning(pack), batches)
    # batch 1, two samples: 1 for the tensor as above, (16 - 4)^2 / (16^2 + 4^2) for the scalar;
    # batch 2, one sample: 6 against 12, and 36 against 144
    first = 1.0 + 144 / 272
    second = 36 / 180 + 108**2 / (36**2 + 144**2)
    assert score(Returning(pack, 4.0)) == pytest.approx((2 * first + second) / 3)
    assert score(Returning(pack)) == 0.0
    zeros = divergence(Returning(lambda x: x.sum() * 0.0), batches)
    assert zeros(Returning(lambda x: x.sum() * 0.0)) == 0.0


def test_only_outputs_of_the_same_shape_are_compared():
    x = torch.tensor([[[-1.0]], [[1.0]]])
    score = divergence(Returning(lambda x: (x, x.expand(2, 3, 1))), [x])
    assert score(Returning(lambda x: (x, x.expand(2, 5, 1)), 4.0)) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="must keep its shape"):
        divergence(Returning(lambda x: x), [x])(Returning(lambda x: x.flatten()))


@pytest.mark.parametrize("pack", [lambda x: x.argmax(), lambda x: Slots(), lambda x: x[:0]])
def test_outputs_without_anything_to_compare_are_refused(pack):
    with pytest.raises(UsageError, match="must hold a floating-point tensor, got none"):
        divergence(Returning(pack), [torch.ones(3, 1)])


def test_the_table_survives_json():
    table = Sensitivity(0.5, {"a": (1, 4)}, {"a": (0.25, 0.0)})
    assert Sensitivity.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_a_group_that_was_never_cut_has_no_damage():
    assert Sensitivity(0.0, {"a": (4,)}, {"a": (0.0,)}).at("a", 2) == 0.0


def test_bad_input_is_refused(case):
    model, graph, calibration, _ = case
    with pytest.raises(UsageError, match=r"ratios must lie in \(0, 1\), got 1.0"):
        measure(model, graph, calibration, lambda m: 0.0, ratios=(1.0,))
    with pytest.raises(TrainingError, match="the dense model must be finite, got nan"):
        measure(model, graph, calibration, lambda m: math.nan)
    with pytest.raises(UsageError, match="at least one batch"):
        divergence(model, [])
    with pytest.raises(UsageError, match="count must lie in 1 to 4"):
        Sensitivity(0.0, {"a": (4,)}, {"a": (0.0,)}).at("a", 5)
    with pytest.raises(ValueError, match="must fall to 0"):
        Sensitivity(0.0, {"a": (1, 4)}, {"a": (0.1, 0.2)})
    with pytest.raises(ValueError, match="must be ascending"):
        Sensitivity(0.0, {"a": (4, 1)}, {"a": (0.1, 0.0)})


def growing(weights):
    """An increase that grows faster than the sum: the square of what is gone."""
    asked = []

    def rise(gone):
        asked.append(tuple(gone))
        return sum(weights[name] for name in gone) ** 2

    return {name: value**2 for name, value in weights.items()}, rise, asked


def test_the_block_that_adds_least_goes_next():
    alone, rise, _asked = growing({"a": 3.0, "b": 1.0, "c": 2.0})
    assert drop_order(alone, rise) == ["b", "c", "a"]


def test_few_models_are_measured_and_never_more_than_three_again_for_each_block():
    names = [f"{n:02d}" for n in range(20)]
    alone, rise, asked = growing({name: 2.0**n for n, name in enumerate(names)})
    assert drop_order(alone, rise) == names
    assert len(asked) < 40
    alone, flat, others = growing(dict.fromkeys(names, 1.0))  # all alike: every one is tried again
    assert sorted(drop_order(alone, flat)) == names
    assert len(others) == (BUILDS_PER_BLOCK - 1) * 20


def test_of_two_blocks_that_stand_in_for_each_other_one_goes_last():
    def rise(gone):  # either can go, not both
        return 10.0 if {"a", "b"} <= set(gone) else 0.5 * len(gone)

    order = drop_order({"a": 0.4, "b": 0.5, "c": 0.5}, rise)
    assert order == ["a", "c", "b"]


class Residual(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.branch = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.branch.weight.copy_(scale * torch.eye(4))

    def forward(self, x):
        return x + self.branch(x)


def test_blocks_in_the_order_of_dropping_get_the_sorted_increases_of_one_alone():
    """The branches scale x by 1.8, 0.72 and 0.8: without the last, the second matters more."""
    model = nn.Sequential(Residual(0.8), Residual(-0.28), Residual(-0.2)).eval()
    x = torch.randn(64, 3, 4, generator=torch.Generator().manual_seed(0))
    graph = trace(model, x)
    score = divergence(model, [x])
    table = measure(
        model, graph, calibrate(model, [x]), score, scores={}, ratios=(), blocks=["0", "1", "2"]
    )
    alone = []
    for place in range(3):
        other = copy.deepcopy(model)
        other[place] = nn.Identity()
        alone.append(score(other))
    assert alone[2] < alone[1] < alone[0]  # and they go as 2, 0, 1
    found = [table.increases[f"block:{name}"] for name in ("2", "0", "1")]
    assert found == [(pytest.approx(value), 0.0) for value in sorted(alone)]
    assert all(table.counts[f"block:{name}"] == (0, 1) for name in ("2", "0", "1"))


def test_blocks_count_by_their_factor():
    table = Sensitivity(
        0.5,
        {"conv": (2, 4), "block:b": (0, 1)},
        {"conv": (0.9, 0.0), "block:b": (0.4, 0.0)},
    )
    assert (table.at("conv", 2), table.at("block:b", 0)) == (0.9, 0.4)
    scaled = dataclasses.replace(table, block_factor=0.5)
    assert (scaled.at("conv", 2), scaled.at("block:b", 0), scaled.at("block:b", 1)) == (0.9, 0.2, 0)
    written = json.loads(json.dumps(scaled.to_dict()))
    assert Sensitivity.from_dict(written) == scaled
    assert Sensitivity.from_dict(table.to_dict()).block_factor is None
    del written["block_factor"]  # of an earlier version, whose increases have theirs
    assert Sensitivity.from_dict(written).at("block:b", 0) == 0.4
    assert Sensitivity.from_dict(written).block_factor == 1.0
