"""Smaller dense models to compare with: trained after the last trial, measured with the front.

Each begins with its own trained weights and is trained like the best candidate of the search, with
the search's dense model as the teacher, in the process of the search. It is no trial: the records
of these models have a file of their own.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from autoprune._search.measuring.target_devices import FinishedModel
from autoprune._search.preparing.prepare import Prepared
from autoprune._search.preparing.smaller_models import SmallerModel
from autoprune._search.state.failure import reason, release_memory
from autoprune._search.state.ledger import Ledger
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost_fields import FILE
from autoprune.record import SMALLER, TrialRecord
from autoprune.store import RunFolder, is_model, read_model, recipe_of, with_file_bytes
from autoprune.training import Precision, RecoveryRun

_LOG = logging.getLogger(__name__)


def train_smaller(
    store: RunFolder, ready: Prepared, ledger: Ledger, precision: Precision | None
) -> None:
    """Train those that the run does not have yet, as long as the search has time.

    What fails is recorded with its reason, as a trial is.
    """
    known = {record.title: record for record in store.smaller()}
    for place, model in enumerate(ready.smaller, start=1):
        if model.name in known and _is_there(store, known[model.name]):
            continue
        best = ledger.front().best(ready.plan.metric.name)
        if best is None or ledger.is_closed:
            _LOG.warning("%s is not trained: the search was out of time, or empty", model.name)
            return
        ledger.show("search", f"training {model.name}, a smaller dense model")
        before = TrialRecord(
            -place,
            _candidate(best.candidate.recovery),
            "failed",
            ready.plan.seed,
            predicted=model.cost,
            origin=f"{SMALLER}{model.name}",
        )
        known[model.name] = _trained(store, ready, model, before, precision)
        store.save_smaller(known[each.name] for each in ready.smaller if each.name in known)


def _is_there(store: RunFolder, record: TrialRecord) -> bool:
    return record.artifact is not None and is_model(store.path / record.artifact)


def _candidate(recovery: Recovery) -> Candidate:
    """The same recovery without what needs units to prune, or layers that both models have."""
    plain = replace(recovery, regularizer=0.0, features=0.0)
    return Candidate(Architecture(), Selection("l2", repair=False), recovery=plain)


def _trained(
    store: RunFolder,
    ready: Prepared,
    small: SmallerModel,
    record: TrialRecord,
    precision: Precision | None,
) -> TrialRecord:
    """The record after its training: complete, or failed with the reason."""
    try:
        run = RecoveryRun(
            small.task,
            small.model.to(ready.training_device),
            small.graph,
            record.candidate,
            epochs=ready.plan.epochs,
            seed=ready.plan.seed,
            device=ready.training_device,
            precision=precision,
            teacher=ready.dense,
        )
        run.advance(ready.plan.epochs)
        artifact = _save(store, small, run)
    except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
        release_memory()
        return replace(record, error=reason(error))
    finally:
        small.model.to("cpu")
    return replace(
        record,
        state="complete",
        epochs=run.epoch,
        metrics=run.metrics,
        history=tuple(run.history),
        times=dict(run.times),
        artifact=artifact,
        optimizer=run.optimizer,
    )


def _save(store: RunFolder, small: SmallerModel, run: RecoveryRun) -> str:
    recipe = recipe_of(
        run.candidate,
        run.kept_indices,
        task=small.config.task,
        task_args=small.config.task_args,
        example=small.task.example_input(),
        ignored_layers=small.task.ignored_layers,
        num_heads=small.task.num_heads,
    )
    return store.save_model(f"smaller-{small.name}", run.result(), recipe)


def measured_smaller(
    store: RunFolder, ready: Prepared, *, again: bool = False
) -> tuple[TrialRecord, ...]:
    """The run's records of them, measured in turns with the dense model where they were not.

    With `again` all are measured. Raises DeviceError where a device cannot be asked.
    """
    records, models = store.smaller(), {model.name: model for model in ready.smaller}
    asked = [
        record
        for record in records
        if record.title in models
        and _is_there(store, record)
        and (again or record.measured is None)
    ]
    if ready.is_offline or not asked:
        return records
    costs = ready.rig.measure([_finished(store, record, models[record.title]) for record in asked])
    done = {
        record.number: replace(record, measured=_with_file(store, record, cost))
        for record, (cost, _) in zip(asked, costs, strict=True)
    }
    return tuple(done.get(record.number, record) for record in records)


def _finished(store: RunFolder, record: TrialRecord, small: SmallerModel) -> FinishedModel:
    small.model.load_state_dict(read_model(store.model_folder(record))[1], strict=True)
    return FinishedModel(small.model.eval())


def _with_file(store: RunFolder, record: TrialRecord, cost: Cost) -> Cost:
    wanted = record.predicted is not None and record.predicted.value(FILE) is not None
    return with_file_bytes(cost, store.model_folder(record)) if wanted else cost
