"""The order of a search: prepare, seed, tune, verify, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from autoprune._search.ending.describe import (
    describe,
    environment,
    importances,
    search_plan,
)
from autoprune._search.ending.finishing import finish, replace_front
from autoprune._search.ending.smaller_training import train_smaller
from autoprune._search.initial.baselines import baselines
from autoprune._search.initial.proposals import Proposal
from autoprune._search.initial.seeding import seeds
from autoprune._search.measuring.target_devices import Profiles
from autoprune._search.plan import Plan
from autoprune._search.preparing.context import (
    make_context,
    make_screening,
    measure_sensitivity,
    relative_importance,
    settle_blocks,
)
from autoprune._search.preparing.prepare import Prepared, Say, correct, prepare
from autoprune._search.preparing.reuse import EarlierRun, check_same_model
from autoprune._search.sampling.screening import Screening
from autoprune._search.sampling.study import StudyFile
from autoprune._search.sampling.variables import Allocated
from autoprune._search.state.ledger import Ledger, OnTrial
from autoprune._search.state.progress import NullProgress, Progress, Snapshot
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune._search.trials.sendable import check_sendable
from autoprune._search.trials.tuning import check_session, quiet, run_trials
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import PRECISIONS
from autoprune.config import RunConfig
from autoprune.device.profile import DeviceProfile
from autoprune.errors import StoreError, WorkError
from autoprune.printable import quoted
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.record import UNIFORM
from autoprune.store import (
    DONE,
    SENSITIVITY,
    RunFolder,
    RunState,
    SearchPlan,
    device_file,
    mend,
    set_aside,
)
from autoprune.tasks.base import Task
from autoprune.training import Precision

OnStart = Callable[[SearchPlan], None]
CHECKED = 8  # models near the budget that are measured before the first trial


def run(
    config: RunConfig,
    task: Task,
    folder: str | Path,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    on_start: OnStart | None = None,
    on_trial: OnTrial | None = None,
) -> None:
    """Search as `config` says into `folder`, or resume the search in it.

    `on_start` is called before the first trial, `on_trial` after each.

    Nothing is written before task, model, space and budget are known to fit (UsageError).
    KeyboardInterrupt passes through once everything is on disk: `resume` then loses nothing but
    the training of the trials that were running, which are tried again. A finished run is left as
    it is; one whose front could not be measured is not finished, and `resume` tries that again.
    Raises WorkError when no trial could be completed.
    """
    watcher = progress or NullProgress()
    place = Path(folder)
    if resume and is_done(RunFolder.open(place)):
        return
    check_session(config.search.ray)
    check_sendable(task)
    since = time.monotonic()
    held = RunFolder.open(place).writing() if resume else RunFolder.claim(place)
    with quiet(), held:  # before the preparation, which takes minutes
        if resume:
            mend(RunFolder(place), config.targets)
        told = _Told(on_start, on_trial)
        _run(config, task, place, watcher, since, told, resume=resume)


@dataclass(frozen=True)
class _Told:
    """Who is told of the start and of each trial."""

    on_start: OnStart | None = None
    on_trial: OnTrial | None = None


def is_done(store: RunFolder) -> bool:
    """Whether nothing is left to do; what is damaged is to be made again."""
    try:
        store.check_whole()
        return (store.state() or RunState()).phase == DONE and store.front() is not None
    except StoreError:
        return False


def _run(
    config: RunConfig,
    task: Task,
    place: Path,
    watcher: Progress,
    since: float,
    told: _Told,
    *,
    resume: bool,
) -> None:
    say = _sayer(watcher, since)
    earlier = EarlierRun(config) if config.from_run and not resume else None
    ready = _prepare(config, task, place, say, resume=resume, earlier=earlier)
    store = RunFolder.open(place) if resume else _create(config, place)
    known = earlier.sensitivity(ready.plan) if earlier is not None else None
    if known is not None:
        store.save_sensitivity(known.to_dict())
    describe(store, ready)
    context = _context(config, task, store, ready, say)
    sensitivity = _sensitivity(config, task, store, ready, context, say)
    importance = relative_importance(context.scores) if sensitivity and context.scores else None
    first = seeds(ready.plan, sensitivity, importance)
    if not store.records():
        chosen = dict.fromkeys(proposal.candidate.architecture for proposal in first)
        ready = correct(ready, list(chosen)[:CHECKED], say)
        ready.plan.check()
        describe(store, ready)
        first = seeds(ready.plan, sensitivity, importance)
    if earlier is not None:
        earlier.copy_trials(ready.plan, store)
    ready = _with_variables(config, ready, sensitivity)
    screening = make_screening(config, task, ready, context, sensitivity)
    ledger = Ledger(ready.plan, store, watcher, since=since, on_trial=told.on_trial)
    first = _first(config, ready.plan, first, ledger)
    if told.on_start is not None:
        told.on_start(search_plan(ready.plan))
    _search(store, ready, context, first, screening, ledger)


def _prepare(
    config: RunConfig,
    task: Task,
    place: Path,
    say: Say,
    *,
    resume: bool,
    earlier: EarlierRun | None,
) -> Prepared:
    profiles: Profiles = {}
    if resume:
        profiles = _profiles(RunFolder(place), config)
    elif earlier is not None:
        profiles = earlier.profiles()
    ready = prepare(config, task, say, profiles=profiles, is_resumed=resume)
    if earlier is not None:
        earlier.check(ready.graph, ready.metrics, ready.samples)
    if resume:
        check_same_model(RunFolder(place), ready.graph, ready.metrics, ready.samples, "resume")
    return ready


def _first(
    config: RunConfig, plan: Plan, first: Sequence[Proposal], ledger: Ledger
) -> list[Proposal]:
    """The first candidates, and the baselines; fewer of both where an earlier run had trials."""
    reused = [r for r in ledger.records.values() if r.is_reused and plan.fits(r.candidate)]
    if any(record.is_reused for record in ledger.records.values()):
        needed = len(plan.levels) + 1
        first = [p for p in first if not p.origin.startswith(UNIFORM)][:needed]
    asked, kinds = config.search.baselines, [record.baseline for record in reused]
    known = {p.candidate.key for p in first if p.origin.startswith(UNIFORM)}
    more = baselines(
        plan,
        uniform=max(0, asked.uniform - kinds.count("uniform")),
        random=max(0, asked.random - kinds.count("random")),
        known=known,
        reused={r.candidate.architecture.key for r in reused if r.baseline == "uniform"},
    )
    return [*first, *more]


def _profiles(store: RunFolder, config: RunConfig) -> Profiles:
    """The device profiles that the run holds, by precision, without damaged ones."""
    found: dict[str, dict[str, DeviceProfile]] = {each: {} for each in PRECISIONS}
    for precision, profiles in found.items():
        for name in config.targets:
            try:
                profiles |= store.profiles([name], DeviceProfile.from_dict, precision)
            except StoreError as error:
                set_aside(store, store.path / device_file(name, precision), str(error))
    return found


def _create(config: RunConfig, place: Path) -> RunFolder:
    return RunFolder.create(place, config.to_dict(), environment(config))


def _context(
    config: RunConfig, task: Task, store: RunFolder, ready: Prepared, say: Say
) -> WorkerContext:
    known = store.arithmetic()
    precision = Precision(*(bool(known.get(f.name)) for f in fields(Precision))) if known else None
    context = make_context(config, task, ready, str(store.path.resolve()), say, precision)
    if context.precision is not None:
        store.save_arithmetic(asdict(context.precision))
    return context


def _sensitivity(
    config: RunConfig,
    task: Task,
    store: RunFolder,
    ready: Prepared,
    context: WorkerContext,
    say: Say,
) -> Callable[[str, int], float] | None:
    """The sensitivity of each group, measured once per run; None without a calibration.

    That of an earlier run has no factor of blocks yet.
    """
    calibration, scores, space = context.calibration, context.scores, ready.plan.space
    if calibration is None or not space.per_group:
        return None
    found = _known_sensitivity(store, ready.plan)
    if found is not None and (found.block_factor is not None or not space.most_dropped):
        return found.at
    if found is None:
        found = measure_sensitivity(config, task, ready, calibration, say, scores)
    else:
        found = settle_blocks(config, task, ready, calibration, found, say, scores=scores)
    store.save_sensitivity(found.to_dict())
    return found.at


def _with_variables(
    config: RunConfig, ready: Prepared, sensitivity: Callable[[str, int], float] | None
) -> Prepared:
    """What the sampler draws: ratios, or variables of the allocator."""
    space, asked = ready.plan.space, config.search.variables
    is_free = any(len(space.choices(name)) > 1 for name in space.items)
    suits = sensitivity is not None and is_free and space.space.per == "group"
    if asked == "ratios" or (asked == "auto" and not suits):
        return ready
    assert sensitivity is not None, "checked before anything was measured"
    return replace(ready, plan=replace(ready.plan, allocated=Allocated(ready.plan, sensitivity)))


def _known_sensitivity(store: RunFolder, plan: Plan) -> Sensitivity | None:
    """What the run holds already; None where it is damaged or of other groups."""
    try:
        known = store.sensitivity(Sensitivity.from_dict)
        lacking = set(plan.space.widths) - set(known.counts) if known else set()
        if not lacking:
            return known
        why = f"{SENSITIVITY} lacks {min(lacking)}"
    except StoreError as error:
        why = str(error)
    set_aside(store, store.path / SENSITIVITY, why)
    return None


def _search(
    store: RunFolder,
    ready: Prepared,
    context: WorkerContext,
    first: Sequence[Proposal],
    screening: Screening | None,
    ledger: Ledger,
) -> None:
    """Tune, then verify and save; on the way out the table is always written."""
    plan = ready.plan
    file = StudyFile.mended(store, plan.objectives)
    try:
        searcher = BudgetedOptunaSearch(plan, ledger, file, first, screening)
        if not searcher.is_finished:
            gpus = 1.0 / plan.concurrent if ready.training_device == "cuda" else 0.0
            cluster = store.config.search.ray
            run_trials(plan, context, searcher, store.path, gpus=gpus, cluster=cluster)
        if ledger.stuck is not None:
            raise WorkError(_stuck(store, ledger.stuck, plan.limits.equal_failures))
        train_smaller(store, ready, ledger, context.precision)
        where = dict.fromkeys(target.where for target in ready.targets if not target.is_offline)
        ledger.show("verify", f"measuring the front alone on {', '.join(where)}")
        ledger.save_state("verify")
        failure = finish(store, ready, ledger)
        store.save_importances(importances(searcher.study, plan))
        if failure is None:
            ledger.save_state(DONE)
            ledger.show(DONE)
        else:
            ledger.show("verify", f"not measured: {failure}")
    finally:
        store.write_csv()
        file.close()


def measure_again(
    config: RunConfig, task: Task, folder: Path, *, progress: Progress | None = None
) -> None:
    """Measure the front of a finished search again.

    Raises DeviceError where that fails: the front stays as it was.
    """
    store, watcher, since = RunFolder.open(folder), progress or NullProgress(), time.monotonic()
    known = store.front()
    if known is None:
        raise StoreError(
            f"{folder} has no front yet · resume it with: autoprune resume {quoted(folder)}"
        )
    with quiet():
        ready = _prepare(config, task, folder, _sayer(watcher, since), resume=True, earlier=None)
        with store.writing():
            ledger = Ledger(ready.plan, store, watcher, since=since)
            ledger.show("verify", "measuring the front again")
            replace_front(store, ready, ledger, known.front)
            store.write_csv()


def _stuck(store: RunFolder, reason: str, count: int) -> str:
    return (
        f"stopped after {count} trials in a row failed alike: {reason} · fix it, then: autoprune "
        f"resume {quoted(store.path)} (search.equal_failures says after how many)"
    )


def _sayer(watcher: Progress, since: float) -> Say:
    def say(note: str) -> None:
        watcher.update(Snapshot("prepare", note, elapsed_s=time.monotonic() - since))

    return say
