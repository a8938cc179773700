"""A search whose training is arithmetic: real Ray, real Optuna, instant trials."""

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoprune._search.initial.proposals import Proposal
from autoprune._search.plan import Limits, Plan
from autoprune._search.sampling.screening import Screening
from autoprune._search.sampling.study import StudyFile
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune._search.trials.trainable import SPEC, Spec
from autoprune._search.trials.tuning import run_trials
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost
from autoprune.candidate import Candidate
from autoprune.config.sections import RayConfig
from autoprune.pareto import Objective
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder

SIZES = {"a": 16, "b": 32, "c": 64}
DENSE = Cost(params=1000, macs=16 * 3 + 16 * 32 + 32 * 64)
SPACE = SearchSpace.parse(
    {"ratios": {"max": 0.8}, "round_to": 2, "recovery": {"lr": {"min": 0.01, "max": 0.1}}}
)


FITTED = FittedSpace.of(SPACE, SIZES)


def price(architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
    kept = architecture.widths
    macs = kept["a"] * 3 + kept["a"] * kept["b"] + kept["b"] * kept["c"]
    return Cost(params=macs // 2, macs=macs)


def make_plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "space": SPACE,
        "price": price,
        "dense": DENSE,
        "budget": Budget.parse({"macs": "50%"}),
        "objectives": (Objective("accuracy", "maximize"), Objective("macs")),
        "reference": (0.0, float(DENSE.macs or 0)),
        "limits": Limits(trials=8),
        "epochs": 4.0,
        "rungs": 2,
    }
    values |= changes
    space = values["space"]
    assert isinstance(space, SearchSpace)
    return Plan(**{**values, "space": FittedSpace.of(space, SIZES)})  # type: ignore[arg-type]


@dataclass
class ToyRun:
    """Accuracy rises with epochs to a height that falls with the square of the ratios."""

    spec: Spec
    milestones: tuple[float, ...]
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.history) == len(self.milestones)

    def advance(self) -> None:
        ratios = self.spec.candidate.architecture.ratios(SIZES)
        height = 1.0 - sum(r * r * w for r, w in zip(ratios.values(), (0.1, 0.3, 0.5), strict=True))
        epoch = self.milestones[len(self.history)]
        self.history.append({"epoch": epoch, "accuracy": height * (1.0 - 0.3 / (1.0 + epoch))})

    def report(self, error: str | None = None) -> Report:
        last = self.history[-1] if self.history else {}
        metrics = {"accuracy": last["accuracy"]} if last else {}
        done = self.finished and error is None
        return Report(last.get("epoch", 0.0), metrics, tuple(self.history), {}, done, None, error)

    def save(self, folder: str) -> None:
        (Path(folder) / "history.json").write_text(json.dumps(self.history))

    def restore(self, folder: str) -> None:
        self.history = json.loads((Path(folder) / "history.json").read_text())


@dataclass
class ToyBench:
    """`raises`, `dies` and `hangs` are trials that go wrong; `log` gets a line a start."""

    milestones: tuple[float, ...]
    raises: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    log: str | None = None
    sleep_s: float = 0.0
    hangs: tuple[int, ...] = ()
    delivery: object = None

    def prepare(self) -> None:
        self._note("actor")

    def start(self, spec: Spec) -> ToyRun:
        self._note(f"trial {spec.number}")
        time.sleep(self.sleep_s)
        if spec.number in self.hangs:
            time.sleep(3600)
        if spec.number in self.raises:
            raise RuntimeError("the toy broke")
        if spec.number in self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return ToyRun(spec, self.milestones)

    def _note(self, what: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{what} {os.getpid()}\n")


def run_toy(
    folder: RunFolder,
    plan: Plan,
    *,
    seeds: tuple[Proposal, ...] = (),
    raises: tuple[int, ...] = (),
    dies: tuple[int, ...] = (),
    sleep_s: float = 0.0,
    hangs: tuple[int, ...] = (),
    cluster: RayConfig | None = None,
) -> Ledger:
    """Search in `folder` (going on where it leaves off), and return what is known at the end."""
    ledger = Ledger(plan, folder)
    file = StudyFile(folder.path, plan.objectives)
    context = ToyBench(plan.milestones, raises, dies, str(folder.path / "log.txt"), sleep_s, hangs)
    try:
        searcher = BudgetedOptunaSearch(plan, ledger, file, seeds)
        run_trials(plan, context, searcher, folder.path, cluster=cluster)
    finally:
        file.close()
    return ledger


def height(candidate: Candidate) -> float:
    """An accuracy that falls with the square of the ratios."""
    return 1.0 - sum(r * r for r in candidate.architecture.ratios(SIZES).values()) / 3


class Hand:
    """Plays Ray Tune's part: asks the searcher, and reports what `accuracy` says."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        seeds: Sequence[Proposal] = (),
        screening: Screening | None = None,
        accuracy: Callable[[Candidate], float] = height,
    ) -> None:
        self.ledger = Ledger(plan, folder)
        self.file = StudyFile(folder.path, plan.objectives)
        self.searcher = BudgetedOptunaSearch(plan, self.ledger, self.file, seeds, screening)
        self.plan, self.count = plan, len(self.ledger.records)
        self._accuracy = accuracy

    def suggest(self) -> tuple[str, Candidate] | None:
        self.count += 1
        found = self.searcher.suggest(f"t{self.count}")
        if not isinstance(found, dict):
            return None
        return f"t{self.count}", found[SPEC].candidate

    def complete(self, trial: str, accuracy: float) -> None:
        report = Report(self.plan.epochs, {"accuracy": accuracy}, finished=True)
        self.searcher.on_trial_complete(trial, {REPORT: report})

    def play(self, trials: int) -> list[Candidate]:
        found = []
        for _ in range(trials):
            suggested = self.suggest()
            assert suggested is not None
            trial, candidate = suggested
            self.complete(trial, self._accuracy(candidate))
            found.append(candidate)
        return found

    def close(self) -> None:
        self.file.close()
