"""One model through its stages: which dense units it still has, and when it is only one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Selection
from autoprune.pruning.build import build
from autoprune.pruning.compensate import calibrate
from autoprune.training.gradual import GradualPruner

SCORES = {"0": torch.arange(16.0), "3": torch.arange(16.0).flip(0)}
BATCHES = Stripes().val_loader()


def pruner(importance: str = "l2", task: Stripes | None = None, **more: Any) -> GradualPruner:
    model, graph = dense()
    return GradualPruner(task or Stripes(), model, graph, Selection(importance, **more))


def test_it_begins_with_a_copy_that_has_everything() -> None:
    model, graph = dense()
    made = GradualPruner(Stripes(), model, graph, Selection())
    assert made.model is not model
    assert made.kept_indices == {"0": tuple(range(16)), "3": tuple(range(16))}
    assert (made.patterns, made.masks, made.is_dense) == ({}, {}, True)


def test_what_a_stage_removes() -> None:
    made = pruner()
    assert not made.removes(Architecture())
    assert not made.removes(Architecture({"0": 16}))
    assert made.removes(Architecture({"0": 15}))
    assert made.removes(Architecture(patterns={"3.weight": "0.5"}))
    made.cut(Architecture({"0": 8}), {"0": range(8)})
    assert not made.removes(Architecture({"0": 8}))
    assert made.removes(Architecture({"0": 7}))


def test_given_scores_choose_the_units() -> None:
    made = pruner()
    units = made.choose(Architecture({"0": 3, "3": 2}), BATCHES, None, SCORES)
    assert units == {"0": (13, 14, 15), "3": (0, 1)}


def test_scores_are_found_for_the_narrowed_groups_alone() -> None:
    seen: list[str] = []

    class Own(Stripes):
        def importance(self, group: Any, weights: Any) -> Tensor:
            seen.append(group.name)
            return SCORES[group.name]

    made = pruner("task", Own())
    assert made.choose(Architecture({"0": 16, "3": 2}), BATCHES, None) == {"3": (0, 1)}
    assert seen == ["3"]


def test_kept_units_are_those_of_the_dense_model_through_all_stages() -> None:
    made = pruner()
    weight = made.model.get_parameter("0.weight")
    made.cut(Architecture({"0": 4}), {"0": (1, 5, 9, 13)})
    made.cut(Architecture({"0": 2, "3": 15}), {"0": (1, 3), "3": range(15)})
    assert made.kept_indices == {"0": (5, 13), "3": tuple(range(15))}
    assert made.model.get_parameter("0.weight") is weight  # the optimizer's own
    assert torch.equal(weight, dense()[0][0].weight[[5, 13]])
    assert not made.is_dense
    assert made.graph.sizes() == {"0": 2, "3": 15}


def test_several_stages_end_where_one_would_have() -> None:
    made = pruner()
    made.cut(Architecture({"0": 8}), {"0": range(8)})
    made.cut(Architecture({"0": 3, "3": 4}), {"0": (0, 2, 4), "3": range(4)})
    model, graph = dense()
    once = build(
        model, graph, Architecture({"0": 3, "3": 4}), kept_indices={"0": (0, 2, 4), "3": range(4)}
    )
    for name, value in once.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], value)


def test_removing_re_estimates_the_statistics_of_normalizations() -> None:
    made = pruner(repair=False)
    made.remove(Architecture({"0": 8}), {"0": range(8)}, BATCHES, None)
    found = made.model[1]
    assert isinstance(found, nn.BatchNorm2d)
    with torch.no_grad():
        y = made.model[0](BATCHES[0][0])  # type: ignore[operator]
    torch.testing.assert_close(found.running_mean, y.mean((0, 2, 3)))


@pytest.mark.parametrize("repair", [True, False])
def test_weights_are_repaired_only_where_that_is_selected(repair: bool) -> None:
    model, graph = dense()
    calibration = calibrate(model, BATCHES)
    made = GradualPruner(Stripes(), model, graph, Selection("l2", repair=repair))
    made.remove(Architecture({"0": 8}), {"0": range(8)}, BATCHES, calibration)
    unchanged = torch.equal(made.model[3].weight, model[3].weight[:, :8])  # type: ignore[index,operator]
    assert unchanged is not repair


def test_patterns_are_known_and_their_zeros_stay() -> None:
    made = pruner(repair=False)
    first = Architecture(patterns={"3.weight": "0.25"})
    made.remove(first, {}, BATCHES, None)
    assert made.patterns == {"3.weight": "0.25"}
    assert not made.is_dense
    assert not made.removes(first)
    before = made.masks["3.weight"]
    assert int(before.sum()) == 16 * 16 * 9 // 4
    with torch.no_grad():
        made.model.get_parameter("3.weight")[before] = 9.0  # the largest now: zero all the same
    made.remove(Architecture(patterns={"3.weight": "0.5"}), {}, BATCHES, None)
    after = made.masks["3.weight"]
    assert int(after.sum()) == 16 * 16 * 9 // 2
    assert (after | ~before).all()  # all of the earlier ones are among them
    assert (made.model.get_parameter("3.weight")[after] == 0.0).all()


def test_a_saved_runs_patterns_are_taken_up() -> None:
    made = pruner()
    masks = {"3.weight": torch.zeros(16, 16, 3, 3, dtype=torch.bool)}
    made.hold({"3.weight": "0.5"}, masks)
    assert made.patterns == {"3.weight": "0.5"}
    assert made.masks is masks
    assert not made.is_dense
    assert not made.removes(Architecture(patterns={"3.weight": "0.5"}))


@pytest.mark.parametrize(("importance", "calls"), [("l2", 0), ("taylor", 1)])
def test_gradients_are_computed_only_for_importances_that_need_them(
    importance: str, calls: int
) -> None:
    seen: list[bool] = []

    class Watched(Stripes):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            seen.append(model.training)
            return super().loss(model, batch)

    made = pruner(importance, Watched())
    made.model.train()
    made.choose(Architecture({"0": 8}), BATCHES, None)
    assert seen == [False] * calls  # in eval mode
