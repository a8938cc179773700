"""The end of a search: its front is measured and written, or measured again."""

from __future__ import annotations

from autoprune._search.ending.describe import dense_report
from autoprune._search.ending.layers import save_layers
from autoprune._search.ending.smaller_training import measured_smaller
from autoprune._search.measuring.target_devices import check_measurable
from autoprune._search.measuring.verify import Verified, verify
from autoprune._search.preparing.prepare import Prepared
from autoprune._search.state.ledger import Ledger
from autoprune.budget import Cost
from autoprune.errors import DeviceError, WorkError
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import FrontReport, RunFolder


def finish(store: RunFolder, ready: Prepared, ledger: Ledger) -> str | None:
    """Write the front; why it could not be measured, where its device could not be asked."""
    complete = _complete(ledger)
    if ready.is_offline:  # what is measured here would say nothing of that device
        store.save_front(FrontReport(ledger.front()))
        save_layers(store, ready, ledger.front())
        return None

    def save(record: TrialRecord, dense: Cost) -> None:
        store.save_dense(dense_report(ready, dense))
        ledger.update(record)

    before = store.dense()  # beside it some of the front may have been measured already
    known = before.measured if before else None
    verified = verify(complete, store, ready.rig, ready.plan, save, known)
    _save_front(store, ready, verified)
    ledger.show_measured(verified.front)
    return verified.failure or _measure_smaller(store, ready)


def _measure_smaller(store: RunFolder, ready: Prepared) -> str | None:
    """Measure smaller dense models, too; why that could not be done."""
    if ready.smaller:
        try:
            store.save_smaller(measured_smaller(store, ready))
        except DeviceError as error:
            return str(error)
    return None


def replace_front(store: RunFolder, ready: Prepared, ledger: Ledger, before: ParetoFront) -> None:
    """Measure the front, and write it once all of it is measured; else leave what is there."""
    names = {target.name for target in ready.targets} - set(before.predicted_only)
    check_measurable(ready.targets, names if before.source == "measured" else ())
    found: list[tuple[TrialRecord, Cost]] = []

    def keep(record: TrialRecord, dense: Cost) -> None:
        found.append((record, dense))

    verified = verify(_complete(ledger), store, ready.rig, ready.plan, keep)
    if verified.failure is not None:
        raise DeviceError(
            f"the front could not be measured again, and stays as it was: {verified.failure}"
        )
    smaller = measured_smaller(store, ready, again=True)
    for record, dense in found:
        store.save_dense(dense_report(ready, dense))
        ledger.update(record)
    if smaller:
        store.save_smaller(smaller)
    _save_front(store, ready, verified)


def _save_front(store: RunFolder, ready: Prepared, verified: Verified) -> None:
    store.save_front(FrontReport(verified.front, verified.over, verified.failure))
    save_layers(store, ready, verified.front)


def _complete(ledger: Ledger) -> list[TrialRecord]:
    """The trials that may be on the front. Raises WorkError where there are none."""
    found = [
        record
        for record in ledger.records.values()
        if record.state == "complete" and (record.artifact or not record.is_reused)
    ]
    if not found:
        raise WorkError(_no_model(ledger))
    return found


def _no_model(ledger: Ledger) -> str:
    failed: list[TrialRecord] = [r for r in ledger.records.values() if r.state == "failed"]
    if failed:
        first = (failed[0].error or "no reason known").splitlines()[0]
        return f"no trial was completed, {len(failed)} failed · the first one: {first}"
    return (
        "no trial was completed within the limits · raise search.trials, search.minutes or "
        "search.total_epochs"
    )
