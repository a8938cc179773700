"""The state of a search: records, running trials, and whether it is over."""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from autoprune._search.failure import bounded
from autoprune._search.keeping import dominated, over_quota
from autoprune._search.plan import Plan
from autoprune._search.progress import NullProgress, Progress, Snapshot
from autoprune._search.stagnation import Stagnation
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.errors import AutopruneError
from autoprune.pareto import ParetoFront
from autoprune.record import BASELINE, State, TrialRecord
from autoprune.store import RunFolder, RunState

_LOG = logging.getLogger(__name__)
_SLOWEST = 10.0  # times what the slowest trial took: then one hangs
_LEAST_TIMEOUT_S = 120.0
_FIRST_TIMEOUT_S = 3600.0  # before any trial has ended
_BUSY = ("build_s", "train_s", "evaluate_s")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
REPORT = "report"  # the key of a Tune result under which a report travels


@dataclass(frozen=True)
class Conversion:
    """A finished trial's model in its other precision: what it reached, and where it is saved."""

    precision: str
    metrics: Mapping[str, float]
    artifact: str


@dataclass(frozen=True)
class Report:
    """A worker's report after each evaluation.

    `finished` is True once the trial has had all its training; `error` ends a trial as failed. A
    finished one has a `conversion` where the space allows both precisions.
    """

    epochs: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False
    artifact: str | None = None
    error: str | None = None
    optimizer: str = ""
    conversion: Conversion | None = None


@dataclass
class Running:
    """A trial that has a candidate and no record yet."""

    number: int
    candidate: Candidate
    predicted: Cost
    origin: str
    started: float
    times: Mapping[str, float] = field(default_factory=dict)
    last: Report = field(default_factory=Report)

    @property
    def is_counted(self) -> bool:
        """Whether it counts towards the limits of the search."""
        return not self.origin.startswith(BASELINE)


OnTrial = Callable[[TrialRecord, ParetoFront], None]  # the trial that ended, and the front now


