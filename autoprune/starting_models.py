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
from autoprune.budget import Cost, Limit
from autoprune.callbacks import Callback
from autoprune.config import RunConfig
from autoprune.config_sections import MOST_TRIALS, SearchConfig
from autoprune.cost_fields import is_cost, is_latency
from autoprune.errors import BudgetError, ConfigError, DeviceError, UsageError, WorkError
from autoprune.extension import Amount, extend, raised
from autoprune.joint import JointFront
from autoprune.loading import OBJECT, reference_of, task_of
from autoprune.options import SearchOptions, sections
from autoprune.quality import QualityLimit, parse_quality
from autoprune.store import DONE, DenseReport, RunFolder, RunState, StartingState
from autoprune.tasks.base import Task
from autoprune.trust import check_run, note

if TYPE_CHECKING:
    from autoprune._search.progress import Progress, Snapshot


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
    without a run. A starting model of which no pruning is within the budget is left out; if it is
    the first, that is an error.

    Raises as `search`; UsageError where there are no starting models.
    """
    tasks = {} if isinstance(task, str) else dict(task)
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
    if not tasks:
        _check_tasks(config)
    folder = Path(config.output) if config.output else Path("results") / api.run_name(config.task)
    with RunFolder.claim(folder):
        from autoprune._search.describe import environment

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

    More trials are divided as the second half of the first ones was. `trust` as for `resume`.
    """
    run = RunFolder.open(path)
    config = run.config
    if config.task.startswith(OBJECT) and set(tasks or ()) != set(config.starting_models):
        names = ", ".join(f"{name!r}: ..." for name in config.starting_models)
        raise UsageError(f"this search was made with Task objects · give tasks={{{names}}}")
    for name in config.starting_models:
        check_run(config.starting_from(name), path, trust=trust)
    with run.writing():
        if trials is not None:
            config = _extended(run, config, trials)
        return _Search(run, config, tasks or {}, progress, callbacks).run()


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
        first = next(iter(self.config.starting_models))
        return RunFolder.is_run(self.whole.starting_model(first).path)

    def run(self) -> JointFront:
        """Go on where the folder stands."""
        self.state = self.whole.starting() or StartingState()
        if not self.state.rounds:
            self._add(first_round(self.config))
        self._search_all()
        while (left := self._left()) > 0:
            self._add(divided(left, JointFront.read(self.whole).contributions()))
            self._search_all()
        return JointFront.read(self.whole)

    def _measure_together(self) -> None:
        """Measure the dense models in turns, where latencies of several runs are compared."""
        front = JointFront.read(self.whole)
        asked = (*front.front.fields, *self.config.budget.fields)
        if len(front.runs) < 2 or not any(map(is_latency, asked)):
            return
        from autoprune._search.progress import Snapshot
        from autoprune._search.together import dense_together

        if self.progress is not None:
            self.progress.update(Snapshot("verify", "the dense models in turns"))
        tasks = {name: self._task(name, run.config) for name, run in front.runs.items()}
        try:
            found = replace(self.state, dense=dense_together(tasks, front.runs), not_together="")
        except (UsageError, DeviceError) as error:
            found = replace(self.state, dense={}, not_together=str(error))
        self.state = found
        self.whole.save_starting(found)

    def _task(self, name: str, config: RunConfig) -> Task:
        return self.tasks.get(name) or task_of(config)

    def _left(self) -> int:
        """Trials that no run was given, or that a run left out was."""
        names = set(self.config.starting_models) - set(self.state.left_out)
        return self.config.search.trials - sum(self.state.trials(name) for name in names)

    def _add(self, trials: Mapping[str, int]) -> None:
        self.state = replace(self.state, rounds=(*self.state.rounds, trials))
        self.whole.save_starting(self.state)

    def _search_all(self) -> None:
        """Bring every run to its trials so far, and make their latencies comparable."""
        searched = False
        for place, name in enumerate(self.config.starting_models):
            if name in self.state.left_out:
                continue
            try:
                searched |= self._search(name)
            except (BudgetError, WorkError) as error:
                if place == 0 or self.whole.starting_model(name).has_front:
                    raise
                left_out = {**self.state.left_out, name: str(error)}
                self.state = replace(self.state, left_out=left_out)
                self.whole.save_starting(self.state)
        if searched or not (self.state.dense or self.state.not_together):
            self._measure_together()

    def _search(self, name: str) -> bool:
        """Begin, resume or continue the run of one starting model, up to its trials so far.

        False where it has them already.
        """
        run, trials = self.whole.starting_model(name), self.state.trials(name)
        if not RunFolder.is_run(run.path):
            self._into(name, config_of(self.config, self.whole, name, trials), resumed=False)
            return True
        config, state = run.config, run.state() or RunState()
        minutes = _share(self.config, trials).minutes
        has_time = minutes is None or minutes > state.elapsed_s / 60.0
        if trials > config.search.trials and has_time:
            config = extend(run, trials, minutes)
        elif state.phase == DONE:
            return False
        self._into(name, config, resumed=True)
        return True

    def _into(self, name: str, config: RunConfig, *, resumed: bool) -> None:
        task = self._task(name, config)
        if name in self.tasks:
            config = config.model_copy(update={"task": reference_of(task)})
        progress = _Named(self.progress, name) if self.progress else None
        place = self.whole.starting_model(name).path
        api.search_into(place, config, task, progress, self.callbacks, resumed=resumed)


