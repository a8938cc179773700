"""The layers of the front's models, written and read back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import stripes
import toy

from autoprune._search.ending.layers import save_layers
from autoprune._search.measuring.verify import MeasurementRig
from autoprune.architecture import INT8, Architecture
from autoprune.budget import Budget, Cost
from autoprune.candidate import Candidate
from autoprune.errors import ExportError
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import RunFolder

BUDGET = Budget.parse({"macs": "50%", "params": 400})
PLAN = toy.make_plan(budget=BUDGET)
SMALL_PLAN = SimpleNamespace(smallest_architecture=Architecture({"0": 4, "3": 4}), budget=BUDGET)
HALF = {"0": 8, "3": 8}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"task": "toy"}, {})


def device(name: str, profile: Any = None, runtime: str = "torch", offline: bool = False) -> Any:
    config = SimpleNamespace(runtime=runtime, threads=1, batch=2)
    values = {"name": name, "profile": profile, "int8": None, "config": config}
    return SimpleNamespace(**values, is_offline=offline)


def ready(*targets: Any, plan: Any = SMALL_PLAN) -> Any:
    model, graph = stripes.dense()
    rig = MeasurementRig(model, graph, stripes.Stripes().example_input(), ())
    return SimpleNamespace(plan=plan, graph=graph, targets=targets, rig=rig)


def finished(number: int, precision: str = "float32") -> TrialRecord:
    candidate = Candidate(Architecture(HALF, precision=precision))
    known = {"predicted": Cost(macs=number), "artifact": f"models/{number}"}
    metrics = {"accuracy": 0.1 * number}
    return TrialRecord(number, candidate, "complete", 0, 1.0, metrics, **known)


def test_layers_are_those_of_the_dense_the_smallest_and_the_fronts_models(
    folder: RunFolder,
) -> None:
    record = TrialRecord(
        7,
        Candidate(Architecture(HALF)),
        "complete",
        0,
        1.0,
        {"accuracy": 0.8},
        predicted=Cost(macs=5),
    )

    front = ParetoFront(PLAN.objectives, (record,))
    plan = SimpleNamespace(smallest_architecture=Architecture({"0": 4, "3": 4}), budget=BUDGET)
    save_layers(folder, ready(device("a"), plan=plan), front)
    found = folder.network()
    assert found is not None
    assert list(found.models) == ["dense", "smallest", "7"]
    # 3x3 from 1 channel on 6x6, 3x3 on 4x4, and the head
    assert found.models["dense"].macs == (36 * 16 * 9, 16 * 16 * 16 * 9, 16 * 3)
    assert found.models["7"].macs == (36 * 8 * 9, 16 * 8 * 8 * 9, 8 * 3)
    assert found.models["smallest"].widths == (4, 4, 3)
    assert (found.latency, found.models["dense"].ms) == ("", ())
    # half of the first group's 16 halves all but the head; half of the second's the last two
    first, second, head = found.models["dense"].macs
    half = {"0": (first + second) / 2, "3": (second + head) / 2}
    whole = first + second + head
    assert found.halves == pytest.approx({name: saved / whole for name, saved in half.items()})


def test_layers_have_the_latency_of_the_device_that_has_a_limit(folder: RunFolder) -> None:
    predictor = SimpleNamespace(
        predict=lambda counts: 1.0 + counts["0"],
        by_layer=lambda counts: {"a": 1.0, "b": 2.0, "c": 3.0},
    )
    profiles = (SimpleNamespace(predictor=predictor),) * 2
    targets = tuple(map(device, ("phone", "server"), profiles))
    budget = Budget.parse({"latency_p95_ms@server": "50%"})
    plan = SimpleNamespace(smallest_architecture=Architecture(), budget=budget)
    save_layers(folder, ready(*targets, plan=plan), ParetoFront(PLAN.objectives, ()))
    found = folder.network()
    assert found is not None
    assert (found.latency, found.models["dense"].ms) == ("latency_ms@server", (1.0, 2.0, 3.0))
    assert found.halves == pytest.approx({"0": 8 / 17, "3": 0.0})  # 1 + 8 of 1 + 16


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was timed: the model, the shape of its input, the threads."""
    seen: list[tuple[Any, ...]] = []

    def times(model: Any, inputs: Any, threads: int) -> dict[str, float]:
        seen.append((model, tuple(inputs.shape), threads))
        return {"0": 0.25, "3": 0.5, "": 0.125}

    monkeypatch.setattr("autoprune._search.ending.layers.layer_times", times)
    return seen


def front_of(*records: TrialRecord) -> ParetoFront:
    return ParetoFront(PLAN.objectives, records)


def test_float32_models_are_timed_where_a_device_is_onnxruntime_here(
    folder: RunFolder, timed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = SimpleNamespace(model="small")
    monkeypatch.setattr(MeasurementRig, "load", lambda self, artifact: loaded)
    state = ready(device("a"), device("b", runtime="onnxruntime"))
    save_layers(folder, state, front_of(finished(7), finished(8, INT8)))
    found = folder.network()
    assert found is not None
    # the head has no time of its own; int8 models and the smallest of the space are not timed
    assert found.models["dense"].measured == (0.25, 0.5, None)
    assert found.models["7"].measured == (0.25, 0.5, None)
    assert (found.models["8"].measured, found.models["smallest"].measured) == ((), ())
    assert timed == [(state.rig.dense, (2, 1, 8, 8), 1), ("small", (2, 1, 8, 8), 1)]


@pytest.mark.parametrize("other", [{"runtime": "openvino"}, {"offline": True}])
def test_elsewhere_layers_are_not_timed(
    folder: RunFolder, timed: list[tuple[Any, ...]], other: dict[str, Any]
) -> None:
    save_layers(folder, ready(device("a", **{"runtime": "onnxruntime", **other})), front_of())
    found = folder.network()
    assert found is not None
    assert found.models["dense"].measured == ()
    assert timed == []


def test_a_model_that_cannot_be_written_is_not_timed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> dict[str, float]:
        raise ExportError("no such operator")

    monkeypatch.setattr("autoprune._search.ending.layers.layer_times", fail)
    save_layers(folder, ready(device("a", runtime="onnxruntime")), front_of())
    found = folder.network()
    assert found is not None
    assert found.models["dense"].measured == ()
    assert "the layers of the dense model are not timed: no such operator" in caplog.text


def test_layers_of_one_module_have_one_time(
    folder: RunFolder, timed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ready(device("a", runtime="onnxruntime"))
    ops = [replace(op, layer="0") if op.layer == "3" else op for op in state.graph.ops]
    graph = replace(state.graph, ops=tuple(ops))
    save_layers(folder, SimpleNamespace(**{**vars(state), "graph": graph}), front_of())
    found = folder.network()
    assert found is not None
    assert found.models["dense"].measured == (0.25, None, None)
