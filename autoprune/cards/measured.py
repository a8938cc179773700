"""What a run knows of one of its models, for the card of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.architecture import INT8
from autoprune.budget import Cost
from autoprune.cost_fields import FILE, field_at
from autoprune.errors import UsageError
from autoprune.loading import model_folder, run_around, saved
from autoprune.printable import counted
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.store import (
    INT8_FILE,
    DenseReport,
    RetrainingFolder,
    RetrainingSummary,
    RunFolder,
    Spread,
)

_COUNTS = ("params", "macs", "weight_bytes")
_OF_SEEDS = (*_COUNTS, FILE)
_OF_ANY_PRECISION = ("params", "macs")
Costs = tuple[Cost | None, ...]


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


def measured_over_seeds(
    run: RunFolder, record: TrialRecord, summary: RetrainingSummary
) -> Measured:
    """What a run knows of a retrained trial: costs as predicted and as measured, metrics of seeds.

    Of an int8 model all but the number of parameters is that of its int8 file.
    """
    dense = run.dense() or DenseReport()
    before, after = (dense.measured, dense.predicted), (summary.measured, record.predicted)
    expected = list(_latencies(record.predicted, dense.predicted, "predicted"))
    timed = list(_latencies(summary.measured, summary.dense.measured))
    rows = [*_counts(before, after, _OF_SEEDS)]
    rows += [replace(row, label=f"{row.label}, predicted") for row, _ in expected]
    rows += [replace(row, label=f"{row.label}, measured") for row, _ in timed]
    rows += _spreads(summary.test, summary.dense.test, "test")
    rows += _spreads(summary.validation, dense.metrics, "validation")
    many = len(summary.seeds) > 1
    words = (
        f"{_origin(run, summary)} with {text.seeds(summary.seeds)}. The test split was read once "
        f"for each finished model{'; ± is the standard deviation over the seeds' if many else ''}."
    )
    notes = [words, *(note for _, note in timed or expected)]
    if record.candidate.architecture.precision == INT8:
        notes.append(f"Metrics and costs are those of `{INT8_FILE}`, in the folder of each seed.")
    return Measured(tuple(rows), tuple(summary.test), tuple(notes))


def _origin(run: RunFolder, summary: RetrainingSummary) -> str:
    name, length = run.path.resolve().name, counted(summary.epochs, "epoch")
    return f"Trial {summary.number} of the search {name}, retrained for {length}"


def _spreads(found: Mapping[str, Spread], dense: Mapping[str, float], split: str) -> Iterator[Row]:
    for name, it in found.items():
        shown = text.metric(name, dense.get(name)), text.spread(name, it.mean, it.std)
        yield Row(f"{name}, {split}", *shown)


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
    metrics = next(report.test for report in summary.runs if report.seed == seed)
    beside = DenseReport(summary.dense.test, dense.predicted, summary.dense.measured)
    words = f"{_origin(run, summary)} with seed {seed}. Metrics are of the test split."
    record = next(record for record in run.records() if record.number == summary.number)
    return _facts(record, metrics, summary.measured, beside, words)


def _searched(run: RunFolder, folder: Path) -> Measured | None:
    """Of a trial's own model: metrics of the validation split."""
    for record in run.records():
        if record.artifact and (run.path / record.artifact).resolve() == folder.resolve():
            words = (
                f"Trial {record.number} of the search {run.path.resolve().name}, trained for "
                f"{counted(record.epochs, 'epoch')}. Metrics are of the validation split."
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
    costs = (dense.predicted, dense.measured), (record.predicted, record.measured)
    if record.candidate.architecture.precision == INT8:
        note = "It was measured in int8; only what holds for float32 is shown."
        return Measured(tuple(_counts(*costs, _OF_ANY_PRECISION)), notes=(words, note))
    timed = list(_latencies(measured, dense.measured))
    rows = [*_counts(*costs, _COUNTS), *(row for row, _ in timed)]
    rows += [
        Row(name, text.metric(name, dense.metrics.get(name)), text.metric(name, value))
        for name, value in metrics.items()
    ]
    return Measured(tuple(rows), tuple(metrics), (words, *(note for _, note in timed)))


def _counts(dense: Costs, pruned: Costs, names: tuple[str, ...]) -> Iterator[Row]:
    for name in names:
        values = [_count(costs, name) for costs in (dense, pruned)]
        if None not in values:
            yield Row(text.label(name), *(text.cost(name, value) for value in values))


def _count(costs: Costs, name: str) -> float | None:
    """The value of the first cost that has one."""
    known = (cost.value(name) for cost in costs if cost is not None)
    return next((value for value in known if value is not None), None)


def _latencies(
    cost: Cost | None, dense: Cost | None, how: str = "measured"
) -> Iterator[tuple[Row, str]]:
    """A row for each device of both costs, and where that was."""
    if cost is None or dense is None:
        return
    for name in cost.names or ("",):
        column = field_at("latency_ms", name)
        values = [dense.value(column), cost.value(column)]
        if None not in values:
            label, noise = text.label(column), cost.note(name)
            row = Row(label, *(text.cost(column, value) for value in values))
            where = f"{cost.device_of(name)}{f' ({noise})' if noise else ''}"
            yield row, f"{how.capitalize()} {label}: {where}."