class _Named:
    """Progress with the name of the starting model."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def update(self, snapshot: Snapshot) -> None:
        """Show the state with the name before its note."""
        self._progress.update(replace(snapshot, note=f"{self._name}: {snapshot.note}"))


def first_round(config: RunConfig) -> dict[str, int]:
    """Half of the trials, divided equally; each starting model has one at least."""
    names = list(config.starting_models)
    return {name: max(1, config.search.trials // (2 * len(names))) for name in names}


def divided(trials: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`trials` in proportion to the weights, equally where all are 0.

    >>> divided(10, {"large": 3.0, "small": 1.0}), divided(3, {"large": 0.0, "small": 0.0})
    ({'large': 8, 'small': 2}, {'large': 2, 'small': 1})
    """
    total = sum(weights.values())
    shares = {n: trials * (w / total if total else 1 / len(weights)) for n, w in weights.items()}
    found = {name: int(share) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: found[name] - shares[name])
    for name in by_rest[: trials - sum(found.values())]:
        found[name] += 1
    return found


def config_of(config: RunConfig, whole: RunFolder, name: str, trials: int) -> RunConfig:
    """The configuration of the run of one starting model, with its share of trials and time.

    What is relative to a dense model is so to the first one: in the configurations of the others
    it is absolute.
    """
    data = config.starting_from(name).to_dict()
    share = _share(config, trials)
    data["output"] = str(whole.starting_model(name).path)
    first = next(iter(config.starting_models))
    if name != first:
        data |= _absolute(config, whole.starting_model(first))
        data["search"]["levels"] = [
            _resolved(level.limits[0], whole.starting_model(first)) for level in config.levels
        ]
    data["search"] |= {
        "trials": trials,
        "minutes": share.minutes,
        "total_epochs": share.total_epochs,
    }
    place = f"{whole.path}: {name}"
    return RunConfig.from_dict(data, place=place, base=Path(config.base or "."), resolved=True)


def _share(config: RunConfig, trials: int) -> SearchConfig:
    """Time and epochs of a run, in proportion to its trials."""
    search, part = config.search, trials / config.search.trials
    return search.model_copy(
        update={
            name: None if value is None else value * part
            for name, value in (("minutes", search.minutes), ("total_epochs", search.total_epochs))
        }
    )


def _absolute(config: RunConfig, first: RunFolder) -> dict[str, Any]:
    """Budget and limits on metrics, without reference to a dense model."""
    front = first.front()
    assert front is not None, "the first run has ended"
    metric = next((o for o in front.front.objectives if not is_cost(o.name)), None)
    dense = (first.dense() or DenseReport()).metrics

    def words(limit: QualityLimit) -> str:
        maximize = metric is None or metric.direction == "maximize"
        if not limit.is_relative:
            return f"{limit.kind} {limit.value!r}"
        bound = limit.bound(dense[limit.metric], maximize)
        if bound < 0.0:  # which has no form: it stays relative to the own dense model
            unit = "%" if limit.kind == "relative drop" else "pt"
            return f"drop <= {100 * limit.value!r} {unit}"
        return f"{'>=' if maximize else '<='} {bound!r}"

    quality: dict[str, list[str]] = {}
    for limit in config.quality_limits:
        quality.setdefault(limit.metric, []).append(words(limit))
    found = {
        "budget": {limit.field: _resolved(limit, first) for limit in config.budget.limits},
        "quality": quality,
    }
    if metric is not None:
        found["recommend"] = words(parse_quality(metric.name, config.recommend, "recommend"))
    return found


def _resolved(limit: Limit, first: RunFolder) -> float:
    """A limit in its own unit; a share of dense is of the measured cost, where that is known."""
    dense = first.dense() or DenseReport()
    known = [cost for cost in (dense.measured, dense.predicted) if cost is not None]
    cost = next((c for c in known if c.value(limit.field) is not None), Cost())
    return limit.resolve(cost)


def _check_tasks(config: RunConfig) -> None:
    """Raise ConfigError for equal starting models, TaskError for one that cannot be made."""
    for (name, what), (other, same) in combinations(config.starting_models.items(), 2):
        if what == same:
            raise ConfigError(f"starting_models: {name} and {other} must differ, both are {what}")
    for name in config.starting_models:
        task_of(config.starting_from(name))


def _extended(run: RunFolder, config: RunConfig, trials: Amount) -> RunConfig:
    """The same with more trials and no limit of time, written into the folder."""
    total = raised(trials, config.search.trials, "trials", MOST_TRIALS)
    if total != int(total):
        raise UsageError(f"trials must be a whole number, got {trials!r}")
    without = {"trials": int(total), "minutes": None, "total_epochs": None}
    found = config.model_copy(update={"search": config.search.model_copy(update=without)})
    run.save_config(found)
    return found
