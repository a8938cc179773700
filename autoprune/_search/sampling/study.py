"""The Optuna side of a run: samplers, and the study's copy on disk.

The sampler works on a study in memory, which proposes in milliseconds. One thread copies every
trial to `study.db` (SQLite, for optuna-dashboard) under the same number. The records of the run are
authoritative: when a run is resumed, the study is made consistent with them.
"""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from autoprune._search.plan import Plan
from autoprune._search.sampling.front_sampler import Finals, FrontSampler
from autoprune.candidate import Candidate
from autoprune.errors import ConfigError, first_line
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.space.fitted import DROP
from autoprune.space.settings import Parameter, Value
from autoprune.store import STUDY, RunFolder, set_aside
from autoprune.training.rng import derive

NAME = "autoprune"
ROUND, BEGUN = "round", "begun"  # user attributes of trials, see `_begun`
LATEST = 100  # trials that TPE looks at besides the best ones
Best = Callable[[], Collection[int]]
FILE = "study.db"
MADE = "made"  # the user attribute that holds a whole candidate
_LOG = logging.getLogger(__name__)
_BROKEN = (
    *(SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, OSError),
    *(ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError),
)
_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def make_sampler(plan: Plan, best: Best = frozenset, finals: Finals = dict) -> BaseSampler:
    """The sampler of a plan, for several objectives.

    `best` returns the numbers of trials that TPE always considers, `finals` what `FrontSampler`
    asks for. Draws depend on the plan's seed,
    the trial's number and the trials before it alone, so that a resumed study goes on as it would
    have.
    """
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: _RecentTPE(best, multivariate=True, constant_liar=plan.concurrent > 1),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=20),
        "gp": lambda: optuna.samplers.GPSampler(deterministic_objective=False),
        "front": lambda: FrontSampler(plan, finals),
        "random": optuna.samplers.RandomSampler,
    }
    if plan.sampler not in makers:
        known = ", ".join(makers)
        raise ConfigError(f"search.sampler must be one of {known}, got {plan.sampler!r}")
    with _experimental():
        return _seeded(makers[plan.sampler](), plan.seed)


def _seeded(sampler: BaseSampler, seed: int) -> BaseSampler:
    """The sampler with its generators seeded by (`seed`, trial number) before each trial."""
    states, before = _generators(sampler, set()), sampler.before_trial

    def before_trial(study: optuna.Study, trial: FrozenTrial) -> None:
        for place, state in enumerate(states):
            state.rng.seed(derive(seed, "sampler", place, trial.number))
        before(study, trial)

    sampler.before_trial = before_trial  # type: ignore[method-assign]
    return sampler


def _generators(owner: object, seen: set[int]) -> list[LazyRandomState]:
    """All random states of a sampler and of its parts."""
    parts = getattr(owner, "__dict__", None)
    is_optunas = type(owner).__module__.startswith(("optuna.", __name__))
    if id(owner) in seen or not is_optunas or parts is None:
        return []
    seen.add(id(owner))
    if isinstance(owner, LazyRandomState):
        return [owner]
    return [state for part in parts.values() for state in _generators(part, seen)]


