"""Run folder → `RunView`; files that are not there yet leave their part empty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.budget import Cost
from autoprune.errors import StoreError
from autoprune.fields import is_cost
from autoprune.pareto import Direction, Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report.data import Dense, Retrained, RunView
from autoprune.store import RunFolder, device_file

_LOWER_IS_BETTER = ("loss", "error", "perplexity", "mae", "mse", "rmse")


def read(run: RunFolder | str | Path) -> RunView:
    """Read a run, finished or not. Raises StoreError where a file is damaged."""
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    config, records = folder.config, folder.records()
    stored = _json(folder, "front.json")
    dense = _dense(_json(folder, "dense.json"))
    groups, state = _json(folder, "groups.json"), _json(folder, "state.json")
    return RunView(
        name=folder.path.resolve().name,
        config=config,
        environment=_json(folder, "environment.json"),
        devices=_devices(folder, config),
        records=records,
        front=_front(stored, config, records, dense),
        finished=bool(stored) and state.get("phase", "done") == "done",
        dense=dense,
        groups={group["name"]: group["size"] for group in groups.get("groups", ())},
        frozen=tuple(groups.get("frozen", ())),
        retrained=_retrained(folder),
        importances=_json(folder, "importances.json"),
        wall_s=state.get("elapsed_s"),
        not_measured=stored.get("not_measured"),
        over={int(n): found for n, found in stored.get("over_budget_when_measured", {}).items()},
    )


def _json(folder: RunFolder, name: str) -> dict[str, Any]:
    if not (folder.path / name).is_file():
        return {}
    content = folder.read_json(name)
    if not isinstance(content, dict):
        raise StoreError(f"{folder.path / name} must hold a mapping, got {type(content).__name__}")
    return content


def _devices(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, what is known of each device: its profile, or nothing."""
    names = list(config.get("devices") or {}) or [""]
    return {name: _json(folder, device_file(name)) for name in names}


def _dense(data: Mapping[str, Any]) -> Dense:
    predicted, measured = data.get("predicted"), data.get("measured")
    return Dense(
        metrics=data.get("metrics") or {},
        predicted=Cost.from_dict(predicted) if predicted else None,
        measured=Cost.from_dict(measured) if measured else None,
    )


def _front(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    records: tuple[TrialRecord, ...],
    dense: Dense,
) -> ParetoFront | None:
    """The stored front, or that of the records so far while the search is still going on."""
    if stored.get("objectives"):
        return ParetoFront.from_dict(stored, records)
    names = (config.get("search") or {}).get("objectives") or [
        next((n for r in records for n in sorted(r.metrics, key="loss".__eq__)), None),
        next(iter(config.get("budget") or {}), None),
    ]
    if any(name is None for name in names):
        return None
    return ParetoFront(tuple(Objective(n, _direction(n)) for n in names), records)


def _direction(name: str) -> Direction:
    lower = is_cost(name) or any(word in name for word in _LOWER_IS_BETTER)
    return "minimize" if lower else "maximize"


def _retrained(folder: RunFolder) -> tuple[Retrained, ...]:
    found = (path.parent.name for path in (folder.path / "retrained").glob("*/summary.json"))
    names = sorted(found, key=lambda name: (len(name), name))
    return tuple(_result(name, _json(folder, f"retrained/{name}/summary.json")) for name in names)


def _result(name: str, data: Mapping[str, Any]) -> Retrained:
    measured = data.get("measured")
    dense = data.get("dense") or {}
    beside = dense.get("measured")
    return Retrained(
        number=int(data.get("number", name)),
        epochs=float(data.get("epochs", 0.0)),
        seeds=tuple(data.get("seeds", ())),
        test={key: (value["mean"], value["std"]) for key, value in data.get("test", {}).items()},
        dense=dense.get("test") or {},
        measured=Cost.from_dict(measured) if measured else None,
        dense_measured=Cost.from_dict(beside) if beside else None,
    )
