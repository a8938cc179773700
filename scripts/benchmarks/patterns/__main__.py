"""What zeros inside of weights are worth: accuracy and bytes of the file, beside channels.

    AUTOPRUNE_DATA=... OMP_NUM_THREADS=1 python -m scripts.benchmarks.patterns    # 5 minutes

The keyword DS-CNN of MLPerf Tiny with its public weights. Each model is pruned at once (or on a
cubic schedule), repaired or not, and trained with the default recovery; unstructured sparsities are
spread over the weights by layer-adaptive magnitude. `after pruning` is before any training (batch
normalizations re-estimated), and is left empty for a schedule, which goes on pruning during the
training. Nothing is chosen on the test column. Rows that are in `results/patterns/patterns.csv`
are kept, those of other `--epochs` too, so it can be stopped and run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost.file_size import FileSize
from autoprune.cost.model import CostModel
from autoprune.graph import PruningGraph, trace
from autoprune.patterns import PatternSpace, WeightCurve
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.sparsity import sparse_weights
from autoprune.pruning.weight_importance import curves
from autoprune.schedule import Schedule
from autoprune.space import kept_units
from autoprune.space.fitted_patterns import FittedPatterns
from autoprune.store import pack, recipe_of, write_text
from autoprune.tasks import load_dense
from autoprune.training import RecoveryRun
from autoprune.training.batches import sample
from examples.voice_commands import VoiceCommands
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "patterns"
KEY = ["pruned", "importance", "repair", "schedule", "epochs"]
SHOWN = {
    "pruned": ("pruned", ""),
    "importance": ("importance", ""),
    "repair": ("repair", ""),
    "schedule": ("schedule", ""),
    "epochs": ("epochs", "g"),
    "val_before": ("validation after pruning", ".1%"),
    "val": ("validation", ".1%"),
    "test": ("test", ".1%"),
    "file_bytes": ("file bytes", ",.0f"),
    "share": ("of dense", ".0%"),
    "predicted_error": ("predicted", "+.1%"),
}
SEED, SAMPLES = 0, 512
AT_ONCE = Schedule()
CUBIC = Schedule("cubic", 0.0, 0.5, 4)
CHANNELS = ("l1", "l2", "group", "bn_scale", "fpgm", "wanda", "taylor", "movement", "obs")
SINGLE = ("l2", "wanda", "taylor", "movement", "obs")  # l2: the magnitude


@dataclass(frozen=True)
class Variant:
    """What is pruned: a share of the channels of every group, and a pattern."""

    channels: float = 0.0
    pattern: str = ""
    importance: str = "obs"
    repair: bool = True
    schedule: Schedule = AT_ONCE

    @property
    def name(self) -> str:
        parts = [f"channels {self.channels:g}"] if self.channels else []
        return " + ".join([*parts, *([self.pattern] if self.pattern else [])]) or "nothing"


def variants() -> Iterator[Variant]:
    """The first table, then the importances with channels and with single weights."""
    yield Variant()
    yield from (Variant(share) for share in (0.25, 0.5))
    for pattern in ("0.5", "0.8", "0.9", "2:4"):
        yield from (Variant(0.0, pattern, repair=repair) for repair in (False, True))
    yield Variant(0.0, "0.9", schedule=CUBIC)
    yield from (Variant(0.25, pattern) for pattern in ("0.5", "2:4"))
    yield from (Variant(0.4, importance=name) for name in CHANNELS)
    yield from (Variant(0.0, "0.7", importance=name) for name in SINGLE)


class Bench:
    """Task, dense model, and what is computed once."""

    def __init__(self) -> None:
        self.task = VoiceCommands()
        self.dense = load_dense(self.task).eval()
        self.graph: PruningGraph = trace(self.dense, self.task.example_input())
        batches = sample(self.task, SEED, samples=SAMPLES)
        self.calibration = calibrate(self.dense, batches, max_samples=SAMPLES)
        self.state = self.dense.state_dict()
        self.costs = CostModel(self.graph, file=FileSize.of(self.state, self.graph))
        weights = dict(self.dense.named_parameters())
        dims = sparse_weights(self.dense, self.graph)
        found = curves({name: weights[name] for name in dims}, 101)
        self.weights = {
            n: WeightCurve(weights[n].numel(), weights[n].shape[dims[n]], found[n]) for n in dims
        }

    def candidate(self, variant: Variant) -> Candidate:
        sizes = self.graph.sizes()
        widths = {name: kept_units(size, variant.channels) for name, size in sizes.items()}
        kind = variant.pattern if ":" in variant.pattern else "unstructured"
        share = 0.0 if ":" in variant.pattern else float(variant.pattern or 0.0)
        fitted = FittedPatterns(PatternSpace((kind,), 0.0, 0.99), self.weights)
        patterns = fitted.patterns(fitted.uniform(kind, share))
        return Candidate.planned(
            Architecture(widths, patterns=patterns),
            sizes,
            selection=Selection(variant.importance, bool(variant.repair)),
            schedule=variant.schedule,
            recovery=Recovery(),
        )

    def row(self, variant: Variant, epochs: float) -> dict[str, object]:
        made, began = self.candidate(variant), time.monotonic()
        run = RecoveryRun(
            *(self.task, self.dense, self.graph, made),
            epochs=epochs,
            seed=SEED,
            calibration=self.calibration,
        )
        is_one_shot = variant.schedule.kind == "one_shot"
        before = run.evaluate("val")["accuracy"] if is_one_shot else None
        if variant != Variant():  # the dense model is not trained further
            while not run.finished:
                run.advance(epochs)
        recipe = recipe_of(made, run.kept_indices, task="VoiceCommands")
        size = len(pack(recipe, run.result().state_dict()))
        predicted = self.costs.cost(made.architecture).file_bytes or 0
        return {
            "pruned": variant.name,
            "importance": variant.importance if variant != Variant() else "",
            "repair": "yes" if variant.repair else "no",
            "schedule": variant.schedule.kind,
            "epochs": epochs,
            "val_before": before,
            "val": run.evaluate("val")["accuracy"],
            "test": run.evaluate("test")["accuracy"],
            "file_bytes": size,
            "predicted_error": predicted / size - 1.0,
            "seconds": time.monotonic() - began,
            "seed": SEED,
            **harness.circumstances(),
        }


def write_table(rows: Rows) -> None:
    """The tables as Markdown."""
    found = rows.read()
    dense = found[found.pruned == "nothing"].file_bytes
    found["share"] = found.file_bytes / (dense.iloc[0] if len(dense) else float("nan"))
    compared = found.pruned.isin(["channels 0.4", "0.7"])
    text = HEAD.format(stamp=harness.stamp(found))
    for title, part in (("", found[~compared]), (COMPARED, found[compared])):
        text += title + harness.table(part, SHOWN) + "\n"
    write_text(OUT / "README.md", text)


HEAD = """# Sparsity patterns

