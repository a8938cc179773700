"""What a worker tells the search about a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REPORT = "report"  # the key of a Tune result under which a report travels


@dataclass(frozen=True)
class Conversion:
    """A finished trial's model in one precision: what it reached, and where it is saved.

    `file_bytes` is the size of its file where that is asked for.
    """

    precision: str
    metrics: Mapping[str, float]
    artifact: str
    file_bytes: float | None = None


@dataclass(frozen=True)
class Report:
    """A worker's report after each evaluation.

    `finished` is True once the trial has had all its training; `error` ends a trial as failed. A
    finished one has a `conversion` where the space allows both precisions.
    """

    epochs: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False
    artifact: str | None = None
    error: str | None = None
    optimizer: str = ""
    conversion: Conversion | None = None
