"""The rows as a table: each method's test accuracy, and its paired lead over the best baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.equal_cost.bench import METHODS
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "equal_cost"
EQUAL = 0.1  # of a share of the cost: models further apart are not compared
KEY = ["task", "cost", "share", "method", "epochs", "rates", "matched", "dense_epochs", "seed"]
PLAIN = {  # float32, widths alone, trained no longer than others
    name for name, method in METHODS.items() if not method.beside and method.epochs == 1
}
BASELINES = {name for name in PLAIN if not METHODS[name].recipe}  # of all methods
GROUP = ["task", "cost", "share", "epochs", "rates", "matched", "dense_epochs"]
TESTED = {  # test samples of each task
    **dict.fromkeys(["resnet8", "resnet20", "resnet56", "fashion_mnist"], 10_000),
    **{"keywords": 1_238, "spoken_digits": 300},
}
MEANS = ["measured_share", "file_share", "macs_share", "dropped"]
SHOWN = {
    "task": ("task", ""),
    "cost": ("cost", ""),
    "share": ("wanted", ".0%"),
    "epochs": ("epochs", "g"),
    "rates": ("rates", ""),
    "dense": ("dense model", ""),
    "equal": ("equal as", ""),
    "method": ("method", ""),
    "seeds": ("seeds", "d"),
    "chosen": ("rate chosen", ""),
    "measured_share": ("measured", ".1%"),
    "file_share": ("file", ".1%"),
    "macs_share": ("MACs", ".1%"),
    "dropped": ("blocks dropped", ".0f"),
    "test": ("test", ""),
    "binomial": ("binomial error", ".1%"),
    "lead": ("beside the best baseline", ""),
}


def stored_rows() -> Rows:
    """The file of the rows; those without `dense_epochs` are of the tasks' own dense models."""
    return Rows(OUT / "rows.csv", KEY, absent={"dense_epochs": 0})


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each method at each cost: means over seeds, and the paired difference."""
    found = []
    for values, group in rows.groupby(GROUP, sort=False):
        about = dict(zip(GROUP, values, strict=True))
        for method, members in group.groupby("method", sort=False):
            best = _best_baseline(group, _baselines_of(str(method)))
            found.append(
                {
                    **about,
                    "dense": dense_model(int(about["dense_epochs"])),
                    "equal": _equal(str(method), members),
                    "method": method,
                    "seeds": len(members),
                    "chosen": _rates(members),
                    "test": _spread(members.test_accuracy),
                    "binomial": binomial(members),
                    "lead": _lead(members, best) if method not in PLAIN else "",
                    **members.reindex(columns=MEANS).mean(),
                }
            )
    return pd.DataFrame(found)


def _equal(method: str, members: pd.DataFrame) -> str:
    """By what its cost was chosen; a search limits what is predicted."""
    is_measured = members.matched.all() and not METHODS[method].is_searched
    return "measured" if is_measured else "predicted"


def dense_model(epochs: int) -> str:
    """Which dense model is pruned."""
    return f"{epochs} epochs" if epochs else "the task's"


def _baselines_of(method: str) -> set[str]:
    """What a method is compared with; one that has the search's recipe, with such ones, too."""
    return PLAIN if METHODS[method].recipe else BASELINES


def _best_baseline(group: pd.DataFrame, baselines: set[str]) -> pd.DataFrame:
    """The baseline with the best mean on validation, of those with the most seeds.

    Of those that hold the wanted share, where one does.
    """
    known = group[group.method.isin(baselines)]
    within = [name for name, rows in known.groupby("method") if within_share(rows)]
    known = known[known.method.isin(within or list(known.method))]
    found = known.groupby("method").val_accuracy.agg(["size", "mean"])
    if found.empty:
        return group.iloc[:0]
    means = found[found["size"] == found["size"].max()]["mean"]
    return group[group.method == means.idxmax()]


def binomial(members: pd.DataFrame) -> float:
    """The standard error of one accuracy that the number of test samples brings."""
    accuracy = float(members.test_accuracy.mean())
    return float(np.sqrt(accuracy * (1.0 - accuracy) / TESTED[str(members.task.iloc[0])]))


