"""Who stays on the front once it is measured, where some devices cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import toy

from autoprune._search.measuring.target_devices import TargetDevice
from autoprune._search.measuring.verify import _check_limits, verify
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.config.sections import DeviceConfig
from autoprune.cost.targets import device_name
from autoprune.errors import DeviceLostError
from autoprune.pareto import Objective
from autoprune.record import UNIFORM, TrialRecord
from autoprune.store import RunFolder

PHONE, SERVER = Device("a phone"), Device(device_name())
TARGETS = (
    TargetDevice("phone", DeviceConfig(profile="phone.json"), PHONE),
    TargetDevice("server", DeviceConfig()),
)


def cost(source: Any, **ms: float) -> Cost:
    devices = {"phone": PHONE, "server": SERVER}
    timings = tuple(Timing(name, value, None, devices[name]) for name, value in ms.items())
    return Cost(macs=100, source=source, timings=timings)


PLAN = toy.make_plan(
    dense=cost("predicted", phone=20.0, server=10.0),
    budget=Budget.parse({"latency_ms": {"phone": "50%", "server": "50%"}}),
    objectives=(
        Objective("accuracy", "maximize"),
        Objective("latency_ms@phone"),
        Objective("latency_ms@server"),
    ),
    reference=(0.0, 20.0, 10.0),
)
DENSE = cost("measured", server=12.0)


def trial(number: int, accuracy: float, phone: float, server: float) -> TrialRecord:
    return TrialRecord(
        number,
        Candidate(Architecture({"a": number + 1})),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=cost("predicted", phone=phone, server=server),
        artifact=f"models/{number}",
    )


@dataclass
class Scale:
    """A rig that knows by heart what each trial takes on the server."""

    server: dict[str, float]
    targets: tuple[TargetDevice, ...] = TARGETS
    asked: list[str] = field(default_factory=list)

    def load(self, artifact: Path) -> str:
        return artifact.name

    def measure(self, models: list[str]) -> list[tuple[Cost, Cost]]:
        self.asked += models
        return [(cost("measured", server=self.server[name]), DENSE) for name in models]


def checked(*records: TrialRecord, **server: float) -> tuple[Any, Scale, list[TrialRecord]]:
    rig = Scale({name.removeprefix("t"): value for name, value in server.items()})
    saved: list[TrialRecord] = []

    def save(record: TrialRecord, dense: Cost) -> None:
        assert dense == DENSE
        saved.append(record)

    return verify(records, RunFolder(Path()), rig, PLAN, save), rig, saved  # type: ignore[arg-type]


def test_what_is_over_on_one_device_leaves_and_lets_others_in() -> None:
    # 2 is dominated by 1 as predicted, until 1 takes 6.6 of 6 ms on the server when measured.
    records = (trial(1, 0.9, 8.0, 4.0), trial(2, 0.8, 8.0, 4.5), trial(3, 0.7, 4.0, 2.0))
    found, rig, saved = checked(*records, t1=6.6, t2=5.7, t3=2.4)
    assert [record.number for record in found.front] == [3, 2]
    assert found.front.values.tolist() == [[0.7, 4.0, 2.4], [0.8, 8.0, 5.7]]
    assert (found.front.source, found.front.predicted_only) == ("measured", ("phone",))
    assert list(found.over) == [1]
    assert found.over[1] == pytest.approx({"latency_ms@phone": -0.2, "latency_ms@server": 0.1})
    assert sorted(rig.asked) == ["1", "2", "3"]
    assert all(record.measured.names == ("server",) for record in saved if record.measured)


def test_a_baseline_that_is_better_as_measured_takes_the_place_of_a_member() -> None:
    # As predicted, 1 dominates the uniform widths of 2; measured, it is slower and no better.
    uniform = replace(trial(2, 0.9, 8.0, 4.5), origin=f"{UNIFORM}-0")
    found, _, _ = checked(trial(1, 0.9, 8.0, 4.0), uniform, t1=5.0, t2=4.6)
    assert [record.number for record in found.front] == [2]


def test_a_device_elsewhere_is_held_against_its_limit_by_prediction() -> None:
    found, _, _ = checked(trial(1, 0.9, 10.5, 4.0), trial(2, 0.8, 9.5, 3.0), t1=1.0, t2=1.0)
    assert [record.number for record in found.front] == [2]
    assert found.over[1]["latency_ms@phone"] == pytest.approx(0.05)


def test_what_an_earlier_sitting_measured_is_judged_and_not_measured_again() -> None:
    before = replace(trial(1, 0.9, 8.0, 4.0), measured=cost("measured", server=6.6))
    rig = Scale({"2": 5.0})
    records = [before, trial(2, 0.8, 8.0, 4.5)]
    found = verify(records, RunFolder(Path()), rig, PLAN, lambda *_: None, DENSE)  # type: ignore[arg-type]
    assert [record.number for record in found.front] == [2]
    assert rig.asked == ["2"]


def test_a_device_that_is_lost_leaves_the_front_by_prediction() -> None:
    before = replace(trial(1, 0.9, 8.0, 4.0), measured=cost("measured", server=6.6))
    rig = Scale({})

    def lost(models: list[str]) -> None:
        raise DeviceLostError("the server was lost")

    rig.measure = lost  # type: ignore[assignment,method-assign]
    records = [before, trial(2, 0.8, 8.0, 4.5), trial(3, 0.7, 4.0, 2.0)]
    found = verify(records, RunFolder(Path()), rig, PLAN, lambda *_: None, DENSE)  # type: ignore[arg-type]
    assert (found.failure, found.front.source) == ("the server was lost", "predicted")
    assert [record.number for record in found.front] == [3, 2]  # 1 was over budget before


def test_another_machine_behind_a_name_is_refused() -> None:
    strange = replace(cost("measured", server=1.0), timings=(Timing("server", 1.0, None, PHONE),))
    rig = Scale({})
    rig.measure = lambda models: [(strange, DENSE)]  # type: ignore[method-assign]
    found = verify([trial(1, 0.9, 8.0, 4.0)], RunFolder(Path()), rig, PLAN, lambda *_: None)  # type: ignore[arg-type]
    assert found.failure is not None
    assert found.failure.startswith(f"latencies were predicted for {device_name()}, but torch is ")


def test_memory_that_was_not_told_is_held_against_its_limit_by_the_count() -> None:
    dense = replace(cost("measured", server=12.0), peak_memory_bytes=None)
    plan = replace(
        PLAN,
        budget=Budget.parse({"peak_memory_bytes": "50%"}),
        dense=replace(PLAN.dense, peak_memory_bytes=100),
    )
    found = {}
    for number, counted, told in ((1, 40, None), (2, 60, None), (3, 60, 45)):
        predicted = replace(cost("predicted", server=3.0), peak_memory_bytes=counted)
        taken = replace(cost("measured", server=3.0), peak_memory_bytes=told)
        record = replace(trial(number, 0.9, 8.0, 4.0), predicted=predicted, measured=taken)
        beside = replace(dense, peak_memory_bytes=None if told is None else 100)
        over: dict[int, dict[str, float]] = {}
        _check_limits(record, beside, plan, over)
        found[number] = over
    assert list(map(bool, found.values())) == [False, True, False]
    assert found[2][2] == pytest.approx({"peak_memory_bytes": 0.2})
