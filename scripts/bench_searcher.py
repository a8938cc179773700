"""Does the searcher get slower as a search grows? Its thread's time per trial at 50 and at 1000.

    python scripts/bench_searcher.py [--trials 1000] [--sampler tpe] [--screen 32]

The real searcher, screening, records and study file on ResNet-20's groups and costs; training and
scores are arithmetic, so that only the searcher's own time is left. Medians over 40 trials.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import optuna
import torch

from autoprune._search.ledger import REPORT, Ledger
from autoprune._search.plan import Limits, Plan
from autoprune._search.screening import Screening
from autoprune._search.searcher import BudgetedOptunaSearch
from autoprune._search.seeding import seeds
from autoprune._search.study import StudyFile
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.cost.model import CostModel
from autoprune.cost.targets import device_name
from autoprune.graph import trace
from autoprune.pareto import Objective
from autoprune.space import SearchSpace
from autoprune.store import RunFolder
from autoprune.tasks.cifar10 import CifarResNet

EARLY, WINDOW = 50, 40
SPACE = {
    "ratios": {"max": 0.8},
    "importance": ["l2", "obs"],
    "recovery": {"lr": {"min": 0.005, "max": 0.1, "log": True}},
}


def harm(candidate: Candidate) -> float:
    """What removal does in this benchmark: later groups are worth less."""
    ratios = candidate.ratios.values()
    return sum(ratio * ratio / (2.0 + place) for place, ratio in enumerate(ratios))


class ArithmeticScore:
    """Stands for building and scoring a proposal."""

    samples, dense_samples = 256, 0.0

    def __call__(self, candidate: Candidate) -> float:
        return math.log(harm(candidate) + 1e-3)


def make_plan(trials: int, sampler: str) -> Plan:
    torch.manual_seed(0)
    costs = CostModel(trace(CifarResNet(20).eval(), torch.zeros(1, 3, 32, 32)))
    sizes = {group.name: group.size for group in costs.graph.groups}
    return Plan(
        space=SearchSpace.parse(SPACE),
        sizes=sizes,
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
    score = ArithmeticScore()
    damage = {name: 1.0 / (2.0 + place) for place, name in enumerate(sorted(plan.sizes))}

    def alone(name: str, kept: int) -> float:
        return damage[name] * (1.0 - kept / plan.sizes[name]) ** 2

    screening = Screening(plan, lambda: score, count=screen, damage=alone) if screen else None
    searcher = BudgetedOptunaSearch(plan, ledger, file, seeds(plan, alone), screening)
    seconds = []
    for number in range(trials):
        start = time.thread_time()
        spec = searcher.suggest(f"t{number}")
        taken = time.thread_time() - start
        if not isinstance(spec, dict):
            break
        candidate = Candidate.from_dict(json.loads(spec["trial"])["candidate"])
        wobble = (
            0.02 * math.sin(1e4 * harm(candidate))
            - math.log(candidate.recovery.lr / 0.03) ** 2 / 50
        )
        report = {"metrics": {"accuracy": 1.0 - harm(candidate) + wobble}, "epochs": 1.0}
        start = time.thread_time()
        text = json.dumps({**report, "finished": True})
        searcher.on_trial_complete(f"t{number}", {REPORT: text})
        seconds.append(taken + time.thread_time() - start)
    file.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "nsga2", "random"])
    parser.add_argument("--screen", type=int, default=32)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    plan = make_plan(given.trials, given.sampler)
    with tempfile.TemporaryDirectory() as folder:
        seconds = play(plan, Path(folder) / "run", given.trials, given.screen)
    early = statistics.median(seconds[EARLY - WINDOW // 2 : EARLY + WINDOW // 2])
    late = statistics.median(seconds[-WINDOW:])
    print(f"{device_name()}, 1 thread, optuna {optuna.__version__}")
    print(
        f"{given.sampler}, screen {given.screen}, {len(seconds)} trials, {len(plan.sizes)} groups"
    )
    print(f"a trial at {EARLY}: {early * 1e3:.0f} ms, at {len(seconds)}: {late * 1e3:.0f} ms")
    print(f"grows by {late / early:.2f}")


if __name__ == "__main__":
    main()
