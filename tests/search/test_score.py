"""The score before training: what it counts, and where it is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune._search.sampling.score import NO_DIVERGENCE, SLICE, STATISTICS, RepairScore, heads
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Selection
from autoprune.graph import trace
from autoprune.pruning.compensate import Calibration, calibrate

WHOLE, HALF = Architecture({"0": 16, "3": 16}), Architecture({"0": 8, "3": 8})


def calibrated(model: nn.Module) -> Calibration:
    return calibrate(model, Stripes().val_loader(), forward=Stripes().loss)


def score(task: Stripes | None = None, *, repairs: bool = False, **options: Any) -> RepairScore:
    model, graph = dense()
    calibration = calibrated(model) if repairs else None
    return RepairScore(task or Stripes(), model, graph, calibration, **options)


def candidate(architecture: Architecture, importance: str = "l2", **more: Any) -> Candidate:
    return Candidate(architecture, Selection(importance, **more))


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_what_was_processed_is_counted(importance: str) -> None:
    made = score()
    assert made.dense_samples == 60.0  # the validation batch
    made(candidate(HALF, importance, repair=False))
    # 96 training samples are fewer than 128: each batch whole; 60 of validation
    assert made.samples == 60 + 96
    forward_and_backward = 3.0 * 96 if importance == "taylor" else 0.0
    assert made.dense_samples == 60.0 + forward_and_backward
    made(candidate(HALF, importance, repair=False))
    assert made.dense_samples == 60.0 + forward_and_backward  # scored once


def test_a_repaired_model_has_its_statistics_already() -> None:
    made = score(repairs=True)
    made(candidate(HALF))
    assert made.samples == 60


def test_equal_outputs_have_the_least_score() -> None:
    model, _ = dense()
    plain = nn.Sequential(*(m for m in model if not isinstance(m, nn.BatchNorm2d)))

    class Plain(Stripes):
        def build_model(self) -> nn.Module:
            return plain

    graph = trace(plain, Stripes().example_input())
    made = RepairScore(Plain(), plain, graph, None)
    whole = {group.name: group.size for group in graph.groups}
    found = made(candidate(Architecture(whole), repair=False))
    assert found == math.log(NO_DIVERGENCE)
    assert made.samples == 60  # no normalization, nothing to re-estimate


def test_the_dense_model_and_the_generator_are_left_as_they_were() -> None:
    model, graph = dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = calibrated(model)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    made = RepairScore(Stripes(), model, graph, calibration, threads=1)
    assert made(candidate(HALF)) == made(candidate(HALF))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_an_order_that_is_known_is_not_found_again() -> None:
    model, graph = dense()
    order = {"0": torch.arange(16.0), "3": torch.arange(16.0)}
    made = RepairScore(Stripes(), model, graph, calibrated(model), scores=order)
    back = {name: values.flip(0) for name, values in order.items()}
    other = RepairScore(Stripes(), model, graph, calibrated(model), scores=back)
    assert made(candidate(HALF, "obs")) != other(candidate(HALF, "obs"))
    assert made(candidate(HALF, "l2")) == other(candidate(HALF, "l2"))


class Broken(Stripes):
    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return super().outputs(model, batch) * math.nan


def test_outputs_that_are_not_finite_are_refused() -> None:
    made = score(Broken())
    with pytest.raises(ValueError, match=r"^its outputs' divergence is nan$"):
        made(candidate(HALF, repair=False))


def test_heads_take_evenly_and_leave_what_cannot_be_cut() -> None:
    pair = (torch.zeros(50, 2), torch.zeros(50))
    assert [len(x) for x, _ in heads([pair, (torch.zeros(8, 2), torch.zeros(8))], 21)] == [11, 8]
    named = heads([{"x": torch.zeros(9), "labels": torch.zeros(9), "kind": "train"}], 4)[0]
    assert (len(named["x"]), len(named["labels"]), named["kind"]) == (4, 4, "train")
    scalar = [torch.zeros(9), torch.tensor(1.0)]
    assert [tuple(x.shape) for x in heads([scalar], 4)[0]] == [(9,), ()]
    boxes = {"img": torch.zeros(9), "batch_idx": torch.arange(9)}  # may be an image of another row
    assert heads([boxes], 4)[0] is boxes
    assert heads([], 4) == []


def test_validation_batches_are_spread_over_a_loader_that_may_be_sorted() -> None:
    seen: list[int] = []

    class Sorted(Stripes):
        def val_loader(self) -> Any:
            x, y = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
            return [(x + number, y) for number in range(24)]

        def outputs(self, model: nn.Module, batch: Any) -> Any:
            seen.append(int(batch[0][0, 0, 0, 0]))
            return super().outputs(model, batch)

    assert score(Sorted()).dense_samples == 8 * 4
    assert sorted(set(seen)) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert (SLICE, STATISTICS) == (256, 128)
