"""A target to write: what the base does with its three methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost.targets.base import LocalTarget, Protocol, require
from autoprune.cost.targets.on_device import cores, device_name
from autoprune.cost.timing import ClockedCall
from autoprune.errors import DeviceError

X = torch.zeros(1, 2)
QUICK = Protocol(threads=1, warmup_s=0.001, repeats=6)


class Wound(ClockedCall):
    def __init__(self, log: list[str], ms: float) -> None:
        self._log, self._ms = log, ms

    def __call__(self) -> float:
        self._log.append("call")
        return self._ms


class Noting(LocalTarget):
    """Says each step; a model's width is its milliseconds."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def prepare(self, model: nn.Module, example_inputs: Any, threads: int) -> Wound:
        assert isinstance(model, nn.Linear)
        self.log.append(f"prepare with {threads}")
        return Wound(self.log, float(model.out_features))

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        self.log.append("pinned")
        yield
        self.log.append("released")


def test_all_is_prepared_before_anything_is_timed_under_the_pin() -> None:
    target = Noting()
    found = target.time([nn.Linear(2, 3), nn.Linear(2, 5)], X, QUICK)
    assert target.log[:3] == ["prepare with 1", "prepare with 1", "pinned"]
    assert target.log[-1] == "released"
    assert set(target.log[3:-1]) == {"call"}
    assert [set(times) for times in found.rounds.times()] == [{3.0}, {5.0}]
    assert [len(times) for times in found.rounds.times()] == [6, 6]
    assert (found.device, found.cores) == (device_name(), cores())
    assert found.busy is None or 0.0 <= found.busy <= 1.0


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_are_at_most_the_cores_here(threads: int) -> None:
    target = Noting()
    with pytest.raises(DeviceError) as caught:
        target.time([nn.Linear(2, 3)], X, Protocol(threads=threads))
    assert str(caught.value) == (
        f"threads must be from 1 to {cores()} (the cores here), got {threads}"
    )
    assert target.log == []


def test_a_runtime_without_memory_and_needs_says_so() -> None:
    target = Noting()
    target.check()
    assert target.peak_memory(nn.Linear(2, 3), X, 1) is None


def test_prunings_may_be_prepared_together() -> None:
    class Together(Noting):
        def prepare_all(
            self, models: Sequence[nn.Module], example_inputs: Any, threads: int
        ) -> Any:
            self.log.append(f"{len(models)} together")
            return [Wound(self.log, 1.0) for _ in models]

    target = Together()
    target.time([nn.Linear(2, 3)] * 3, X, QUICK)
    assert target.log[:2] == ["3 together", "pinned"]


def test_what_is_missing_is_named_with_the_extra_that_holds_it() -> None:
    require("ncnn", "json", "math")
    with pytest.raises(DeviceError) as caught:
        require("ncnn", "no_such_module", "json", "nor_this")
    assert str(caught.value) == (
        "ncnn needs no_such_module and nor_this, not installed here · pip install 'autoprune[ncnn]'"
    )
