"""The front is measured member by member; a device that fails takes nothing back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoprune.budget import Budget, Cost, Device
from autoprune.candidate import Candidate
from autoprune.errors import DeviceLostError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.search.verify import Verified, verify

CAM = Device("a board (cam)", "ssh://cam")
DENSE_MS = 10.0
BUDGET = Budget.parse({"latency_ms": 5})


def latency(ms: float, source: Any, device: Device = CAM) -> Cost:
    return Cost(latency_ms=ms, latency_p95_ms=ms, source=source, device=device)


def record(number: int, accuracy: float, ms: float) -> TrialRecord:
    return TrialRecord(
        number,
        Candidate({"a": number / 100}),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=latency(ms, "predicted"),
        artifact=f"models/{number}",
    )


@dataclass
class Clock:
    """A gauge on which a model takes `times[number]`; it is lost after so many errands."""

    times: dict[int, float]
    errands: int = 100
    device: Device = CAM
    asked: list[int] = field(default_factory=list)

    def load(self, artifact: Path) -> int:
        return int(artifact.name)

    def measure(self, models: Sequence[int]) -> list[tuple[Cost, Cost]]:
        if not self.errands:
            raise DeviceLostError("ssh://cam was lost")
        self.errands -= 1
        self.asked += models
        dense = latency(DENSE_MS, "measured", self.device)
        return [(latency(self.times[n], "measured", self.device), dense) for n in models]


def verified(
    records: Sequence[TrialRecord], clock: Clock, dense: Cost | None = None
) -> tuple[Verified, list[TrialRecord]]:
    objectives = Objective("accuracy", "maximize"), Objective("latency_ms")

    def front_of(left: Sequence[TrialRecord]) -> ParetoFront:
        return ParetoFront(objectives, tuple(left))

    saved: list[TrialRecord] = []
    found = verify(records, Path(), clock, BUDGET, front_of, saved.append, dense)  # type: ignore[arg-type]
    return found, saved


EIGHT = [record(n, 0.1 * n, 0.5 * n) for n in range(1, 9)]  # all on the front, dearer and better
ON_TIME = {n: 0.5 * n for n in range(1, 9)}


def numbers(found: Verified) -> list[int]:
    return [member.number for member in found.front.members]


def test_every_member_is_measured_and_kept_within_the_budget() -> None:
    found, saved = verified(EIGHT, Clock({**ON_TIME, 3: 6.0}))
    assert numbers(found) == [1, 2, 4, 5, 6, 7, 8]
    assert {it.number: it.measured.latency_ms for it in saved if it.measured} == {**ON_TIME, 3: 6.0}
    assert found.over == {3: {"latency_ms": 6.0 / 5.0 - 1.0}}
    assert (found.failure, found.front.source) == (None, "measured")
    assert found.dense == latency(DENSE_MS, "measured")


def test_a_device_that_is_lost_takes_nothing_back() -> None:
    found, saved = verified(EIGHT, Clock({**ON_TIME, 3: 6.0}, errands=1))
    assert found.failure == "ssh://cam was lost"
    assert [it.number for it in saved] == [1, 2, 3, 4, 5, 6]
    assert numbers(found) == [1, 2, 4, 5, 6, 7, 8]  # without the one that is known to be too slow
    assert found.front.source == "predicted"
    assert found.dense == latency(DENSE_MS, "measured")


def test_the_rest_is_measured_when_the_device_is_back() -> None:
    before, saved = verified(EIGHT, Clock({**ON_TIME, 3: 6.0}, errands=1))
    again, clock = [*saved, *EIGHT[6:]], Clock(ON_TIME)
    found, _ = verified(again, clock, before.dense)
    assert clock.asked == [7, 8]
    assert numbers(found) == [1, 2, 4, 5, 6, 7, 8]
    assert list(found.over) == [3]


def test_what_was_measured_beside_an_unknown_dense_model_is_measured_again() -> None:
    slow = replace(EIGHT[0], measured=latency(6.0, "measured"))
    clock = Clock(ON_TIME)
    found, _ = verified([slow], clock)
    assert clock.asked == [1]
    assert numbers(found) == [1]


def test_another_device_than_was_predicted_for_is_not_believed() -> None:
    other = Device("a faster board (cam)", "ssh://cam")
    found, saved = verified(EIGHT, Clock(ON_TIME, device=other))
    assert saved == []
    assert found.failure == (
        "latencies were predicted for a board (cam), but ssh://cam is a faster board (cam) now · "
        "profile that one"
    )
    assert numbers(found) == list(range(1, 9))
