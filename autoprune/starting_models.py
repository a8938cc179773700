"""One search from several dense models: which of them is worth pruning to this budget?

A large model that is pruned far is often better than a small one that is pruned little (Li et al.
2020, "Train Large, Then Compress", arXiv:2002.11794), but not always, and only a search can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from autoprune import api
from autoprune.callbacks import Callback
from autoprune.config import RunConfig
from autoprune.config.sections import MOST_TRIALS
from autoprune.cost_fields import is_latency
from autoprune.errors import BudgetError, ConfigError, DeviceError, UsageError, WorkError
from autoprune.extension import Amount, extend, raised, trials_of
from autoprune.joint import JointFront
from autoprune.loading import reference_of, task_of
from autoprune.options import SearchOptions, sections
from autoprune.starting_configs import config_of, divided, first_round, share_of
from autoprune.store import RunFolder, StartingState
from autoprune.tasks.base import Task
from autoprune.tasks.load import OBJECT
from autoprune.trust import check_run, note

if TYPE_CHECKING:
    from autoprune._search.state.progress import Progress, Snapshot


def search_starting_models(
    task: str | Mapping[str, Task],
    config: RunConfig | None = None,
    *,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[SearchOptions],
) -> JointFront:
    """Search small models within one budget from several dense models, with one joint front.

    `task` is a reference, and `starting_models` of `config` or `options` say what the task gets for
    each, or name another task; or it maps names to Task objects. The first one is the reference:
    shares of a dense cost or metric, in budget, levels and quality, are of its dense model. Each
    starting model has a run of its own in `starts/<name>` of the folder. Half of the trials are
    divided equally; the others, and the time, by the hypervolume that the joint front would lose
    without a run. A starting model of which no pruning is within the budget, or no trial could be
    completed, is left out; if it is the first, that is an error.

    Raises as `search`; UsageError where there are no starting models, or they cannot be compared.
    """
    tasks = {} if isinstance(task, str) else dict(task)
    if not (tasks or isinstance(task, str)) or (tasks and "starting_models" in options):
        raise UsageError(
            "give a task's name with starting_models, or Task objects by name: "
            "{'large': ..., 'small': ...}"
        )
    if config is None:
        reference = task if isinstance(task, str) else reference_of(next(iter(task.values())))
        found: dict[str, Any] = sections(reference, options)
        if tasks:
            found["starting_models"] = {name: {} for name in tasks}
        config = RunConfig.from_dict(found, place="search")
    elif options or tasks:
        raise UsageError("search_starting_models takes a config and a task's name, or options")
    else:
        config = config.with_task(str(task))
    return search_starts(config, tasks=tasks, progress=progress, callbacks=callbacks)


def search_starts(
    config: RunConfig,
    *,
    tasks: Mapping[str, Task] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> JointFront:
    """Search as `config` says from each of its starting models; `tasks` are Task objects."""
    if not config.starting_models:
        raise UsageError(
            "starting_models are missing, e.g. starting_models: "
            "{large: {depth: 56}, small: {depth: 20}}"
        )
    for name in config.starting_models:  # before they are imported: `load` may do that again
        note(config.starting_from(name))
    from autoprune._search.ending.describe import environment
    from autoprune._search.preparing.starting_checks import check_starting_models

    check_starting_models(tasks or _named_tasks(config), config)
    folder = Path(config.output) if config.output else Path("results") / api.run_name(config.task)
    with RunFolder.claim(folder):
        run = RunFolder.create(folder, config.to_dict(), environment(config))
        search = _Search(run, config, tasks or {}, progress, callbacks)
        try:
            return search.run()
        finally:
            if not search.has_begun:
                run.discard()


def resume_starting_models(
    path: str | Path,
    *,
    trials: Amount | None = None,
    tasks: Mapping[str, Task] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
) -> JointFront:
    """Resume a search from several starting models; `trials` is a new total, or `"+20"`.

    More trials are divided as the second half of the first ones was, without a limit of time.
    `tasks` are needed where the search was started with Task objects. `trust` as for `resume`.
    """
    search = _opened(path, tasks, progress, callbacks, trust)
    with search.whole.writing():
        if trials is not None:
            search.extend(trials)
        return search.run()


def verify_starting_models(
    path: str | Path,
    *,
    tasks: Mapping[str, Task] | None = None,
    progress: Progress | None = None,
    trust: bool = False,
) -> JointFront:
    """Measure the dense models of a search in turns again, by which its runs are compared.

    Raises DeviceError or UsageError where that cannot be done: what was measured stays.
    """
    search = _opened(path, tasks, progress, (), trust)
    with search.whole.writing():
        search.measure_together()
    return JointFront.read(search.whole)


def _opened(
    path: str | Path,
    tasks: Mapping[str, Task] | None,
    progress: Progress | None,
    callbacks: Sequence[Callback],
    trust: bool,
) -> _Search:
    """A search that is there. Raises TaskError where its code, or that of a run, may not run."""
    whole = RunFolder.open(path)
    config = whole.config
    if not config.starting_models:
        raise UsageError(f"{path} has one starting model · call autoprune.resume")
    if config.task.startswith(OBJECT) and set(tasks or ()) != set(config.starting_models):
        names = ", ".join(f"{name!r}: ..." for name in config.starting_models)
        raise UsageError(f"this search was made with Task objects · give tasks={{{names}}}")
    for name in config.starting_models:
        check_run(config.starting_from(name), path, trust=trust)
        run = whole.starting_model(name)
        if RunFolder.is_run(run.path):
            check_run(run.config, run.path, trust=trust)
    state = whole.starting() or StartingState()
    return _Search(whole, config, tasks or {}, progress, callbacks, state)


@dataclass
class _Search:
    """The runs of one search, one after another, in rounds."""

    whole: RunFolder
    config: RunConfig
    tasks: Mapping[str, Task]
    progress: Progress | None
    callbacks: Sequence[Callback]
    state: StartingState = field(default_factory=StartingState)

    @property
    def has_begun(self) -> bool:
        """Whether the run of the first starting model was made."""
        return self._is_run(next(iter(self.config.starting_models)))

    def run(self) -> JointFront:
        """Go on where the folder stands; what was left out after trials is tried again."""
        kept = {name: why for name, why in self.state.left_out.items() if not self._is_run(name)}
        self._save(left_out=kept)
        if not self.state.rounds:
            self._add(first_round(self.config))
        self._search_all()
        while (left := self._left()) > 0:
            lost = JointFront.read(self.whole).contributions()
            self._add(divided(left, {n: lost[n] for n in lost if n not in self.state.left_out}))
            self._search_all()
        return JointFront.read(self.whole)

    def extend(self, trials: Amount) -> None:
        """Set a new total of trials, without a limit of time; what took place is the first round.

        Raises UsageError where nothing is added to a search that has ended.
        """
        done = {name: self._trials(name) for name in self.config.starting_models}
        before = sum(done.values())
        least = before if all(map(self._is_done, done)) else before - 1
        total = raised(trials, before, "trials", MOST_TRIALS, least)
        if total != int(total):
            raise UsageError(f"trials must be a whole number, got {trials!r}")
        limits = {"trials": int(total), "minutes": None, "total_epochs": None}
        search = self.config.search.model_copy(update=limits)
        self.config = self.config.model_copy(update={"search": search})
        self.whole.save_config(self.config)
        first = first_round(self.config)
        found = {name: done[name] if self._is_run(name) else first[name] for name in done}
        self._save(rounds=(found,), targets=found)

    def measure_together(self) -> None:
        """Measure the dense models in turns, where latencies of several runs are compared.

        Raises DeviceError or UsageError where they cannot be; nothing is changed then.
        """
        joint = JointFront.read(self.whole)
        asked = (*joint.front.fields, *self.config.budget.fields)
        if len(joint.runs) < 2 or not any(map(is_latency, asked)):
            return
        from autoprune._search.measuring.together import dense_together
        from autoprune._search.state.progress import Snapshot

        if self.progress is not None:
            self.progress.update(Snapshot("verify", "the dense models in turns"))
        tasks = {name: self._task(name, run.config) for name, run in joint.runs.items()}
        before = {name for cost in self.state.dense.values() for name in cost.timed_on}
        self._save(dense=dense_together(tasks, joint.runs, before), not_together="")

    def _left(self) -> int:
        """Trials that no run was given, or that a run left out was."""
        names = set(self.config.starting_models) - set(self.state.left_out)
        return self.config.search.trials - sum(self.state.trials(name) for name in names)

    def _add(self, trials: Mapping[str, int]) -> None:
        """A round: to each run so many trials on top of those that it has."""
        names = self.config.starting_models
        targets = {name: self._trials(name) + trials.get(name, 0) for name in names}
        self._save(rounds=(*self.state.rounds, trials), targets=targets)

    def _search_all(self) -> None:
        """Bring every run to its target, and make their latencies comparable."""
        searched = False
        for place, name in enumerate(self.config.starting_models):
            if name in self.state.left_out:
                continue
            try:
                searched |= self._search(name)
            except (BudgetError, WorkError) as error:
                if place == 0 or self._has_model(name):
                    raise
                self._save(left_out={**self.state.left_out, name: str(error)})
        if searched or not (self.state.dense or self.state.not_together):
            try:
                self.measure_together()
            except (UsageError, DeviceError) as error:
                self._save(dense={}, not_together=str(error))

    def _search(self, name: str) -> bool:
        """Begin, resume or continue the run of one starting model; False where it is there."""
        run, target = self.whole.starting_model(name), self.state.targets[name]
        if not self._is_run(name):
            self._into(name, config_of(self.config, self.whole, name, target), resumed=False)
            return True
        config, is_done = run.config, self._is_done(name)
        wanted = target > self._trials(name) and self._has_room(name)
        if is_done and not wanted:
            return False
        if target != config.search.trials and (wanted or not is_done):
            share = share_of(self.config, max(1, self.state.trials(name)))
            config = extend(run, target, share.minutes, share.total_epochs)
        self._into(name, config, resumed=True)
        return True

    def _has_room(self, name: str) -> bool:
        """Whether a run has time and epochs left for another trial."""
        run = self.whole.starting_model(name)
        share, state = share_of(self.config, max(1, self.state.trials(name))), run.state()
        spent = state.elapsed_s / 60.0 if state else 0.0
        epochs = sum(record.epochs for record in run.records() if record.is_counted)
        has_time = share.minutes is None or share.minutes > spent
        return has_time and (
            share.total_epochs is None or share.total_epochs >= epochs + share.epochs
        )

    def _into(self, name: str, config: RunConfig, *, resumed: bool) -> None:
        task = self._task(name, config)
        if name in self.tasks:
            config = config.model_copy(update={"task": reference_of(task)})
        progress = _Named(self.progress, name) if self.progress is not None else None
        place = self.whole.starting_model(name).path
        api.search_into(place, config, task, progress, self.callbacks, resumed=resumed)

    def _task(self, name: str, config: RunConfig) -> Task:
        return self.tasks.get(name) or task_of(config)

    def _is_run(self, name: str) -> bool:
        return RunFolder.is_run(self.whole.starting_model(name).path)

    def _is_done(self, name: str) -> bool:
        """Whether a run has ended and nothing of it is damaged."""
        from autoprune._search.run import is_done

        return self._is_run(name) and is_done(self.whole.starting_model(name))

    def _trials(self, name: str) -> int:
        """The trials that took place in a run."""
        return len(trials_of(self.whole.starting_model(name))) if self._is_run(name) else 0

    def _has_model(self, name: str) -> bool:
        run = self.whole.starting_model(name)
        return self._is_run(name) and any(r.state == "complete" for r in run.records())

    def _save(self, **changed: Any) -> None:
        self.state = replace(self.state, **changed)
        self.whole.save_starting(self.state)


class _Named:
    """Progress with the name of the starting model."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def update(self, snapshot: Snapshot) -> None:
        """Show the state with the name before its note, if it has one."""
        note = f"{self._name}: {snapshot.note}" if snapshot.note else self._name
        self._progress.update(replace(snapshot, note=note))


def _named_tasks(config: RunConfig) -> dict[str, Task]:
    """The tasks of the starting models. Raises ConfigError where two are equal."""
    for (name, what), (other, same) in combinations(config.starting_models.items(), 2):
        if what == same:
            raise ConfigError(f"starting_models: {name} and {other} must differ, both are {what}")
    return {name: task_of(config.starting_from(name)) for name in config.starting_models}
