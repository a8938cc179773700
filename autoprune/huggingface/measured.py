"""What a run knows of one of its models, for the card of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.budget import Cost
from autoprune.cost_fields import field_at
from autoprune.errors import UsageError
from autoprune.loading import model_folder, run_around, saved
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.store import DenseReport, RetrainingFolder, RunFolder

_COUNTS = ("params", "macs", "weight_bytes")
_OF_ANY_PRECISION = ("params", "macs")


@dataclass(frozen=True)
class Row:
    """A line of a table: what it is, of the dense model, and of the pruned one."""

    label: str
    dense: str
    pruned: str


@dataclass(frozen=True)
class Measured:
    """Costs and metrics of a model beside those of the dense one, as texts.

    `metrics` are the names of the metrics among the rows; `notes` say where the rows come from.
    """

    rows: tuple[Row, ...] = ()
    metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def measured_in(model: nn.Module, path: str | Path, pick: str) -> Measured:
    """What a run knows of this model; `path` and `pick` as for `load`.

    Raises UsageError where the model that they name has other weights, or lies in no run.
    """
    place = model_folder(path, pick)
    if not _are_equal(model.state_dict(), saved(place)[1]):
        raise UsageError(
            f"save_hf: the model has other weights than {place}, so that what was measured of that "
            "does not hold · save what autoprune.load gives for it, or leave out run="
        )
    folder = place.parent if place.is_file() else place
    run = run_around(folder)
    found = None if run is None else _retrained(run, folder) or _searched(run, folder)
    if found is None:
        raise UsageError(f"save_hf: run must be a run or a model in it, got {str(path)!r}")
    return found


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    same = one.keys() == other.keys()
    return same and all(torch.equal(one[name].cpu(), other[name]) for name in one)


def _retrained(run: RunFolder, folder: Path) -> Measured | None:
    """Of a retrained model: test metrics of its seed, latency of the first seed's model."""
    retraining = RetrainingFolder(folder.parent)
    seed = retraining.seed_at(folder)
    if seed is None:
        return None
    summary, dense = retraining.summary(), run.dense() or DenseReport()
    record = next(record for record in run.records() if record.number == summary.number)
    metrics = next(report.test for report in summary.runs if report.seed == seed)
    beside = DenseReport(summary.dense.test, dense.predicted, summary.dense.measured)
    words = (
        f"Trial {record.number} of the search {run.path.resolve().name}, retrained for "
        f"{summary.epochs:g} epochs with seed {seed}. Metrics are of the test split."
    )
    return _facts(record, metrics, summary.measured, beside, words)


def _searched(run: RunFolder, folder: Path) -> Measured | None:
    """Of a trial's own model: metrics of the validation split."""
    for record in run.records():
        if record.artifact and (run.path / record.artifact).resolve() == folder.resolve():
            words = (
                f"Trial {record.number} of the search {run.path.resolve().name}, trained for "
                f"{record.epochs:g} epochs. Metrics are of the validation split."
            )
            dense = run.dense() or DenseReport()
            return _facts(record, record.metrics, record.measured, dense, words)
    return None


def _facts(
    record: TrialRecord,
    metrics: Mapping[str, float],
    measured: Cost | None,
    dense: DenseReport,
    words: str,
) -> Measured:
    """The table; of an int8 model only what holds for its float32 weights, too."""
    if record.candidate.architecture.precision != "float32":
        note = "It was measured in int8; only what holds for float32 is shown."
        return Measured(tuple(_counts(record, dense, _OF_ANY_PRECISION)), notes=(words, note))
    before = dense.measured
    timed = list(_latencies(measured, before)) if measured and before else []
    rows = [*_counts(record, dense, _COUNTS), *(row for row, _ in timed)]
    rows += [
        Row(name, text.metric(name, dense.metrics.get(name)), text.metric(name, value))
        for name, value in metrics.items()
    ]
    return Measured(tuple(rows), tuple(metrics), (words, *(note for _, note in timed)))


def _counts(record: TrialRecord, dense: DenseReport, names: tuple[str, ...]) -> Iterator[Row]:
    for name in names:
        values = [_count(dense, name), _count(record, name)]
        if None not in values:
            yield Row(text.label(name), *(text.cost(name, value) for value in values))


def _count(of: TrialRecord | DenseReport, name: str) -> float | None:
    costs = (cost for cost in (of.predicted, of.measured) if cost is not None)
    return next((value for cost in costs if (value := cost.value(name)) is not None), None)


def _latencies(measured: Cost, dense: Cost) -> Iterator[tuple[Row, str]]:
    """A row for each device on which both were measured, and what it is."""
    for name in measured.names or ("",):
        column = field_at("latency_ms", name)
        values = [dense.value(column), measured.value(column)]
        if None not in values:
            label, noise = text.label(column), measured.note(name)
            row = Row(label, *(text.cost(column, value) for value in values))
            where = f"{measured.device_of(name)}{f' ({noise})' if noise else ''}"
            yield row, f"Measured {label}: {where}."
