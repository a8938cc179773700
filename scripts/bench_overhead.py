"""What a search adds to a trial: wall time minus building, training and evaluation.

    python scripts/bench_overhead.py [--trials 100] [--concurrent 2] [--screen 0]

A real search (Ray Tune, Optuna, SQLite, saved models) over a real but tiny task, so that what is
measured is the machinery; screening is work on candidates, and off unless asked for. Prints the
machine, versions and seed, then the overhead per trial once the workers are there, and the
start-up beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from autoprune._search.prepare import environment
from autoprune._search.progress import Snapshot
from autoprune._search.run import run
from autoprune.config import RunConfig
from autoprune.store import RunFolder
from autoprune.tasks import Task


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--screen", type=int, default=0, help="proposals scored before each trial")
    options = parser.parse_args()
    config = RunConfig.from_dict(
        {
            "task": "scripts/bench_overhead.py:Parity",
            "budget": {"macs": "50%"},
            "search": {
                "trials": options.trials,
                "concurrent": options.concurrent,
                "screen": options.screen,
                "epochs": 1,
                "rungs": 0,
                "calibration_samples": 256,
            },
        },
        base=Path(__file__).parents[1],
    )
    print(json.dumps(environment(config)))
    with tempfile.TemporaryDirectory() as folder:
        clock, start = Clock(), time.monotonic()
        run(config, Parity(), Path(folder) / "run", progress=clock)
        records = RunFolder.open(Path(folder) / "run").records()
    report(records, clock, start, options.concurrent)


def report(records: tuple, clock: Clock, start: float, concurrent: int) -> None:
    """Print the figures."""
    trained = [r for r in records if r.state != "infeasible"]
    own = [
        sum(r.times.get(name, 0.0) for name in ("build_s", "train_s", "evaluate_s"))
        for r in trained
    ]
    assert clock.first is not None
    wall = clock.last - clock.first
    rest = sum(own[1:]) / concurrent
    count = len(trained) - 1
    inside = [r.times["wall_s"] - mine for r, mine in zip(trained, own, strict=True)][1:]
    print(
        f"trials {len(trained)} ({len(records) - len(trained)} proposals over budget), "
        f"concurrent {concurrent}"
    )
    print(f"start-up (dense model, graph, Ray, first trial): {clock.first - start:.1f} s")
    print(f"own work of a trial (build, train, evaluate): {statistics.mean(own):.3f} s")
    print(f"overhead of a trial (wall minus own work): {(wall - rest) / count:.3f} s")
    print(f"  of it between its proposal and its record, median: {statistics.median(inside):.3f} s")


if __name__ == "__main__":
    main()
