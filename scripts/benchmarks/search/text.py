"""The benchmark as markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pandas as pd

from scripts.benchmarks.equal_cost.table import TESTED, binomial, paired
from scripts.benchmarks.search import table as tables
from scripts.benchmarks.search.setup import TOLD
from scripts.benchmarks.search.table import Table

_HOW = """\
Hypervolume: reference point dense cost and 50 % error, over the 0.5 that no cost and no error would
be; of the front that was chosen on validation data. Costs below 6 %, the lowest that methods are
told, count as 6 %, so that the largest value is 0.94. Accuracies: test split, the trial that is
best on validation at or below the cost. Mean ± standard deviation over seeds; in brackets the
standard error of one accuracy that the number of test samples brings, where they are fewer than
2,000. Compute: one training sample (forward and backward of the candidate)
counts 1 whatever the model's size; any other pass (validation, teacher, calibration, sensitivity,
screening, re-estimated BatchNorm) counts 1/3 for as many multiply-accumulates as a forward pass of
the dense model has. `other` is the share of the compute that is not training; `MACs` is the compute
with training weighted by multiply-accumulates too. Trials that ended when the compute was spent do
not count. `over` counts members of all fronts above the budget of 70 % of the dense model's
multiply-accumulates. `autoprune_ratios` and its variants draw a ratio for each group, which was the
product's default until 30 November 2026. All methods have the learning rate that is named, but
`_lr0.01` and `_recipe`, whose first candidates have 0.01.
"""
_PAIRED_WITH = ("uniform_repaired", "uniform")
_FEW = 2000  # test samples


def markdown(table: Table, long: pd.DataFrame) -> str:
    """Every task's table, then the long recovery."""
    parts = ["# Search benchmark", "", _HOW]
    for task in table.data.task.unique():
        parts += _task(table, task)
        if not long.empty and task in set(long.task):
            parts += _long(long[long.task == task], table.of(task))
    return "\n".join(parts)


def _task(table: Table, task: str) -> list[str]:
    first = table.of(task).iloc[0]
    lines = [
        f"## {task}",
        "",
        f"Dense: test {100 * first.dense_test:.2f} %, {first.dense_macs / 1e6:.2f} M MACs, weights "
        f"{first.dense}. Compute of a method: {first.budget / first.factor:,.0f} training samples "
        f"({first.setting}). {first.machine}, {int(first.threads)} threads, {first.precision}; "
        f"{first.versions}.",
        "",
        "| method | seeds | hypervolume (test) | (val) | "
        + " | ".join(f"at {level:.0%}" for level in TOLD)
        + " | trials | other | MACs | minutes | over |",
        "|---|" + "---:|" * (8 + len(TOLD)),
    ]
    runs = tables.summary(table, task)
    order = runs.groupby("method").hv_test.mean().sort_values(ascending=False).index
    for method in order:
        own = runs[runs.method == method]
        cells = [method, str(len(own)), _spread(own.hv_test, 4), _spread(own.hv_val, 4)]
        cells += [_accuracy(own[f"at_{level:.0%}"], task) for level in TOLD]
        cells += [f"{own.trials.mean():.1f}", f"{own.other.mean():.0%}", f"{own.macs.mean():.2f}"]
        cells += [f"{own.wall_min.mean():.1f}", str(int(own.over.sum()))]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_factor(table, task)]
    for base in _PAIRED_WITH:
        lines += _differences(runs, list(order), base)
    return lines


def _accuracy(values: pd.Series, task: str) -> str:
    """Spread over seeds in %, and the standard error of one value where few samples are tested."""
    known = values.dropna()
    if known.empty or TESTED.get(task, _FEW) >= _FEW:
        return _spread(100 * values, 2)
    error = binomial(pd.DataFrame({"task": task, "test_accuracy": known}))
    return f"{_spread(100 * values, 2)} [{100 * error:.1f}]"


def _differences(runs: pd.DataFrame, methods: Sequence[str], base: str) -> list[str]:
    """Each method's lead over another one, seed by seed; nothing where that one was not run."""
    theirs = runs[runs.method == base]
    if theirs.empty:
        return []
    levels = [f"at_{level:.0%}" for level in TOLD]
    lines = [
        f"Differences to {base}, seed by seed, with their 95 % interval (Student's t; one seed has "
        "none): test hypervolume times 100, and accuracies in points.",
        "",
        "| method | seeds | hypervolume | "
        + " | ".join(level.replace("_", " ") for level in levels)
        + " |",
        "|---|" + "---:|" * (2 + len(levels)),
    ]
    for method in methods:
        both = runs[runs.method == method].merge(theirs, on="seed", suffixes=("", "_base"))
        if method != base and not both.empty:
            cells = [method, str(len(both))]
            cells += [_lead(both, column) for column in ("hv_test", *levels)]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _lead(both: pd.DataFrame, column: str) -> str:
    """The mean difference in points, of the seeds in which both have a value."""
    known = (100 * (both[column] - both[f"{column}_base"])).dropna()
    if known.empty:
        return "–"
    lacking = f", {len(known)} of {len(both)} seeds" if len(known) < len(both) else ""
    return paired(known.to_numpy()) + lacking


