"""What a search adds to a trial: wall time minus building, training and evaluation.

    python -m scripts.benchmarks.overhead [--trials 100] [--concurrent 2] [--screen 0]   # a minute

A real search (Ray Tune, Optuna, SQLite, saved models) over a real but tiny task, so that what is
measured is the machinery; screening is work on candidates, and off unless asked for. Start-up is
left out of the overhead. Rows: `results/overhead/overhead.csv`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from autoprune._search.run import run
from autoprune._search.state.progress import Snapshot
from autoprune.config import RunConfig
from autoprune.record import TrialRecord
from autoprune.store import RunFolder
from autoprune.tasks import Task
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, ROOT, Rows

SHOWN = {
    "trials": ("trials", ""),
    "concurrent": ("concurrent", ""),
    "screen": ("screen", ""),
    "start_up_s": ("start-up s", ".1f"),
    "own_s": ("own work of a trial s", ".3f"),
    "overhead_s": ("overhead of a trial s", ".3f"),
    "inside_s": ("of it from proposal to record s", ".3f"),
}


class Parity(Task):
    """Is the sum of sixteen numbers above 0: a net of three small layers."""

    dense_epochs = 3

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 16)

    def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x = torch.randn(8, 64, 16, generator=torch.Generator().manual_seed(seed))
        return [(batch, (batch.sum(1) > 0).long()) for batch in x]

    def val_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.train_loader(10_001)

    def test_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.train_loader(10_002)


class Clock:
    """Notes when the first trial ended, and when the last."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.phase == "search":
            self.last = time.monotonic()
            if snapshot.done and self.first is None:
                self.first = self.last


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--screen", type=int, default=0, help="proposals scored before each trial")
    options = parser.parse_args()
    config = RunConfig.from_dict(
        {
            "task": "scripts/benchmarks/overhead/__main__.py:Parity",
            "budget": {"macs": "50%"},
            "search": {
                "trials": options.trials,
                "patience": 0,
                "baselines": {"uniform": 0, "random": 0},
                "concurrent": options.concurrent,
                "screen": options.screen,
                "epochs": 1,
                "rungs": 0,
                "calibration_samples": 256,
            },
        },
        base=ROOT,
    )
    with tempfile.TemporaryDirectory() as folder:
        clock, start = Clock(), time.monotonic()
        run(config, Parity(), Path(folder) / "run", progress=clock)
        records = RunFolder.open(Path(folder) / "run").records()
    row = {"trials": options.trials, "concurrent": options.concurrent, "screen": options.screen}
    row |= {"seed": config.search.seed, **figures(records, clock, start, options.concurrent)}
    file = Rows(RESULTS / "overhead" / "overhead.csv", ["trials", "concurrent", "screen"])
    file.put({**row, **harness.circumstances()})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


def figures(
    records: tuple[TrialRecord, ...], clock: Clock, start: float, concurrent: int
) -> dict[str, float]:
    """Start-up, and the seconds of a trial: its own work, the rest, and from proposal to record."""
    trained = [r for r in records if r.state != "infeasible"]
    parts = ("build_s", "train_s", "evaluate_s")
    own = [sum(r.times.get(name, 0.0) for name in parts) for r in trained]
    assert clock.first is not None
    wall, count = clock.last - clock.first, len(trained) - 1
    inside = [r.times["wall_s"] - mine for r, mine in zip(trained, own, strict=True)][1:]
    return {
        "start_up_s": clock.first - start,
        "own_s": statistics.mean(own),
        "overhead_s": (wall - sum(own[1:]) / concurrent) / count,
        "inside_s": statistics.median(inside),
    }


if __name__ == "__main__":
    main()