class Ledger:
    """Turns reports into records on disk, counts them, and decides when the search is over.

    Every record is written to disk before it is used; `failure` is why that could not be done.
    `screening` is the cost of screening so far (see `screening.ScreeningCost`), saved with the
    state.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        progress: Progress | None = None,
        *,
        since: float | None = None,
        on_trial: OnTrial | None = None,
    ) -> None:
        """Continue a run from its records.

        `since` (`time.monotonic`) is when this session began; by default now. `on_trial` is called
        after each trial that ended.
        """
        self.plan = plan
        self.folder = folder
        self.records: dict[int, TrialRecord] = {r.number: r for r in folder.records()}
        counted = (it for it in self.records.values() if it.is_counted)
        self._counts = Counter(record.state for record in counted)
        self._slowest_s = max(map(_busy_s, self.records.values()), default=0.0)
        self.running: dict[int, Running] = {}
        self._progress = progress or NullProgress()
        self._numbers = {
            record.candidate.key: number
            for number, record in self.records.items()
            if record.state != "infeasible"
        }
        state = folder.state() or RunState(elapsed_s=self._spent_s())
        self._before_s = state.elapsed_s
        self.screening: Mapping[str, float] = state.screening
        self._started = time.monotonic() if since is None else since
        self._ends: list[float] = []
        self._alike: list[str] = []
        self._failed_at = 0.0
        self._closed = False
        self.failure: AutopruneError | None = None
        self._shown: tuple[tuple[Mapping[str, float], ...], float | None] = ((), None)
        self._on_trial = on_trial or (lambda record, front: None)
        self._front = self._front_of(self.records.values())
        self._stagnation = Stagnation(plan.limits.patience, start=self._show_front())

    @property
    def elapsed_s(self) -> float:
        """Seconds of searching, all sessions together."""
        return self._before_s + time.monotonic() - self._started

    @property
    def counts(self) -> Counter[State]:
        """How many trials that count towards the limits are in each state."""
        return self._counts

    @property
    def done(self) -> int:
        """Trials that ended and count towards the limit: all except infeasible ones."""
        return sum(count for state, count in self.counts.items() if state != "infeasible")

    @property
    def spent_epochs(self) -> float:
        """Epochs trained so far in trials that count, also what running ones have reported."""
        ended = sum(record.epochs for record in self.records.values() if record.is_counted)
        return ended + sum(running.last.epochs for running in self._counted)

    @property
    def _counted(self) -> list[Running]:
        return [running for running in self.running.values() if running.is_counted]

    def duplicate_of(self, candidate: Candidate) -> int | None:
        """The number of the trial that trained, or now trains, this very candidate."""
        return self._numbers.get(candidate.key)

    def start(
        self,
        number: int,
        candidate: Candidate,
        predicted: Cost,
        origin: str,
        times: Mapping[str, float] | None = None,
    ) -> None:
        """Note that a trial begins; `times` are seconds that were spent on choosing it."""
        self.running[number] = Running(
            number, candidate, predicted, origin, time.monotonic(), times or {}
        )
        self._numbers[candidate.key] = number
        self.show()

    def refuse(
        self, number: int, candidate: Candidate, predicted: Cost, reason: str, origin: str
    ) -> None:
        """Record a candidate that is over budget and was not trained."""
        self._write(
            TrialRecord(
                number=number,
                candidate=candidate,
                state="infeasible",
                seed=self.plan.seed,
                predicted=predicted,
                error=reason,
                origin=origin,
            )
        )
        self.show()

    def report(self, number: int, report: Report) -> None:
        """Take the report of a running trial."""
        self.running[number].last = report
        self.show()

    def finish(self, number: int, error: str | None = None) -> TrialRecord:
        """Record a trial that ended: completed, stopped before its end, or failed."""
        running = self.running.pop(number)
        last = running.last
        error = bounded(error or last.error or "") or None
        state: State = "failed" if error else "complete" if last.finished else "stopped"
        record = TrialRecord(
            number=number,
            candidate=running.candidate,
            state=state,
            seed=self.plan.seed,
            epochs=last.epochs,
            metrics={} if error else _finite(last.metrics),
            history=tuple(_finite(entry) for entry in last.history),
            predicted=running.predicted,
            error=error,
            times={**last.times, **running.times, "wall_s": time.monotonic() - running.started},
            artifact=None if error else last.artifact,
            origin=running.origin,
            optimizer=last.optimizer,
        )
        self._write(record)
        self._count_failure(record, running.started)
        if not record.is_converted:
            self._ends.append(time.monotonic())
        self._front = self._front_of([*self._front.members, record])
        volume = self._show_front()
        if record.is_counted:
            self._stagnation.note(volume)
        self._free_disk()
        self.save_state("search")
        self.show()
        self._on_trial(record, self._front)
        return record

    def update(self, record: TrialRecord) -> None:
        """Replace a record by a more complete one with the same number."""
        self._write(record)

    def may_start(self) -> bool:
        """Whether another trial may begin now; that can change, see `over`."""
        return not self._reached()

    @property
    def ended_by(self) -> str:
        """The limit that ended the search, in words; empty while it goes on."""
        return "" if self._counted else self._reached()

    def _reached(self) -> str:
        """The limit because of which no trial may begin now."""
        limits, running = self.plan.limits, self._counted
        planned = sum(self.plan.epochs - r.last.epochs for r in running)
        epochs = self.spent_epochs + planned + self.plan.epochs
        if self._closed:
            return "an interrupt"
        if self.stuck is not None:
            return "equal failures"
        if self.done + len(running) >= limits.trials:
            return f"{limits.trials} trials"
        if limits.total_epochs is not None and epochs > limits.total_epochs * (1 + 1e-9):
            return f"{limits.total_epochs:g} epochs"
        if self.too_late:
            return f"{(limits.seconds or 0.0) / 60.0:.3g} minutes"
        if self._stagnation.reached:
            return f"no progress in {limits.patience} trials"
        return ""

    def over(self) -> bool:
        """Whether no further trial that counts will ever begin."""
        return not self._counted and not self.may_start()

    def close(self) -> None:
        """Start no further trial: the search was asked to end."""
        self._closed = True

    @property
    def stuck(self) -> str | None:
        """Why the search should stop: the last trials of this session failed for one reason."""
        limit = self.plan.limits.equal_failures
        return self._alike[-1] if limit and len(self._alike) >= limit else None

    @property
    def trial_timeout_s(self) -> float:
        """The longest time from one report of a trial to the next."""
        if self.plan.limits.trial_timeout_s is not None:
            return self.plan.limits.trial_timeout_s
        if not self._slowest_s:
            return _FIRST_TIMEOUT_S
        return max(_LEAST_TIMEOUT_S, _SLOWEST * self._slowest_s)

    @property
    def overtime_s(self) -> float:
        """Seconds since the time limit; below 0 before it, and without one.

        Where no trial is complete, one is awaited for as long again.
        """
        seconds = self.plan.limits.seconds
        if seconds is None:
            return -1.0
        return self.elapsed_s - (seconds if self.counts["complete"] else 2.0 * seconds)

    @property
    def late(self) -> bool:
        """Whether the time limit has passed and at least one trial is complete."""
        seconds = self.plan.limits.seconds
        return seconds is not None and self.elapsed_s > seconds and self.counts["complete"] > 0

    def front(self) -> ParetoFront:
        """The front of the completed trials by predicted cost."""
        return self._front

    def save_state(self, phase: str) -> None:
        """Save the phase and elapsed time, for `resume`."""
        screening = dict(self.screening)
        with self._noting_failure():
            self.folder.save_state(RunState(phase, self.elapsed_s, screening, self.ended_by))

    def show(self, phase: str = "search", note: str = "") -> None:
        """Update the progress display."""
        counts, (front, volume) = self.counts, self._shown
        self._progress.update(
            Snapshot(
                phase=phase,
                note=note,
                trials=self.plan.limits.trials,
                running=len(self.running),
                complete=counts["complete"],
                stopped=counts["stopped"],
                infeasible=counts["infeasible"],
                failed=counts["failed"],
                epochs=self.spent_epochs,
                front=front,
                hypervolume=volume,
                elapsed_s=self.elapsed_s,
                left_s=self._left_s(),
            )
        )

    @property
    def is_closed(self) -> bool:
        """Whether nothing at all may begin any more, baselines neither."""
        return self._closed or self.stuck is not None or self.too_late

    @property
    def too_late(self) -> bool:
        """Past the time limit, or so near that a trial of median length would not end."""
        seconds = self.plan.limits.seconds
        if seconds is None:
            return False
        trained = (it for it in self.records.values() if not it.is_converted)
        walls = [it.times.get("wall_s", 0.0) for it in trained if it.state == "complete"]
        usual = sorted(walls)[len(walls) // 2] if walls else 0.0
        return self.elapsed_s + usual > seconds

    def _left_s(self) -> float | None:
        limits = self.plan.limits
        left: list[float] = []
        if limits.seconds is not None:
            left.append(limits.seconds - self.elapsed_s)
        if len(self._ends) > 1:  # the first one also waited for the workers to start
            pace = (time.monotonic() - self._ends[0]) / (len(self._ends) - 1)
            left.append((limits.trials - self.done) * pace)
            if limits.total_epochs is not None and self.spent_epochs > 0:
                usual = self.spent_epochs / max(1, self.done)
                left.append((limits.total_epochs - self.spent_epochs) / usual * pace)
        return max(0.0, min(left)) if left else None

    def _front_of(self, records: Iterable[TrialRecord]) -> ParetoFront:
        within = [r for r in records if r.predicted and self.plan.allows(r.predicted)]
        return ParetoFront(self.plan.objectives, tuple(within), self.plan.reference)

    def _show_front(self) -> float:
        """Keep the front for the display; returns its hypervolume."""
        front = self._front
        names = [objective.name for objective in front.objectives]
        rows = front.values.tolist()
        members = tuple(
            {"number": record.number, **dict(zip(names, row, strict=True))}
            for record, row in zip(front.members, rows, strict=True)
        )
        volume = front.hypervolume
        self._shown = (members, volume if members else None)
        return volume

    def _free_disk(self) -> None:
        """Delete models that are dominated, or above the quota; close where that is not enough."""
        limits, records = self.plan.limits, list(self.records.values())
        gone = [] if limits.keep_all else dominated(records, self.plan)
        if limits.disk_bytes is not None:
            sizes = {r.number: self.folder.model_bytes(r) for r in records if r.artifact}
            more, too_much = over_quota(records, self.plan, sizes, limits.disk_bytes)
            gone = list({record.number: record for record in [*gone, *more]}.values())
            if too_much and not self._closed:
                _LOG.warning("search.max_disk is used up by the models of the front")
                self.close()
        with self._noting_failure():
            for record in gone:
                self.records[record.number] = self.folder.drop_model(record)

    def _spent_s(self) -> float:
        """About how long earlier sessions took, where their state was lost."""
        walls = sum(record.times.get("wall_s", 0.0) for record in self.records.values())
        return walls / self.plan.concurrent

    def _count_failure(self, record: TrialRecord, started: float) -> None:
        """Keep the first lines of the failures in a row that are alike but for their numbers.

        What ran when the last one failed does not count: a lost node takes several with it.
        """
        if record.state != "failed":
            self._alike.clear()
            return
        if self._alike and started < self._failed_at:
            return
        self._failed_at = time.monotonic()
        first = (record.error or "no reason known").splitlines()[0]
        if self._alike and _NUMBER.sub("", self._alike[-1]) != _NUMBER.sub("", first):
            self._alike.clear()
        self._alike.append(first)

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Keep an error as `failure`: Ray Tune would make a traceback of it."""
        try:
            yield
        except AutopruneError as error:
            self.failure = error
            raise

    def _write(self, record: TrialRecord) -> None:
        with self._noting_failure():
            self.folder.append(record)
        if record.is_counted:
            if record.number in self.records:
                self._counts[self.records[record.number].state] -= 1
            self._counts[record.state] += 1
        self._slowest_s = max(self._slowest_s, _busy_s(record))
        self.records[record.number] = record


def _busy_s(record: TrialRecord) -> float:
    """How long a trial was built, trained and evaluated; 0 where it did not end well."""
    ended = record.state in ("complete", "stopped")
    return sum(record.times.get(name, 0.0) for name in _BUSY) if ended else 0.0


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The finite values: a failed trial may have NaN, which JSON cannot hold."""
    return {
        name: value
        for name, value in values.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