def _factor(table: Table, task: str) -> list[str]:
    """How much compute the plain loop needs for the hypervolume of autoprune's searches."""
    lines = []
    for method in table.of(task).method.unique():
        if " x" not in method:
            continue
        runs = product(sorted(table.of(task, method).seed.unique()), tables.SEARCHES)
        for seed, search in runs:
            ours = table.of(task, search, seed)
            if ours.empty:
                continue
            wanted = tables.volume(tables.points_of(ours, "val_accuracy"))
            loop = table.of(task, method, seed)
            share = tables.needed(loop, wanted) / ours.iloc[0].budget
            most = float(loop.iloc[0].factor)
            reached = (
                f"after {share:.1f} times the compute"
                if math.isfinite(share)
                else (
                    f"not within {most:g} times the compute "
                    f"(it has {tables.volume(tables.points_of(loop, 'val_accuracy')):.4f})"
                )
            )
            lines.append(
                f"- {method}, seed {seed}: the validation hypervolume of {search} ({wanted:.4f}) "
                f"is reached {reached}."
            )
    return [*lines, ""] if lines else []


def _long(long: pd.DataFrame, short: pd.DataFrame) -> list[str]:
    """Members of each front after long recovery; `short` are the task's trials.

    A hypervolume is that of all levels: a seed has none where a member is not recovered yet.
    """
    epochs = ", ".join(f"{value:g}" for value in sorted(long.epochs.unique()))
    levels = sorted(long.level.unique(), reverse=True)
    first = long.iloc[0]
    lines = [
        f"After {epochs} epochs of recovery ({first.precision}): the test hypervolume of a seed's "
        "members at all these costs, and their accuracies at the end (mean share of the MACs):",
        "",
        "| method | seeds | hypervolume | "
        + " | ".join(f"at {level:.0%}" for level in levels)
        + " |",
        "|---|" + "---:|" * (2 + len(levels)),
    ]
    found = []
    for method, own in long.groupby("method", sort=False):
        runs = short[short.method == method]
        volumes = pd.Series(
            {
                seed: _volume(part) if _whole(part, runs[runs.seed == seed], levels) else math.nan
                for seed, part in own.groupby("seed")
            }
        )
        cells = [str(method), str(len(volumes)), _spread(volumes, 4)]
        cells += [_member(own[own.level == level], len(volumes)) for level in levels]
        rank = volumes.fillna(0.0).mean(), own.test_accuracy.mean()
        found.append((rank, "| " + " | ".join(cells) + " |"))
    return [*lines, *(line for _, line in sorted(found, reverse=True)), ""]


def _whole(members: pd.DataFrame, trials: pd.DataFrame, levels: Sequence[float]) -> bool:
    """Whether a run's members of all levels are recovered, as far as there are any."""
    return all(
        level in set(members.level) or tables.at_most(trials, level) is None for level in levels
    )


def _volume(members: pd.DataFrame) -> float:
    """The hypervolume on test of those that are not dominated on validation."""
    on_val = list(zip(members.macs_share, members.val_accuracy, strict=True))
    on_test = list(zip(members.macs_share, members.test_accuracy, strict=True))
    return tables.volume([on_test[place] for place in tables.front(on_val)])


def _member(own: pd.DataFrame, seeds: int) -> str:
    if own.empty:
        return "–"
    lacking = "" if len(own) == seeds else f", {len(own)} of {seeds} seeds"
    return f"{_spread(100 * own.test_accuracy, 2)} ({own.macs_share.mean():.0%}{lacking})"


def _spread(values: pd.Series, digits: int) -> str:
    """Mean ± sample standard deviation; the mean alone of one value.

    >>> _spread(pd.Series([1.0, 3.0]), 1), _spread(pd.Series([2.0]), 1), _spread(pd.Series([]), 1)
    ('2.0 ± 1.4', '2.0', '–')
    """
    known = values.dropna()
    if known.empty:
        return "–"
    mean = f"{known.mean():.{digits}f}"
    lacking = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return mean + (f" ± {known.std():.{digits}f}" if len(known) > 1 else "") + lacking


def frame(data: pd.DataFrame, digits: int) -> str:
    """A frame of numbers with its index, as a table in Markdown; what is missing as –."""
    lines = ["| " + " | ".join(["", *map(str, data.columns)]) + " |"]
    lines.append("|---|" + "---:|" * data.shape[1])
    for name, row in zip(data.index, data.to_numpy(), strict=True):
        cells = ["–" if math.isnan(x) else f"{x:.{digits}f}" for x in row]
        lines.append("| " + " | ".join([str(name), *cells]) + " |")
    return "\n".join(lines)
