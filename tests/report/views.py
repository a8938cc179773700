"""Records and views with a few known numbers: for the tests of the report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console, RenderableType
from synthetic_run import DEVICE

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Timing
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report.data import RunView
from autoprune.store import DenseReport


def measured(latency: float, **more) -> Cost:
    return Cost(latency_ms=latency, source="measured", device=DEVICE, **more)


def trial(number: int, accuracy: float, latency: float | None, **more) -> TrialRecord:
    values = {
        "state": "complete",
        "metrics": {"accuracy": accuracy},
        "predicted": Cost(macs=100, latency_ms=5.0, source="predicted", device=DEVICE),
        "measured": measured(latency) if latency is not None else None,
    }
    return TrialRecord(number, Candidate(Architecture()), seed=0, **{**values, **more})


def config(budget: dict, **more: object) -> RunConfig:
    return RunConfig.from_dict({"task": "t", "budget": budget, **more})


def view_of(
    *records: TrialRecord,
    budget: dict | None = None,
    dense: DenseReport | None = None,
    **more: object,
) -> RunView:
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    return RunView(
        name="run",
        config=config(budget or {"latency_ms": "80%"}),
        environment={},
        devices={"": None},
        records=records,
        front=ParetoFront(objectives, records, source="measured"),
        finished=True,
        dense=dense or DenseReport({"accuracy": 0.9}, Cost(macs=200), measured(10.0)),
        groups={},
        frozen=(),
        retrained=(),
        importances={},
        wall_s=None,
        **more,
    )


def on_two(
    phone: float | None,
    server: float | None,
    source: str,
    sure: Mapping[str, Confidence] = MappingProxyType({}),
) -> Cost:
    values = {"phone": phone, "server": server}
    timings = [
        Timing(name, value, None, DEVICE, sure.get(name))
        for name, value in values.items()
        if value is not None
    ]
    return Cost(macs=100, source=source, timings=tuple(timings))


def text_of(renderable: RenderableType, width: int = 140) -> str:
    """What a terminal of that width shows."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def line_of(text: str, start: str) -> list[str]:
    """The words of the first line with that beginning."""
    return next(line.split() for line in text.splitlines() if line.startswith(start))
