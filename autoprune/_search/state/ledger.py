"""The state of a search: records, running trials, and the front."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from autoprune._search.plan import Plan
from autoprune._search.state.deadline import Deadline
from autoprune._search.state.display import Display
from autoprune._search.state.keeping import to_delete
from autoprune._search.state.messages import Report
from autoprune._search.state.pace import Pace, total_trial_s, usual_trial_s
from autoprune._search.state.progress import NullProgress, Progress
from autoprune._search.state.running import Running
from autoprune._search.state.termination import Termination
from autoprune._search.state.trial_timeout import TrialTimeout
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.errors import AutopruneError
from autoprune.pareto import ParetoFront
from autoprune.record import State, TrialRecord, as_uniform
from autoprune.store import RunFolder, RunState

_LOG = logging.getLogger(__name__)
OnTrial = Callable[[TrialRecord, ParetoFront], None]  # the trial that ended, and the front now


class Ledger:
    """Turns reports into records on disk, counts them, and says whether another trial may begin.

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
        self._timeout = TrialTimeout(plan.limits.trial_timeout_s, self.records.values())
        self.running: dict[int, Running] = {}
        self._numbers = {
            plan.space.normal(record.candidate).key: number
            for number, record in self.records.items()
            if record.state != "infeasible"
        }
        state = folder.state() or RunState(
            elapsed_s=total_trial_s(self.records.values()) / plan.concurrent
        )
        self.screening: Mapping[str, float] = state.screening
        self._deadline = Deadline(plan.limits.seconds, before_s=state.elapsed_s, since=since)
        self._pace = Pace()
        self.failure: AutopruneError | None = None
        self._on_trial = on_trial or (lambda record, front: None)
        self._front = self._front_of(self.records.values())
        self._display = Display(progress or NullProgress(), plan.limits, self._deadline, self._pace)
        self._termination = Termination(plan.limits, volume=self._display.take(self._front))

    @property
    def elapsed_s(self) -> float:
        """Seconds of searching, all sessions together."""
        return self._deadline.elapsed_s

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
        """The number of the trial that trained, or now trains, one that is built and trained alike.

        Also of one that an earlier version wrote, in whatever form.
        """
        return self._numbers.get(self.plan.space.normal(candidate).key)

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
        self._numbers[self.plan.space.normal(candidate).key] = number
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
        record = running.ended(self.plan.seed, error)
        self._write(record)
        ended = time.monotonic()
        if not record.is_converted:
            self._pace.note()
        self._front = self._front_of([*self._front.members, record])
        volume = self._display.take(self._front)
        self._termination.note(record, started=running.started, ended=ended, volume=volume)
        self._free_disk()
        self.save_state("search")
        self.show()
        self._on_trial(record, self._front)
        return record

    def update(self, record: TrialRecord) -> None:
        """Replace a record by a more complete one with the same number."""
        self._write(record)

    def mark_uniform(self, number: int) -> None:
        """Let a trial count as the uniform baseline that has its candidate."""
        if number in self.running:
            self.running[number].origin = as_uniform(self.running[number].origin)
        else:
            record = self.records[number]
            self.update(replace(record, origin=as_uniform(record.origin)))
            self._front = self._front_of(self.records.values())

    def may_start(self) -> bool:
        """Whether another trial may begin now; that can change, see `over`."""
        return not self._reached()

    @property
    def ended_by(self) -> str:
        """The limit that ended the search, in words; empty while it goes on."""
        return "" if self._counted else self._reached()

    def _reached(self) -> str:
        """The limit because of which no trial may begin now."""
        running = self._counted
        planned = sum(self.plan.epochs - r.last.epochs for r in running)
        return self._termination.reached(
            trials=self.done + len(running),
            epochs=self.spent_epochs + planned + self.plan.epochs,
            late=self.too_late,
        )

    def over(self) -> bool:
        """Whether no further trial that counts will ever begin."""
        return not self._counted and not self.may_start()

    def close(self) -> None:
        """Start no further trial: the search was asked to end."""
        self._termination.close()

    @property
    def stuck(self) -> str | None:
        """Why the search should stop: the last trials of this session failed for one reason."""
        return self._termination.stuck

    @property
    def trial_timeout_s(self) -> float:
        """The longest time from one report of a trial to the next."""
        return self._timeout.seconds

    @property
    def overtime_s(self) -> float:
        """Seconds since the time limit; below 0 before it, and without one.

        Where no trial is complete, one is awaited for as long again.
        """
        return self._deadline.overtime_s(times=1.0 if self.counts["complete"] else 2.0)

    @property
    def late(self) -> bool:
        """Whether the time limit has passed and at least one trial is complete."""
        return self._deadline.is_over and self.counts["complete"] > 0

    def front(self) -> ParetoFront:
        """The front of the completed trials by predicted cost."""
        return self._front

    def show_measured(self, front: ParetoFront) -> None:
        """Let the progress display have the front as measured from now on."""
        self._display.take(front)

    def save_state(self, phase: str) -> None:
        """Save the phase and elapsed time, for `resume`."""
        screening = dict(self.screening)
        with self._noting_failure():
            self.folder.save_state(RunState(phase, self.elapsed_s, screening, self.ended_by))

    def show(self, phase: str = "search", note: str = "") -> None:
        """Update the progress display."""
        self._display.show(
            phase, note, self.counts, running=len(self.running), epochs=self.spent_epochs
        )

    @property
    def is_closed(self) -> bool:
        """Whether nothing at all may begin any more, baselines neither."""
        return self._termination.is_closed or self.stuck is not None or self.too_late

    @property
    def too_late(self) -> bool:
        """Past the time limit, or so near that a trial of median length would not end."""
        if self.plan.limits.seconds is None:
            return False
        return self._deadline.comes_within(usual_trial_s(self.records.values()))

    def _front_of(self, records: Iterable[TrialRecord]) -> ParetoFront:
        within = [r for r in records if r.predicted and self.plan.allows(r.predicted)]
        return ParetoFront(self.plan.objectives, tuple(within), self.plan.reference)

    def _free_disk(self) -> None:
        """Delete models that are dominated, or above the quota; close where that is not enough."""
        gone, too_much = to_delete(self.records.values(), self.plan, self.folder.model_bytes)
        if too_much and not self._termination.is_closed:
            _LOG.warning("search.max_disk is used up by the models of the front")
            self.close()
        with self._noting_failure():
            for record in gone:
                self.records[record.number] = self.folder.drop_model(record)

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
        self._timeout.note(record)
        self.records[record.number] = record