class _RecentTPE(optuna.samplers.TPESampler):
    """TPE on the best trials and the latest ones only, so that it does not become slow."""

    def __init__(self, best: Best, **options: Any) -> None:
        super().__init__(**options)
        self._best = best

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does, of fewer trials."""
        return super().sample_relative(
            _Recent(study, self._best()),  # type: ignore[arg-type]
            trial,
            search_space,
        )


class _Recent:
    """A view of a study: some trials by number, and the latest ones."""

    def __init__(self, study: optuna.Study, best: Collection[int]) -> None:
        self._study, self._best = study, best

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, *, states: Container[TrialState] | None = None, **options: Any
    ) -> list[FrozenTrial]:  # what TPESampler asks for
        every: list[FrozenTrial] = self._study._get_trials(**options)
        wanted = (t for t in reversed(every) if states is None or t.state in states)
        found = list(islice(wanted, 2 * LATEST + 1))[::-1]  # old ones are not even looked at
        if len(found) <= 2 * LATEST:
            return found
        first = found[-LATEST].number
        old = [every[number] for number in sorted(self._best) if number < first]
        old = [trial for trial in old if states is None or trial.state in states]
        return [*old, *found[-LATEST:]]


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's form of a parameter of the space."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def distributions(plan: Plan) -> dict[str, BaseDistribution]:
    """The whole search space for Optuna; ConfigError where nothing varies."""
    found = {p.name: distribution(p) for p in plan.variables.parameters}
    if not found:
        raise ConfigError(
            "nothing varies in this space: no group can be pruned and every other key is constant "
            "· raise space.ratios.max, lower space.round_to, or list several values"
        )
    return found


class StudyFile:
    """The copy of a study on disk, written by one thread in the order of the calls.

    The search does without it where it cannot be written (a full disk): a resumed run makes what
    it lacks from the records.
    """

    def __init__(self, folder: Path, objectives: tuple[Objective, ...]) -> None:
        """Open or create `study.db` in a folder."""
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{folder / STUDY}")
        event.listen(self._storage.engine, "connect", _fast_and_safe)
        self._storage.engine.dispose()  # connections opened from here on get the settings
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=NAME,
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
        with _experimental():
            self._study.set_metric_names([objective.name for objective in objectives])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="study")
        self._written: deque[Future[None]] = deque()
        self._is_lost = False

    @staticmethod
    def mended(run: RunFolder, objectives: tuple[Objective, ...]) -> StudyFile:
        """The study of a run; a file that is damaged or of another study is set aside."""
        try:
            file = StudyFile(run.path, objectives)
            wanted = [objective.direction for objective in objectives]
            if [direction.name.lower() for direction in file._study.directions] == wanted:
                file.trials()
                return file
            why = f"{STUDY} has other objectives"
            file.close()
        except _BROKEN as error:
            why = f"{STUDY} is damaged: {first_line(error)}"
        for name in (STUDY, f"{STUDY}-wal", f"{STUDY}-shm"):
            if (run.path / name).exists():
                set_aside(run, run.path / name, why)
        return StudyFile(run.path, objectives)

    def trials(self) -> list[FrozenTrial]:
        """All trials on disk by number, as copies."""
        self.flush()
        return self._study.get_trials(deepcopy=True)

    def put(self, trial: FrozenTrial) -> None:
        """Write a trial of the study in memory: a new one, or the newer state of one."""
        while self._written and self._written[0].done():
            self._written.popleft().result()
        self._written.append(self._thread.submit(self._put, trial))

    def flush(self) -> None:
        """Wait until everything is on disk; raises what a write raised."""
        while self._written:
            self._written.popleft().result()

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._storage.remove_session()
            self._storage.engine.dispose()

    def _put(self, trial: FrozenTrial) -> None:
        if self._is_lost:
            return
        try:
            self._write(trial)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            self._is_lost = True
            _LOG.warning("%s is not written any more: %s", STUDY, first_line(error))

    def _write(self, trial: FrozenTrial) -> None:
        study_id = self._study._study_id
        try:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        except KeyError:
            self._storage.create_new_trial(study_id, template_trial=trial)
            return
        if self._storage.get_trial(trial_id).state.is_finished():
            return
        for key, value in trial.system_attrs.items():
            self._storage.set_trial_system_attr(trial_id, key, value)
        for key, value in trial.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        if trial.state.is_finished():
            self._storage.set_trial_state_values(trial_id, trial.state, trial.values)


def replay(file: StudyFile, records: Mapping[int, TrialRecord], plan: Plan) -> list[FrozenTrial]:
    """The trials of a resumed study by number; those that are to be trained again are RUNNING.

    What the file lacks, or has otherwise than the records, is made from the records. Trials with
    parameters of an earlier version get those of today that come near. A trial without a record was
    running, or was rejected. Where one trial runs at a time, proposals after which none was begun
    are left out: they are made again.
    """
    space = distributions(plan)
    on_disk = {trial.number: _renewed(trial, plan, space) for trial in file.trials()}
    end = max([*on_disk, *records], default=-1) + 1
    end = _begun(on_disk, records, end) if plan.concurrent == 1 else end
    trials: list[FrozenTrial] = []
    for number in range(end):
        existing, record = on_disk.get(number), records.get(number)
        trial = _frozen(record, plan) if record else None
        if existing is not None and existing.state.is_finished():
            differs = trial is not None and trial.state != existing.state
            trial = trial if differs else existing
        elif trial is None:
            again = existing is not None and bool(existing.params)
            trial = existing if again else create_trial(state=TrialState.FAIL)
        assert trial is not None
        trial.number = number
        trials.append(trial)
        if existing is None or not existing.state.is_finished():
            file.put(trial)
    file.flush()
    return trials


def _renewed(trial: FrozenTrial, plan: Plan, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """The trial with the parameters of the plan, where it has others and holds its candidate.

    Values outside of ranges that are not those of before are set to their ends.
    """
    if MADE not in trial.user_attrs or not trial.params or trial.distributions == space:
        return trial
    if set(trial.params) != set(space):
        trial.params = plan.variables.params(candidate_of(trial, plan))
    else:
        trial.params = {name: _inside(space[name], value) for name, value in trial.params.items()}
    trial.distributions = space
    return trial


def _inside(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return min(distribution.high, max(distribution.low, value))
    return value


def _begun(on_disk: Mapping[int, FrozenTrial], records: Mapping[int, TrialRecord], end: int) -> int:
    """How many trials there were when the last trial that was begun had been chosen.

    All proposals of one choice share the attribute `ROUND`, the number of trials before them. What
    the file lacks of trained trials was lost, not left unchosen.
    """
    last = max(on_disk, default=-1)
    if any(record.state != "infeasible" for n, record in records.items() if n > last):
        return end
    if not on_disk:
        return 0
    first = on_disk[last].user_attrs.get(ROUND)
    if first is None:  # written by an earlier version
        return end
    chosen = any(on_disk[n].user_attrs.get(BEGUN) for n in range(first, last + 1) if n in on_disk)
    return last + 1 if chosen else int(first)


def _frozen(record: TrialRecord, plan: Plan) -> FrozenTrial:
    """The finished Optuna trial of a record."""
    values = plan.values(record) if record.state == "complete" else None
    state = _STATES[record.state]
    params: dict[str, Value] = {}
    if record.predicted is not None and record.baseline != "scratch":
        params = plan.variables.params(record.candidate)
    over = plan.constraints(record)
    return create_trial(
        state=state if values is not None or record.state != "complete" else TrialState.FAIL,
        values=values,
        params=params,
        distributions=distributions(plan) if params else {},
        user_attrs=attributes(record.candidate, record.origin, plan),
        system_attrs={f"constraints:{name}": value for name, value in over.items()},
    )


def attributes(candidate: Candidate, origin: str, plan: Plan) -> dict[str, Any]:
    """User attributes of a trial; the whole candidate where its parameters say it only nearly."""
    made = {MADE: candidate.to_dict()} if plan.allocated is not None else {}
    return {"candidate": candidate.key, "origin": origin, **made}


def candidate_of(trial: FrozenTrial, plan: Plan) -> Candidate:
    """The candidate that a trial of the study stands for."""
    made = trial.user_attrs.get(MADE)
    return Candidate.from_dict(made) if made else plan.variables.candidate(trial.params)


def tell_dropped(trial: Trial, dropped: Collection[str]) -> None:
    """Set the flags of a proposal's blocks to what is built, where they were too many.

    The sampler would else learn of blocks that the model still has.
    """
    choices = trial.distributions
    for name, drawn in trial.params.items():
        kind, _, block = name.partition(".")
        if kind == DROP and drawn != (block in dropped):
            internal = choices[name].to_internal_repr(block in dropped)
            trial.storage.set_trial_param(trial._trial_id, name, internal, choices[name])
    trial._cached_frozen_trial = trial.storage.get_trial(trial._trial_id)


@contextmanager
def _experimental() -> Iterator[None]:
    """Without Optuna's warnings that a part of it may change: the version is pinned by tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _fast_and_safe(connection: Any, _: Any) -> None:
    """Write-ahead logging without a sync at every commit: whole after any kill of the process."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
