"""Does the searcher get slower as a search grows? Its thread's time per trial at 50 and at 1000.

    python -m scripts.benchmarks.overhead.searcher [--trials 1000] [--screen 32]   # 3 minutes

The real searcher, screening, records and study file on ResNet-20's groups and costs; training and
scores are arithmetic, so that only the searcher's own time is left. Medians over 40 trials. Rows:
`results/overhead/searcher.csv`.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
import torch

from autoprune._search.initial.seeding import seeds
from autoprune._search.plan import Limits, Plan
from autoprune._search.sampling.screening import Screening
from autoprune._search.sampling.study import StudyFile
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.cost.model import CostModel
from autoprune.graph import trace
from autoprune.pareto import Objective
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder
from examples.cifar10 import CifarResNet
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

EARLY, WINDOW = 50, 40
SHOWN = {
    "sampler": ("sampler", ""),
    "screen": ("screen", ""),
    "trials": ("trials", ""),
    "groups": ("groups", ""),
    "early_s": (f"a trial at {EARLY}, s", ".3f"),
    "late_s": ("at the end, s", ".3f"),
    "growth": ("growth", ".2f"),
}
SPACE = {
    "ratios": {"max": 0.8},
    "importance": ["l2", "obs"],
    "recovery": {"lr": {"min": 0.005, "max": 0.1, "log": True}},
}


def harm(candidate: Candidate, sizes: Mapping[str, int]) -> float:
    """What removal does in this benchmark: later groups are worth less."""
    ratios = candidate.architecture.ratios(sizes).values()
    return sum(ratio * ratio / (2.0 + place) for place, ratio in enumerate(ratios))


class ArithmeticScore:
    """Stands for building and scoring a proposal."""

    samples, dense_samples = 256, 0.0

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes

    def __call__(self, candidate: Candidate) -> float:
        return math.log(harm(candidate, self.sizes) + 1e-3)


def make_plan(trials: int, sampler: str) -> Plan:
    torch.manual_seed(0)
    costs = CostModel(trace(CifarResNet(20).eval(), torch.zeros(1, 3, 32, 32)))
    return Plan(
        space=FittedSpace.of(SearchSpace.parse(SPACE), costs.graph.sizes()),
        price=costs.cost,
        dense=costs.dense,
        budget=Budget.parse({"macs": "70%"}),
        objectives=(Objective("accuracy", "maximize"), Objective("macs")),
        reference=(0.0, costs.dense.get("macs")),
        limits=Limits(trials),
        epochs=1.0,
        rungs=0,
        sampler=sampler,
    )


def play(plan: Plan, folder: Path, trials: int, screen: int) -> list[float]:
    """Seconds of this thread for each trial: to propose it, and to record its end.

    The copy to the file of the study is another thread's, and waits for nothing here.
    """
    run = RunFolder.create(folder, {}, {})
    ledger, file = Ledger(plan, run), StudyFile(run.path, plan.objectives)
    sizes = plan.space.sizes
    score = ArithmeticScore(sizes)
    damage = {name: 1.0 / (2.0 + place) for place, name in enumerate(sorted(sizes))}

    def alone(name: str, kept: int) -> float:
        return damage[name] * (1.0 - kept / sizes[name]) ** 2

    screening = Screening(plan, lambda: score, count=screen, sensitivity=alone) if screen else None
    searcher = BudgetedOptunaSearch(plan, ledger, file, seeds(plan, alone), screening)
    seconds = []
    for number in range(trials):
        start = time.thread_time()
        spec = searcher.suggest(f"t{number}")
        taken = time.thread_time() - start
        if not isinstance(spec, dict):
            break
        candidate = spec["trial"].candidate
        wobble = (
            0.02 * math.sin(1e4 * harm(candidate, sizes))
            - math.log(candidate.recovery.lr / 0.03) ** 2 / 50
        )
        accuracy = 1.0 - harm(candidate, sizes) + wobble
        report = Report(metrics={"accuracy": accuracy}, epochs=1.0, finished=True)
        start = time.thread_time()
        searcher.on_trial_complete(f"t{number}", {REPORT: report})
        seconds.append(taken + time.thread_time() - start)
    file.close()
    return seconds


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "nsga2", "front", "random"])
    parser.add_argument("--screen", type=int, default=32)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    plan = make_plan(given.trials, given.sampler)
    with tempfile.TemporaryDirectory() as folder:
        seconds = play(plan, Path(folder) / "run", given.trials, given.screen)
    early = statistics.median(seconds[EARLY - WINDOW // 2 : EARLY + WINDOW // 2])
    late = statistics.median(seconds[-WINDOW:])
    row = {"sampler": given.sampler, "screen": given.screen, "trials": len(seconds), "seed": 0}
    row |= {
        "groups": len(plan.space.sizes),
        "early_s": early,
        "late_s": late,
        "growth": late / early,
    }
    file = Rows(RESULTS / "overhead" / "searcher.csv", ["sampler", "screen", "trials"])
    file.put({**row, **harness.circumstances()})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


if __name__ == "__main__":
    main()
