"""The order of a search: prepare, seed, tune, verify, save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import optuna

from autoprune._search.ledger import Ledger
from autoprune._search.plan import Plan
from autoprune._search.prepare import (
    Prepared,
    Say,
    correct,
    environment,
    make_context,
    make_screening,
    measure_sensitivity,
    prepare,
    relative_importance,
)
from autoprune._search.progress import NullProgress, Progress, Snapshot
from autoprune._search.screening import Screening
from autoprune._search.searcher import BudgetedOptunaSearch, Proposal
from autoprune._search.seeding import seeds
from autoprune._search.sendable import check_sendable
from autoprune._search.study import StudyFile
from autoprune._search.target_devices import Profiles
from autoprune._search.tuning import check_session, quiet, run_trials
from autoprune._search.variables import Allocated
from autoprune._search.verify import verify
from autoprune._search.worker import WorkerContext
from autoprune.architecture import INT8, PRECISIONS
from autoprune.budget import Cost
from autoprune.config import RunConfig
from autoprune.device.profile import DeviceProfile
from autoprune.errors import StoreError, WorkError
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.record import TrialRecord
from autoprune.store import (
    SENSITIVITY,
    BlockInfo,
    DenseReport,
    FrontReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    RunFolder,
    RunState,
    SearchPlan,
    device_file,
    mend,
    set_aside,
)
from autoprune.tasks.base import Task
from autoprune.training import Precision

CHECKED = 8  # models near the budget that are measured before the first trial


def run(
    config: RunConfig,
    task: Task,
    folder: str | Path,
    *,
    progress: Progress | None = None,
    resume: bool = False,
) -> None:
    """Search as `config` says into `folder`, or resume the search in it.

    Nothing is written before task, model, space and budget are known to fit (UsageError).
    KeyboardInterrupt passes through once everything is on disk: `resume` then loses nothing but
    the training of the trials that were running, which are tried again. A finished run is left as
    it is; one whose front could not be measured is not finished, and `resume` tries that again.
    Raises WorkError when no trial could be completed.
    """
    watcher = progress or NullProgress()
    place = Path(folder)
    if resume and _is_done(RunFolder.open(place)):
        return
    check_session()
    check_sendable(task)
    since = time.monotonic()
    held = RunFolder.open(place).writing() if resume else RunFolder.claim(place)
    with quiet(), held:  # before the preparation, which takes minutes
        if resume:
            mend(RunFolder(place), config.targets)
        _run(config, task, place, watcher, since, resume=resume)


def _is_done(store: RunFolder) -> bool:
    """Whether nothing is left to do; what is damaged is to be made again."""
    try:
        return (store.state() or RunState()).phase == "done" and store.front() is not None
    except StoreError:
        return False


def _run(
    config: RunConfig, task: Task, place: Path, watcher: Progress, since: float, *, resume: bool
) -> None:
    say = _sayer(watcher, since)
    ready = _prepare(config, task, place, say, resume=resume)
    store = RunFolder.open(place) if resume else _create(config, place)
    _describe(store, ready)
    context = _context(config, task, store, ready, say)
    sensitivity = _sensitivity(config, task, store, ready, context, say)
    importance = _importance(ready, context) if sensitivity else None
    first = seeds(ready.plan, sensitivity, importance)
    if not resume:
        chosen = dict.fromkeys(proposal.candidate.architecture for proposal in first)
        ready = correct(ready, list(chosen)[:CHECKED], say)
        ready.plan.check()
        _describe(store, ready)
        first = seeds(ready.plan, sensitivity, importance)
    ready = _with_variables(config, ready, sensitivity)
    screening = make_screening(config, task, ready, context, sensitivity)
    ledger = Ledger(ready.plan, store, watcher, since=since)
    _search(store, ready, context, first, screening, ledger)


def _prepare(config: RunConfig, task: Task, place: Path, say: Say, *, resume: bool) -> Prepared:
    profiles = _profiles(RunFolder(place), config) if resume else None
    return prepare(config, task, say, profiles=profiles)


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
    """The sensitivity of each group, measured once per run; None without a calibration."""
    if context.calibration is None or not ready.plan.space.per_group:
        return None
    known = _known_sensitivity(store, ready.plan)
    if known is not None:
        return known.at
    found = measure_sensitivity(config, task, ready, context.calibration, say)
    store.save_sensitivity(found.to_dict())
    return found.at


def _with_variables(
    config: RunConfig, ready: Prepared, sensitivity: Callable[[str, int], float] | None
) -> Prepared:
    """What the sampler draws; ratios where sensitivities are not known."""
    if config.search.variables == "ratios" or sensitivity is None:
        return ready
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


def _importance(ready: Prepared, context: WorkerContext) -> dict[str, list[float]] | None:
    if context.calibration is None:
        return None
    return relative_importance(ready.dense, ready.graph, context.calibration)


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
        if not ledger.over():
            gpus = 1.0 / plan.concurrent if ready.training_device == "cuda" else 0.0
            cluster = store.config.search.ray
            run_trials(plan, context, searcher, store.path, gpus=gpus, cluster=cluster)
        if ledger.stuck is not None:
            raise WorkError(_stuck(store, ledger.stuck, plan.limits.equal_failures))
        where = dict.fromkeys(target.where for target in ready.targets if not target.is_offline)
        ledger.show("verify", f"measuring the front alone on {', '.join(where)}")
        ledger.save_state("verify")
        failure = _finish(store, ready, ledger)
        store.save_importances(importances(searcher.study, plan))
        if failure is None:
            ledger.save_state("done")
            ledger.show("done")
        else:
            ledger.show("verify", f"not measured: {failure}")
    finally:
        store.write_csv()
        file.close()


def _finish(store: RunFolder, ready: Prepared, ledger: Ledger) -> str | None:
    """Write the front; why it could not be measured, where its device could not be asked."""
    complete = [r for r in ledger.records.values() if r.state == "complete"]
    if not complete:
        raise WorkError(_no_model(ledger))
    if ready.is_offline:  # what is measured here would say nothing of that device
        store.save_front(FrontReport(ledger.front()))
        return None

    def save(record: TrialRecord, dense: Cost) -> None:
        store.save_dense(_dense(ready, dense))
        ledger.update(record)

    before = store.dense()  # beside it some of the front may have been measured already
    known = before.measured if before else None
    verified = verify(complete, store, ready.rig, ready.plan, save, known)
    store.save_front(FrontReport(verified.front, verified.over, verified.failure))
    return verified.failure


def _describe(store: RunFolder, ready: Prepared) -> None:
    """Write what the search knows before its first trial, for the report and for `resume`."""
    for target in ready.targets:
        if target.profile is not None:
            store.save_profile(target.name, target.profile.to_dict())
        if target.int8 is not None:
            store.save_profile(target.name, target.int8.to_dict(), INT8)
    plan = ready.plan
    budgets = (plan.budget, *plan.levels)
    store.save_plan(SearchPlan.of(plan.objectives, plan.reference, budgets, plan.space, plan.dense))
    if store.dense() is None:
        store.save_dense(_dense(ready, None))
    groups = tuple(GroupInfo(g.name, g.kind, g.size) for g in ready.graph.groups)
    frozen = tuple(FrozenInfo(f.name, f.size, f.reason) for f in ready.graph.frozen)
    blocks = tuple(BlockInfo(b.name, b.kind) for b in ready.graph.blocks)
    store.save_groups(Groups(groups, frozen, blocks))


def _dense(ready: Prepared, measured: Cost | None) -> DenseReport:
    return DenseReport(dict(ready.metrics), ready.plan.dense, measured)


def importances(study: optuna.Study, plan: Plan) -> dict[str, dict[str, float]]:
    """Importance of each search variable by objective (PED-ANOVA); empty with too few trials."""
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < 8:
        return {}
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, objective in enumerate(plan.objectives):
            found[objective.name] = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=_value_of(place),
            )
    return found


def _value_of(place: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: float(trial.values[place])


def _stuck(store: RunFolder, reason: str, count: int) -> str:
    return (
        f"stopped after {count} trials in a row failed alike: {reason} · mend it, then: autoprune "
        f"resume {store.path} (search.equal_failures says after how many)"
    )


def _no_model(ledger: Ledger) -> str:
    failed: list[TrialRecord] = [r for r in ledger.records.values() if r.state == "failed"]
    if failed:
        first = (failed[0].error or "no reason known").splitlines()[0]
        return f"no trial was completed, {len(failed)} failed · the first one: {first}"
    return (
        "no trial was completed within the limits · raise search.trials, search.minutes or "
        "search.total_epochs"
    )


def _sayer(watcher: Progress, since: float) -> Say:
    def say(note: str) -> None:
        watcher.update(Snapshot("prepare", note, elapsed_s=time.monotonic() - since))

    return say
