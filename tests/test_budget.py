"""Costs and limits: what is read, what is held, what comes back from JSON."""

from __future__ import annotations

import json

import pytest

from autoprune.budget import Budget, Confidence, Cost, Device, Timing
from autoprune.errors import BudgetError

PHONE, SERVER = Device("arm", "onnxruntime"), Device("x86", "torch", batch=8, threads=2)
COST = Cost(
    macs=100,
    source="predicted",
    timings=(Timing("phone", 8.0, 9.0, PHONE), Timing("server", 2.0, None, SERVER)),
)


def test_a_latency_is_read_by_the_name_of_its_device() -> None:
    assert (COST.get("latency_ms@phone"), COST.get("latency_p95_ms@phone")) == (8.0, 9.0)
    assert (COST.value("latency_p95_ms@server"), COST.value("latency_ms@tv")) == (None, None)
    assert (COST.names, COST.device_of("server")) == (("phone", "server"), SERVER)
    assert (COST.device_of("tv"), COST.device_of("")) == (None, None)
    with pytest.raises(BudgetError, match=r"latency_ms was not determined .*predicted cost"):
        COST.get("latency_ms")
    with pytest.raises(ValueError, match="'accuracy' is not a cost"):
        COST.value("accuracy")


def test_costs_survive_json_and_one_device_is_written_as_before() -> None:
    assert Cost.from_dict(json.loads(json.dumps(COST.to_dict()))) == COST
    single = Cost(macs=100, latency_ms=3.0, source="measured", device=PHONE)
    written = {
        "params": None,
        "macs": 100,
        "weight_bytes": None,
        "peak_memory_bytes": None,
        "latency_ms": 3.0,
        "latency_p95_ms": None,
        "source": "measured",
        "device": {
            "name": "arm",
            "runtime": "onnxruntime",
            "dtype": "float32",
            "batch": 1,
            "threads": 1,
        },
    }
    assert single.to_dict() == written
    assert Cost.from_dict(written) == single


def test_each_latency_has_a_confidence_of_its_own() -> None:
    wide = Confidence((4.0, 6.0), ratio=0.5, ratio_ci=(0.4, 0.6), spread=0.3, busy=0.0)
    measured = COST.timed(Timing("phone", 5.0, 6.0, PHONE, wide), "measured")
    assert (measured.confidence_of("phone"), measured.confidence_of("server")) == (wide, None)
    assert (measured.note("phone"), measured.note("server")) == ("noisy: spread 30%", "")
    assert (measured.confidence, measured.note("")) == (None, "")
    assert Cost.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_a_device_has_one_timing_and_the_newest_counts() -> None:
    again = COST.timed(Timing("phone", 5.0, 6.0, PHONE), "predicted")
    assert (again.get("latency_ms@phone"), again.get("latency_ms@server")) == (5.0, 2.0)
    with pytest.raises(ValueError, match="one timing, got phone, phone"):
        Cost(timings=(COST.timings[0], COST.timings[0]))


def test_limits_hold_on_every_device() -> None:
    budget = Budget.parse({"latency_ms": {"phone": "8 ms", "server": "50%"}, "macs": "100%"})
    assert budget.fields == ("latency_ms@phone", "latency_ms@server", "macs")
    assert Budget.parse({"latency_ms@phone": 8, "latency_ms@server": "50%", "macs": "100%"}) == (
        budget
    )
    dense = COST.timed(Timing("server", 5.0, None, SERVER), "predicted")
    over = budget.violations(COST, dense)
    assert over == pytest.approx({"latency_ms@phone": 0.0, "latency_ms@server": -0.2, "macs": 0.0})
    assert budget.allows(COST, dense)
    assert not budget.allows(COST, COST)  # 2 ms of at most 1 ms


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"latency_ms": {"phone": "8 MB"}}, r"budget\.latency_ms@phone: unit 'MB' does not fit"),
        ({"latency_ms@": 8}, r"budget\.latency_ms@ is not a cost"),
        ({"macs@phone": 8}, r"budget\.macs@phone is not a cost"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(spec)


def test_a_rate_is_the_time_of_one_sample_times_the_batch() -> None:
    (limit,) = Budget.parse({"latency_ms": "30 fps"}).limits
    assert (limit.field, limit.value, limit.relative, limit.fps) == (
        *("latency_ms", pytest.approx(33.3333, abs=1e-4), False),
        30.0,
    )
    assert str(limit) == "latency_ms <= 33.33 (30 fps)"
    by_device = {"latency_ms": {"phone": "25FPS"}, "latency_p95_ms@server": "100 fps"}
    found = Budget.parse(by_device, batches={"server": 8})
    assert [limit.value for limit in found.limits] == [40.0, 80.0]
    assert str(found) == "latency_ms@phone <= 40 (25 fps), latency_p95_ms@server <= 80 (100 fps)"
    assert found.violations(COST.timed(Timing("server", 2.0, 88.0, SERVER), "predicted"), COST) == (
        pytest.approx({"latency_ms@phone": -0.8, "latency_p95_ms@server": 0.1})
    )


def test_a_level_may_be_a_rate() -> None:
    budget = Budget.parse({"latency_ms": "50 ms"}, batches={"": 2})
    (level,) = budget.lowered(["50 fps"], "levels", {"": 2})
    assert str(level) == "latency_ms <= 40 (50 fps)"
    with pytest.raises(BudgetError, match=r"levels: '30 fps' must be below the budget's"):
        budget.lowered(["30 fps"], "levels", {"": 2})  # 66.7 ms


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"macs": "30 fps"}, r"budget\.macs: unit 'fps' does not fit · .*\(units: k, m, g\)"),
        ({"latency_ms": "0 fps"}, r"budget\.latency_ms must be above 0"),
        ({"latency_ms": "3 mb"}, r"unit 'mb' does not fit · .*\(units: us, ms, s, fps\)"),
        ({"fps": 30}, r"budget\.fps is not a cost · write latency_ms: 30 fps"),
        ({"fps": ">= 12.5"}, r"budget\.fps is not a cost · write latency_ms: 12\.5 fps"),
        ({"fps@phone": "x"}, r"budget\.fps@phone is not a cost · write latency_ms@phone: 30 fps"),
    ],
)
def test_a_rate_that_cannot_be_read_is_refused_with_the_form(spec: dict, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(spec)
