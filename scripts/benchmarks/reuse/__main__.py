"""What a new budget costs after an earlier run.

    python -m scripts.benchmarks.reuse                     # 10 minutes
    python -m scripts.benchmarks.reuse --seeds 0

On the built-in digits: a first search with a wide budget, then a tight one twice, from the
beginning and with `from_run` and a tenth of the trials. The hypervolumes of these two fronts, on
validation data, have one reference: half of the dense accuracy and the dense cost. Baselines are
off in all three. Seconds are those of the whole search, and of what comes before its first trial.
Rows: `results/reuse/reuse.csv`; table: `README.md`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

import autoprune
from autoprune.callbacks import Callback
from autoprune.config import RunConfig
from autoprune.report.comparison import hypervolumes
from autoprune.store import SearchPlan, write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "reuse"
TRIALS, SHARE, EPOCHS = 30, 10, 0.5
WIDE, TIGHT = "60%", "35%"
SHOWN = {
    "seed": ("seed", ""),
    "search": ("search", ""),
    "budget": ("MACs", ""),
    "trained": ("trials trained", ""),
    "epochs": ("epochs", ".1f"),
    "wall_s": ("seconds", ".0f"),
    "preparation_s": ("of these before the first trial", ".0f"),
    "members": ("front", ""),
    "hypervolume": ("hypervolume", ".1%"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    file = Rows(OUT / "reuse.csv", ["seed", "search"])
    for seed in given.seeds:
        with TemporaryDirectory() as folder:
            rows = one_seed(Path(folder), seed)
        file.put(*({**row, **harness.circumstances()} for row in rows))
    text = page(file.read())
    write_text(OUT / "README.md", text)
    print(text)


def page(rows: pd.DataFrame) -> str:
    """The table, and what `from_run` needed and reached beside the search from the beginning."""
    by = rows.set_index(["seed", "search"])[["epochs", "wall_s", "hypervolume"]].unstack()
    shares = {
        name: by[name]["from_run"] / by[name]["from the beginning"]
        for name in ("epochs", "wall_s", "hypervolume")
    }
    words = "; ".join(
        f"seed {seed}: {shares['epochs'][seed]:.0%} of the epochs, {shares['wall_s'][seed]:.0%} of "
        f"the seconds, {shares['hypervolume'][seed]:.1%} of the hypervolume"
        for seed in by.index
    )
    return (
        "# A new budget after an earlier run\n\nDigits; first a search for "
        f"{WIDE} of the multiply-accumulates, then one for {TIGHT}, from the beginning and with "
        f"`from_run` and a tenth of the trials. Baselines are off. With `from_run`, {words}. "
        "Trials, sensitivities and device profiles are reused; the rest is done anew: "
        "loading and tracing the dense model, its metrics, the calibration, the scores of "
        "candidates before training, the start of the workers and measuring the front. "
        f"{harness.stamp(rows)}\n\n{harness.table(rows.reindex(columns=[*SHOWN]), SHOWN)}\n"
    )


class Clock(Callback):
    """Seconds since it was made, and those before the first trial."""

    preparation_s = math.nan

    def __init__(self) -> None:
        self._made = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._made

    def on_start(self, config: RunConfig, plan: SearchPlan, folder: Path) -> None:
        self.preparation_s = self()


def one_seed(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The first search, the second one from the beginning, and the second one from the first."""
    options: dict[str, Any] = {
        "space": "standard",
        "epochs": EPOCHS,
        "rungs": 0,
        "concurrent": 1,
        "seed": seed,
        "patience": 0,
        "device": {"runtime": "torch"},
        "baselines": {"uniform": 0, "random": 0},
    }
    few = {"trials": TRIALS // SHARE, "from_run": folder / "first"}
    asked = {
        "first": {"budget": {"macs": WIDE}, "trials": TRIALS},
        "from the beginning": {"budget": {"macs": TIGHT}, "trials": TRIALS},
        "from_run": {"budget": {"macs": TIGHT}, **few},
    }
    fronts, rows = [], []
    for name, more in asked.items():
        clock = Clock()
        output = folder / name.split()[-1]
        found = autoprune.search("digits", output=output, callbacks=[clock], **options, **more)
        own = [record for record in found.records if not record.is_reused]
        fronts.append(found.front)
        rows.append(
            {
                "seed": seed,
                "search": name,
                "budget": more["budget"]["macs"],
                "trained": sum(record.epochs > 0 for record in own),
                "epochs": sum(record.epochs for record in own),
                "wall_s": clock(),
                "preparation_s": clock.preparation_s,
                "members": len(found.front),
                "hypervolume": None,
            }
        )
    for row, volume in zip(rows[1:], hypervolumes(fronts[1:]), strict=True):
        row["hypervolume"] = volume
    return rows


if __name__ == "__main__":
    main()
