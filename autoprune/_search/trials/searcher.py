"""Ray Tune's searcher: Optuna proposes candidates, and only those within the budget are trained.

A proposal over budget is reported to Optuna as infeasible, with its constraint values; its
projection into the budget is proposed instead, as a trial of its own.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from autoprune._search.initial.proposals import Proposal, ProposalQueue
from autoprune._search.plan import Plan
from autoprune._search.sampling.extrapolation import final_metrics
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.screening import PooledProposal, Screening
from autoprune._search.sampling.study import (
    BEGUN,
    NAME,
    ROUND,
    StudyFile,
    attributes,
    candidate_of,
    distributions,
    make_sampler,
    replay,
    tell_dropped,
)
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import REPORT, Conversion, Report
from autoprune._search.trials.trainable import SPEC, Spec
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.cost_fields import FILE
from autoprune.record import CONVERTED, SCRATCH, TrialRecord, as_uniform, baseline_of, proposed_as

ATTEMPTS = 200
SCORE, SCREENED = "score", "screened"

Asked = tuple[Trial, Candidate, Cost, str]  # accepted: with its cost and its origin


class BudgetedOptunaSearch(OptunaSearch):
    """Proposes each candidate within the budget once, and reports each outcome to Optuna.

    `seeds` are tried first, in their order; a resumed run skips those that it has tried, and begins
    with the trials that were interrupted, under their numbers. With
    `screening`, each later trial is the best of many proposals. Optuna's proposals that were not
    chosen are PRUNED in the study's file, with `screened` and their `score` as attributes, and
    hidden from the sampler, which would take them for bad trials. `suggest` answers None while
    enough trials are running.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        file: StudyFile,
        seeds: Iterable[Proposal] = (),
        screening: Screening | None = None,
    ) -> None:
        """Continue the study from the run folder."""
        self._space: dict[str, BaseDistribution]
        before = replay(file, ledger.records, plan)
        super().__init__(
            space=distributions(plan),
            metric=[objective.name for objective in plan.objectives],
            mode=["max" if o.direction == "maximize" else "min" for o in plan.objectives],
            sampler=make_sampler(
                plan,
                best=lambda: {record.number for record in ledger.front().members},
                finals=lambda: final_metrics(ledger.records.values(), plan.metric, plan.epochs),
            ),
            study_name=NAME,
        )
        self._study: Study = self._ot_study  # type: ignore[assignment]  # set by super().__init__
        for trial in before:
            self._study.add_trial(_as_sampled(trial))
        self._plan, self.ledger, self._file = plan, ledger, file
        self._screening, self._screen_s = screening, 0.0
        self._numbers: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._cut: set[str] = set()
        self._held: Asked | None = None
        self._uncopied: dict[int, Trial] | None = None
        self._round = 0
        self._again = deque(self._interrupted(before))
        tried = {r.origin for r in ledger.records.values() if r.number < len(before)}
        tried |= {origin for *_, origin in self._again}
        self._queue = ProposalQueue(plan, ledger, seeds)
        self._queue.leave_out({proposed_as(origin) for origin in tried})
        if screening is not None:
            screening.resume(ledger.screening)
            for trial in before:
                if SCORE in trial.user_attrs and trial.params:
                    candidate = candidate_of(trial, plan)
                    screening.remember(candidate, trial.user_attrs[SCORE])

    def suggest(  # type: ignore[override]  # FINISHED is a word
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """The next trial's configuration, None for "not now", or FINISHED."""
        if self.is_finished:
            return str(Searcher.FINISHED)
        goes_on = self.ledger.may_start()
        if not self.has_room or not (goes_on or self._has_more_baselines):
            return None
        found = self._next() if goes_on else self._next_baseline()
        if found is None:
            return None if self.ledger.running else str(Searcher.FINISHED)
        trial, candidate, cost, origin = found
        self._ot_trials[trial_id] = trial
        self._numbers[trial_id] = trial.number
        times = {"screen_s": self._screen_s} if self._screen_s else {}
        self.ledger.start(trial.number, candidate, cost, origin, times)
        self._screen_s = 0.0
        trial.set_user_attr(BEGUN, True)
        self._copy(trial)
        if self._plan.concurrent == 1:
            self._file.flush()  # then an interrupted choice can be told from one that was made
        return {SPEC: Spec(trial.number, candidate, self._plan.seed, origin == SCRATCH)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an evaluation at a rung to the ledger; Optuna is told when the trial ends."""
        self.ledger.report(self._numbers[trial_id], result[REPORT])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how a trial ended, then report it to Optuna: values only of a complete one."""
        if trial_id in self._completed_trials:
            return
        number = self._numbers[trial_id]
        self._waiting.discard(trial_id)
        if result and REPORT in result:
            self.ledger.report(number, result[REPORT])
        reason = self._reasons.pop(trial_id, "the worker process died") if error else None
        reason = None if trial_id in self._cut else reason
        record = self.ledger.finish(number, reason)
        for name, over in self._plan.constraints(record).items():
            self._ot_trials[trial_id].set_constraint(name, over)
        values = self._plan.values(record) if record.state == "complete" else None
        reported = dict(zip(self.metric, values, strict=True)) if values else None
        super().on_trial_complete(trial_id, reported, error=record.state == "failed")
        self._copy(self._ot_trials[trial_id])
        report = result[REPORT] if result and REPORT in result else Report()
        if values and report.conversion is not None:
            self._convert(record, report.conversion)

    def _convert(self, record: TrialRecord, found: Conversion) -> None:
        """Record a trial's model in its other precision, where that is within the budget."""
        candidate = record.candidate.in_precision(found.precision)
        cost = self._plan.cost(candidate)
        if self.ledger.duplicate_of(candidate) is not None or not self._plan.allows(cost):
            return
        self._study.enqueue_trial(self._plan.variables.params(candidate))
        trial = self._study.ask(fixed_distributions=self._space)
        origin = f"{CONVERTED} {record.number}"
        for name, value in attributes(candidate, origin, self._plan).items():
            trial.set_user_attr(name, value)
        self.ledger.start(trial.number, candidate, cost, origin)
        size = {} if found.file_bytes is None else {FILE: found.file_bytes}
        report = Report(
            metrics=found.metrics,
            history=(size,) if size else (),
            finished=True,
            artifact=found.artifact,
            optimizer=record.optimizer,
        )
        self.ledger.report(trial.number, report)
        done = self.ledger.finish(trial.number)
        for name, over in self._plan.constraints(done).items():
            trial.set_constraint(name, over)
        self._study.tell(trial, self._plan.values(done))
        self._copy(trial)

    def note_error(self, trial_id: str, reason: str) -> None:
        """Keep why a trial's worker was lost, until the trial is recorded as failed."""
        self._reasons[trial_id] = reason

    def cut(self, trial_id: str) -> None:
        """A trial whose worker is killed since the time is over: it counts as stopped."""
        self._cut.add(trial_id)

    @property
    def study(self) -> Study:
        """The study in memory."""
        return self._study

    def number(self, trial_id: str) -> int:
        """The trial's number in the study and in the records."""
        return self._numbers[trial_id]

    def set_waiting(self, trial_id: str, waiting: bool) -> None:
        """A trial is paused at a rung and frees its slot, or continues."""
        (self._waiting.add if waiting else self._waiting.discard)(trial_id)

    @property
    def is_finished(self) -> bool:
        """Whether no trial will ever begin again."""
        if self.ledger.running or not self.ledger.over():
            return False
        return not self._has_more_baselines

    @property
    def _has_more_baselines(self) -> bool:
        return self._queue.has_baselines or self._queue.from_scratch() is not None

    @property
    def has_room(self) -> bool:
        """Whether a further trial may train at the same time."""
        return len(self.ledger.running) - len(self._waiting) < self._plan.concurrent

    @property
    def is_idle(self) -> bool:
        """Whether no trial trains or is about to."""
        return len(self.ledger.running) == len(self._waiting)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Write nothing: the study's file and the records hold everything."""

    def _interrupted(self, before: Iterable[FrozenTrial]) -> list[Asked]:
        """The trials that ran when an earlier session ended: they begin anew as what they were."""
        found = []
        for number, trial in enumerate(before):
            if trial.state == TrialState.RUNNING:
                candidate = candidate_of(trial, self._plan)
                own = Trial(self._study, self._study.trials[number]._trial_id)
                origin = trial.user_attrs.get("origin", "")
                found.append((own, candidate, self._plan.cost(candidate), origin))
        return found

    def _next(self) -> Asked | None:
        """The next proposal that may be trained; None when none of the last `ATTEMPTS` may."""
        if self._again:
            return self._again.popleft()
        self._round = len(self._study.get_trials(deepcopy=False))
        while len(self._study.get_trials(deepcopy=False)) < self._round + ATTEMPTS:
            if not self._queue and self._screening is not None and self._screening.asks:
                self._screen(self._screening)
            if self._held is not None:
                held, self._held = self._held, None
                return held
            queued = self._best_alternative(self._queue.pop()) if self._queue else None
            if queued is not None and self._is_tried(queued):
                continue
            found, inside = self._ask(queued)
            if inside is not None:
                self._queue.put_first(inside)
            if found is not None:
                return found
        return None

    def _next_baseline(self) -> Asked | None:
        """The next queued baseline; None where none is left."""
        while self._queue.has_baselines:
            queued = self._queue.pop_baseline()
            found = None if self._is_tried(queued) else self._ask(queued)[0]
            if found is not None:
                return found
        last = self._queue.from_scratch()
        return self._ask(last)[0] if last is not None else None

    def _is_tried(self, queued: Proposal) -> bool:
        """Whether another trial has this candidate; in place of a uniform baseline it is one."""
        twin = self.ledger.duplicate_of(queued.candidate)
        if twin is not None and baseline_of(queued.origin) == "uniform":
            self.ledger.mark_uniform(twin)
        return twin is not None

    def _ask(self, queued: Proposal | None) -> tuple[Asked | None, Proposal | None]:
        """Ask Optuna for a trial: (accepted, None), or (None, its projection) if over budget."""
        plain = queued is not None and queued.origin == SCRATCH
        if queued is not None and not plain:
            self._study.enqueue_trial(self._plan.variables.params(queued.candidate))
        trial = self._study.ask(fixed_distributions={} if plain else self._space)
        variables = self._plan.variables
        candidate = queued.candidate if queued else variables.candidate(trial.params)
        tell_dropped(trial, candidate.architecture.dropped)
        origin = queued.origin if queued else self._plan.sampler
        origin = as_uniform(origin) if self._queue.is_uniform(candidate) else origin
        trial.set_user_attr(ROUND, self._round)
        for name, value in attributes(candidate, origin, self._plan).items():
            trial.set_user_attr(name, value)
        if queued is not None and queued.score is not None:
            trial.set_user_attr(SCORE, queued.score)
        twin = self.ledger.duplicate_of(candidate)
        cost = self._plan.cost(candidate)
        if twin is not None:
            trial.set_user_attr("duplicate_of", twin)
            self._end(trial, TrialState.FAIL)
            return None, None
        if not self._plan.allows(cost):
            return None, self._refuse(trial, candidate, cost, origin)
        return (trial, candidate, cost, origin), None

    def _best_alternative(self, proposal: Proposal) -> Proposal:
        """The best of a proposal and its alternatives; unchanged without a score."""
        if proposal.alternatives is None or self._screening is None:
            return proposal
        before = self._screening.cost.screen_s
        wanted = [proposal.candidate, *proposal.alternatives]
        found = self._screening.best_of(wanted, self.ledger)
        self._screen_s += self._screening.cost.screen_s - before
        self.ledger.screening = self._screening.cost.to_dict()
        return Proposal(found[0], proposal.origin, found[1]) if found else proposal

    def _screen(self, screening: Screening) -> None:
        """Screen several proposals of Optuna and others, and queue the best one."""
        before = screening.cost.screen_s
        self._uncopied = {}  # each is copied once, after the choice
        try:
            self._choose(screening)
        finally:
            copied, self._uncopied = self._uncopied, None
            for number in sorted(copied):  # the file numbers trials as it gets them
                self._copy(copied[number])
        self._screen_s += screening.cost.screen_s - before
        self.ledger.screening = screening.cost.to_dict()

    def _choose(self, screening: Screening) -> None:
        asked: dict[int, Asked] = {}
        proposals: list[PooledProposal] = []
        for _ in range(screening.asks):
            found, inside = self._ask(None)
            if found is not None:
                self._copy(found[0])
                asked[found[0].number] = found
                proposals.append(PooledProposal(found[1], found[3], found[0].number))
            elif inside is not None:
                proposals.append(PooledProposal(inside.candidate, inside.origin))
        result = screening.choose(
            proposals, self.ledger, len(self._study.get_trials(deepcopy=False))
        )
        chosen = result.chosen
        for number, (trial, candidate, cost, _) in asked.items():
            if candidate.key in result.scores:
                trial.set_user_attr(SCORE, result.scores[candidate.key])
            if chosen is not None and chosen.asked == number:
                origin = f"screened:{chosen.origin}"
                trial.set_user_attr("origin", origin)
                self._held = trial, candidate, cost, origin
            else:
                trial.set_user_attr(SCREENED, True)
                self._end(trial, TrialState.FAIL)
        if chosen is not None and chosen.asked is None:
            score = result.scores.get(chosen.candidate.key)
            self._queue.put(Proposal(chosen.candidate, f"screened:{chosen.origin}", score))

    def _refuse(
        self, trial: Trial, candidate: Candidate, cost: Cost, origin: str
    ) -> Proposal | None:
        """Report a proposal over budget as infeasible; returns its projection."""
        over = self._plan.over(cost)
        for name, value in over.items():
            trial.set_constraint(name, value)
        inside = project(candidate, self._plan)
        what = ", ".join(self._plan.broken(cost))
        then = "moved into it as the next trial" if inside else "and cannot be moved into it"
        self.ledger.refuse(trial.number, candidate, cost, f"over budget: {what}; {then}", origin)
        self._end(trial, TrialState.PRUNED)
        return Proposal(inside, f"{origin} projected") if inside is not None else None

    def _end(self, trial: Trial, state: TrialState) -> None:
        self._study.tell(trial, state=state)
        self._copy(trial)

    def _copy(self, trial: Trial) -> None:
        if self._uncopied is not None:
            self._uncopied[trial.number] = trial
            return
        # a deep copy: the file's thread reads it while the study goes on writing attributes
        frozen = copy.deepcopy(self._study._storage.get_trial(trial._trial_id))
        if SCREENED in frozen.user_attrs:
            frozen.state = TrialState.PRUNED
        self._file.put(frozen)


def _as_sampled(trial: FrozenTrial) -> FrozenTrial:
    """A trial as the sampler sees it: FAIL, not PRUNED, where screening did not choose it."""
    if SCREENED in trial.user_attrs:
        trial.state = TrialState.FAIL
    return trial
