"""A product's search, its recommended model retrained, and what widths, steps and repair add.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.examples voice_commands --epochs 40 --seeds 3

Searches `examples/<name>.yaml`, retrains the recommended model with `autoprune.retrain`, and trains
beside it, for as many epochs at the same learning rate and with the same seeds:

- the same architecture pruned at once from the trained dense model, then fine-tuned (or, where the
  recommended one is itself pruned at once, the same in steps during training);
- uniform widths of as many bytes (or of the same predicted latency), with the recommended model's
  order of units, repair, schedule and recovery: what the search of widths adds;
- the same uniform widths, units chosen by their L2 norm, pruned at once without repair, fine-tuned
  on the labels alone.

The test split is read once for each model. Everything is resumed where it was interrupted; rows in
`results/examples/<name>/rows.csv`, table `README.md`, picture `front.png`.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

import autoprune
from autoprune.api import run_config
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.report.formats import picture
from autoprune.report.read import read
from autoprune.store import RunFolder, write_text
from scripts.benchmarks import harness
from scripts.benchmarks.examples.recipes import Bench, others
from scripts.benchmarks.examples.table import write_page
from scripts.benchmarks.harness import RESULTS, ROOT, Rows

OF_THIS_MACHINE = {"data", "output", "base", "from_run"}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("name", help="of examples/<name>.yaml")
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, help="default: the retraining's own")
    parser.add_argument("--set", action="append", default=[], help="as of autoprune search")
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = RESULTS / "examples" / given.name
    rows = Rows(folder / "rows.csv", ["recipe", "seed"])
    if not given.only_table:
        run = searched(given.name, folder, given.set)
        train_all(run, rows, given)
    write_page(given.name, folder, rows)


def searched(name: str, folder: Path, overrides: list[str]) -> RunFolder:
    """The run of an example, searched or resumed; what is published of it is copied out."""
    run = folder / "run"
    if run.is_dir():
        autoprune.resume(run)
    else:
        (folder / "rows.csv").unlink(missing_ok=True)  # of another search's model
        file = ROOT / "examples" / f"{name}.yaml"
        run_config(RunConfig.load(file, [f"output={run}", *overrides]))
    shutil.copy(run / "trials.csv", folder / "trials.csv")
    write_text(folder / "config.yaml", as_published(RunFolder.open(run).config))
    (folder / "front.png").write_bytes(picture(read(run), None, (960, 550)))
    return RunFolder.open(run)


def as_published(config: RunConfig) -> str:
    """The resolved configuration without folders of this machine, to be run where it lies."""
    values = {k: v for k, v in config.to_dict().items() if k not in OF_THIS_MACHINE}
    task = Path(values["task"]).relative_to(ROOT)
    values["task"] = f"../../../{task}"
    return yaml.safe_dump(values, sort_keys=False)


def train_all(run: RunFolder, rows: Rows, given: Namespace) -> None:
    """The dense model, the recommended one by the product itself, then the recipes beside it."""
    bench, where = Bench(run), harness.circumstances()
    if rows.find(recipe="dense").empty:
        rows.put({"recipe": "dense", "seed": 0, "epochs": 0.0, **bench.dense_row(), **where})
    done = autoprune.retrain(
        run.path,
        epochs=given.epochs,
        seeds=given.seeds,
        lr=given.lr,
        quantization_aware=bench.simulates_int8,
        on_entry=say,
    )
    chosen = done.summary.candidate  # at the rate that suits the length
    shared = {"epochs": given.epochs, "lr": chosen.recovery.lr}
    for found in bench.retrained(done):
        rows.put({"recipe": "autoprune", **kind_of(chosen), **shared, **found, **where})
    for name, candidate in others(bench, chosen).items():
        for seed in range(given.seeds):
            if rows.find(recipe=name, seed=seed).empty:
                found = bench.trained(candidate, given.epochs, seed, say)
                rows.put({"recipe": name, **kind_of(candidate), **shared, **found, **where})


def kind_of(candidate: Candidate) -> dict[str, object]:
    return {"schedule": candidate.schedule.kind, "importance": candidate.selection.importance}


def say(seed: int, entry: Mapping[str, float]) -> None:
    print(seed, {name: round(value, 4) for name, value in entry.items()}, flush=True)


if __name__ == "__main__":
    main()