def _rates(members: pd.DataFrame) -> str:
    """The rates that were best on validation, of several, and in how many seeds."""
    if not str(members.rates.iloc[0]).count(","):
        return ""
    counts = members.lr.value_counts().sort_index()
    return ", ".join(f"{rate:g} ({count})" for rate, count in counts.items())


def _spread(values: pd.Series) -> str:
    spread = f" ± {100 * values.std():.2f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.2f}{spread} %"


def _lead(members: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """Mean of the differences seed by seed, with the 95 % interval of Student's t.

    Words instead where the costs are not equal.
    """
    both = members.merge(baseline, on="seed", suffixes=("", "_base"))
    if both.empty:
        return ""
    if not at_equal_cost(members, baseline):
        return "not at equal cost"
    return paired(100 * (both.test_accuracy - both.test_accuracy_base).to_numpy(), " pt")


def at_equal_cost(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether both hold the wanted share, and the mean costs are within `EQUAL` of each other.

    Costs are as measured; as predicted where nobody measured them.
    """
    return (
        within_share(one)
        and within_share(other)
        and abs(cost_share(one) / cost_share(other) - 1.0) <= EQUAL
    )


def within_share(rows: pd.DataFrame) -> bool:
    """Whether a method's models are at most `EQUAL` above the wanted share of the cost."""
    return cost_share(rows) <= (1.0 + EQUAL) * float(rows.share.mean())


def cost_share(rows: pd.DataFrame) -> float:
    """The mean share of the dense model's cost, as measured; else as predicted."""
    return float(rows.measured_share.fillna(rows.predicted_share).mean())


def paired(differences: NDArray[np.float64], unit: str = "") -> str:
    """The mean of differences seed by seed, with the 95 % interval of Student's t.

    >>> paired(np.array([1.0, 2.0, 3.0])), paired(np.array([1.0]), " pt")
    ('+2.00 (-0.48 to +4.48)', '+1.00 pt')
    """
    mean, count = differences.mean(), len(differences)
    if count < 2:
        return f"{mean:+.2f}{unit}"
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{mean:+.2f}{unit} ({mean - half:+.2f} to {mean + half:+.2f})"


def write_page(rows: pd.DataFrame) -> None:
    """Write `README.md` from the rows."""
    text = (
        "# Accuracy at equal cost after full training\n\n"
        "All methods: the same order of units and repair, the same training; of the learning rates "
        "in `rates` (one, where it holds one) each method keeps the best by validation (in "
        "brackets: in how many seeds; a better one may lie beyond the highest and lowest). Test "
        "accuracy, mean ± standard deviation over seeds; beside it the standard error of a single "
        "accuracy that the number of test samples brings. The wanted share of the cost holds as "
        "predicted or as measured when the architectures were chosen; `measured` is of what was "
        "trained (of bytes of weights nothing is measured). The last column: paired differences, "
        "with their 95 % interval, to the baseline that is best on validation (float32, widths "
        "alone, also of a smaller dense model; for `search, its recipe` also those that are "
        "trained by that recipe). int8 accuracies and all latencies are those of "
        "ONNX Runtime, one thread. A method that cannot get as low as wanted has the row of its "
        "smallest model; the largest ratio of a layer is the same for all (up to commit 53817d9 "
        "0.9 for `global l2` and `FastNAS rule`, 0.95 for others). Costs more than "
        f"{100 * EQUAL:g} % apart, or above the wanted share, are not compared. The public "
        "CIFAR-10 checkpoints (`resnet8`, `resnet20`, `resnet56`, where the dense model is the "
        "task's) have seen the validation images: validation accuracy is optimistic there, and "
        "rates chosen on it favour none of the methods that start from such weights, but may be "
        "too high or too low. "
        f"{harness.stamp(rows)}\n\n"
        f"{harness.table(summary(rows), SHOWN)}\n"
    )
    write_text(OUT / "README.md", text)
