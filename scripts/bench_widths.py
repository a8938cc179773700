"""What efficient widths are worth: latency at equal accuracy, beside fixed multiples.

    AUTOPRUNE_DATA=... python scripts/bench_widths.py          # a few minutes a task

One profile in ONNX Runtime and one table of sensitivities a task; then for each rule of widths
(any, multiples of 8, `auto`) the knapsack's allocations at several shares of the dense model's
predicted latency. Models are repaired and refitted on the same 512 samples, not trained, scored on
the test split, and measured in turns with the dense one. Latency at equal accuracy is interpolated
between the models of a rule. Writes `results/bench/widths/widths.csv` and `summary.md`.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from autoprune._search.allocator import Allocator
from autoprune.cost.latency import measure_together
from autoprune.cost.targets import device_name
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.widths import efficient_step
from autoprune.graph import trace
from autoprune.pruning import importance, refit, sensitivity, surgery
from autoprune.pruning.compensate import calibrate, obs_scores, predict_batchnorm, repair
from autoprune.space import SearchSpace
from autoprune.tasks.load import load_dense, load_task
from autoprune.training.batches import sample

OUT = Path(__file__).parents[1] / "results" / "bench" / "widths"
RUNTIME = "onnxruntime"
RULES: tuple[int | str, ...] = (1, 8, "auto")
SHARES = (0.85, 0.7, 0.6, 0.5, 0.42, 0.35)
TASKS = ("spoken_digits", "cifar10")
REPEATS = 150


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "widths.csv"
    for name in given.tasks:
        rows = pd.DataFrame(bench(name))
        old = pd.read_csv(file) if file.exists() else pd.DataFrame()
        if not old.empty:
            old = old[old.task != name]
        pd.concat([old, rows]).to_csv(file, index=False)
    _summary(pd.read_csv(file))


def bench(name: str) -> list[dict[str, object]]:
    """All rules' models of one task: accuracy, and latency relative to dense."""
    task = load_task(name)
    dense = load_dense(task).eval()
    example = task.example_input()
    graph = trace(dense, example, ignored_layers=task.ignored_layers)
    predictor = LatencyPredictor.fit(dense, graph, example, runtime=RUNTIME)
    batches = sample(task, 0, samples=1024)
    calibration = calibrate(dense, batches, max_samples=1024, forward=task.loss)
    score = sensitivity.divergence(dense, sample(task, 0, samples=512), forward=task.outputs)
    damage = sensitivity.measure(dense, graph, calibration, score).at
    worth = obs_scores(dense, graph, calibration)
    inputs = [batch[0] for batch in sample(task, 0, samples=512)]
    recorded = refit.record(dense, inputs)
    sizes = graph.sizes()
    models, rows = [], []
    for rule in RULES:
        space = SearchSpace.parse({"ratios": {"max": 0.9}, "round_to": rule})
        space = space.fitted(efficient_step(graph, [predictor]))
        choices = {group: space.choices(group, sizes) for group in sizes}
        knapsack = Allocator.of_widths(
            choices, damage, lambda k: predictor.predict(k) / predictor.dense_ms
        )
        for share in SHARES:
            kept = knapsack.at(share)
            keep = importance.keep_counts(worth, kept)
            small = copy.deepcopy(dense)
            surgery.prune(small, graph, keep)
            repair(small, dense, graph, keep, calibration)
            predict_batchnorm(small, dense, graph, keep, calibration)
            refit.refit(small, dense, graph, keep, recorded)
            models.append(small.eval())
            rows.append(
                {
                    "task": name,
                    "rule": rule,
                    "asked": share,
                    "predicted": predictor.predict(kept) / predictor.dense_ms,
                    "accuracy": 100.0 * task.evaluate(small, "test")[task.metric],
                    "dense": 100.0 * task.evaluate(dense, "test")[task.metric],
                    "kept": " ".join(f"{group}={units}" for group, units in kept.items()),
                }
            )
    for start in range(len(SHARES)):  # one model of every rule takes turns with the dense one
        places = range(start, len(models), len(SHARES))
        together = [dense, *(models[place] for place in places)]
        found = measure_together(together, example, RUNTIME, repeats=REPEATS)
        for place, latency in zip(places, found[1:], strict=True):
            rows[place] |= {"ratio": latency.ratio, "dense_ms": found[0].median_ms}
    machine = f"{device_name()}, {RUNTIME} {version('onnxruntime')}, torch {version('torch')}"
    return [{**row, "machine": machine, "date": date.today().isoformat()} for row in rows]


def at_accuracy(rows: pd.DataFrame, accuracy: float) -> float:
    """The least time of this accuracy or more, linear between models; NaN where none has it."""
    points = sorted(zip(rows.accuracy, rows.ratio, strict=True), reverse=True)
    best: list[tuple[float, float]] = []  # slower only where more accurate
    for correct, ratio in points:
        if not best or ratio < best[-1][1]:
            best.append((correct, ratio))
    if not best or best[0][0] < accuracy:
        return float("nan")
    best.reverse()
    return float(np.interp(accuracy, [a for a, _ in best], [r for _, r in best]))


def _summary(found: pd.DataFrame) -> None:
    lines = [
        "# Efficient widths",
        "",
        "`python scripts/bench_widths.py`: latency (share of the dense model's, measured in turns "
        "with it) at equal test accuracy, right after repair and refit, without training. Rules: "
        "any width, multiples of 8, and the step chosen from the profile (`round_to: auto`).",
        "",
    ]
    for task, rows in found.groupby("task", sort=False):
        first, columns = rows.iloc[0], [str(rule) for rule in RULES]
        lines += [f"## {task}", "", f"Dense {first.dense:.2f} %, {first.dense_ms:.3f} ms. "]
        lines[-1] += f"{first.machine}; {first.date}."
        lines += ["", "| accuracy | " + " | ".join(columns) + " |", "|---" * 4 + "|"]
        for drop in (0.5, 1.0, 2.0, 4.0, 8.0):
            each = [
                at_accuracy(rows[rows.rule.astype(str) == r], first.dense - drop) for r in columns
            ]
            cells = [f"{value:.1%}" if np.isfinite(value) else "–" for value in each]
            lines.append(f"| dense - {drop:g} | " + " | ".join(cells) + " |")
        off = np.median(np.abs(rows.ratio / rows.predicted - 1.0))
        lines += ["", f"Median of measured over predicted: {off:.1%} off.", ""]
    (OUT / "summary.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
