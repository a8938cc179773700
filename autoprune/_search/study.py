"""The Optuna side of a run: samplers, and the study's copy on disk.

The sampler works on a study in memory, which proposes in milliseconds. One thread copies every
trial to `study.db` (SQLite, for optuna-dashboard) under the same number. The records of the run are
authoritative: when a run is resumed, the study is made consistent with them.
"""

from __future__ import annotations

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
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from autoprune._search.plan import Plan
from autoprune.errors import ConfigError
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.space import Parameter, Value
from autoprune.store import STUDY

NAME = "autoprune"
LATEST = 100  # trials that TPE looks at besides the best ones
Best = Callable[[], Collection[int]]
_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def make_sampler(
    name: str, seed: int, *, concurrent: int = 1, best: Best = frozenset
) -> BaseSampler:
    """A sampler for several objectives by its name in the configuration.

    `best` returns the numbers of trials that TPE always considers.
    """
    with _experimental():
        if name == "tpe":
            return _RecentTPE(best, seed=seed, multivariate=True, constant_liar=concurrent > 1)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
    raise ConfigError(f"search.sampler must be one of tpe, nsga2, gp, random, got {name!r}")


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
    found = {p.name: distribution(p) for p in plan.space.parameters}
    if not found:
        raise ConfigError(
            "nothing varies in this space: no group can be pruned and every other key is constant "
            "· raise space.ratios.max, lower space.round_to, or list several values"
        )
    return found


class StudyFile:
    """The copy of a study on disk, written by one thread in the order of the calls."""

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


def replay(
    file: StudyFile, records: Mapping[int, TrialRecord], plan: Plan
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The trials of a resumed study: (all by number, those that were interrupted).

    A trial without a record was running (it is set to FAIL, and returned as interrupted) or was
    rejected. What the file lacks is made from the records and written to it.
    """
    on_disk = {trial.number: trial for trial in file.trials()}
    last = max([*on_disk, *records], default=-1)
    trials: list[FrozenTrial] = []
    interrupted: list[FrozenTrial] = []
    for number in range(last + 1):
        existing, record = on_disk.get(number), records.get(number)
        if existing is not None and existing.state.is_finished():
            trials.append(existing)
            continue
        if record is None and existing is not None:
            interrupted.append(existing)
        trial = _frozen(record, plan) if record else create_trial(state=TrialState.FAIL)
        trial.number = number
        trials.append(trial)
        file.put(trial)
    file.flush()
    return trials, interrupted


def _frozen(record: TrialRecord, plan: Plan) -> FrozenTrial:
    """The finished Optuna trial of a record."""
    values = plan.values(record) if record.state == "complete" else None
    state = _STATES[record.state]
    params: dict[str, Value] = {}
    if record.predicted is not None:
        params = plan.space.params(record.candidate)
    over = plan.over(record.predicted) if record.predicted else {}
    return create_trial(
        state=state if values is not None or record.state != "complete" else TrialState.FAIL,
        values=values,
        params=params,
        distributions=distributions(plan) if params else {},
        user_attrs=attributes(record.candidate.key, record.origin),
        system_attrs={f"constraints:{name}": value for name, value in over.items()},
    )


def attributes(key: str, origin: str) -> dict[str, Any]:
    """User attributes of every trial of the study."""
    return {"candidate": key, "origin": origin}


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