The keyword DS-CNN (MLPerf Tiny's public weights), pruned and trained for
the epochs given (the model of which nothing is pruned is not); seed 0; 720 validation and 1,238
test clips, so a difference below 1 point says little. `validation after pruning` is before any
training, of models that are pruned at once. `file bytes` is the packed file (`autoprune export
--format packed`), true; `predicted` how far the prediction of a search is off. Numbers such as 0.8
are the share of zeros over all weights that can have them. None of these zeros makes the network
faster in a runtime measured here.
{stamp}

"""
COMPARED = """
## Importances compared

Channels: 40 % of every group. Single weights: 70 % zero; `l2` is the magnitude there. All repaired.

"""


def is_known(rows: Rows, variant: Variant, epochs: float) -> bool:
    """Whether there is a row of this variant and training."""
    repair, schedule = "yes" if variant.repair else "no", variant.schedule.kind
    known = rows.find(pruned=variant.name, repair=repair, schedule=schedule, epochs=epochs)
    name = variant.importance if variant != Variant() else ""
    return bool((known.importance.fillna("") == name).any()) if len(known) else False


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = harness.parser(__doc__)
    parser.add_argument("--epochs", type=float, default=2.0)
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    bench, rows = Bench(), Rows(OUT / "patterns.csv", KEY)
    for variant in variants():
        if not is_known(rows, variant, options.epochs):
            row = bench.row(variant, options.epochs)
            rows.put(row)
            write_table(rows)
            print(pd.Series(row)[list(KEY)].to_dict(), f"{row['val']:.3f}", row["file_bytes"])
    write_table(rows)


if __name__ == "__main__":
    main()
