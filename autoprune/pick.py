"""Which trial is meant: `knee`, `fastest`, `best`, `trial=7` or `latency_ms<=3, macs<=2 M`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from autoprune.budget import Budget, Value
from autoprune.cost_fields import field_at, is_cost, on_device, split_field
from autoprune.errors import StoreError, UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord

FORMS = "knee, fastest, best, trial=N or a limit such as 'latency_ms<=3'"


def pick(front: ParetoFront, text: str, records: Iterable[TrialRecord] = ()) -> TrialRecord:
    """The record that `text` names.

    `knee` is the best trade of the front and `best` its best in the task's metric; `fastest` has
    the lowest measured latency (the lowest predicted one where none was measured); where devices
    have names, `fastest@phone` says on which one, and `latency_ms@phone<=8`. `trial=N` is
    any of the front's records or of `records`. A limit, or several with commas between them, picks
    the best in the metric of those within; latencies are those that the front was made with.

    Raises UsageError for another form, StoreError where nothing fits.
    """
    wanted = text.strip()
    if match := re.fullmatch(r"trial\s*=\s*(\d+)", wanted):
        return _numbered(front, int(match.group(1)), records)
    word, device = split_field(wanted)
    named = wanted in _NAMED or word == "fastest"
    if "<=" not in wanted and not named:
        raise UsageError(f"pick must be {FORMS}, got {text!r}")
    if not front.members:
        raise StoreError("the front is empty: no trial finished within the budget")
    if word == "fastest":
        return _fastest(front, device)
    return _NAMED[wanted](front) if named else _within(front, wanted)


def _knee(front: ParetoFront) -> TrialRecord:
    return front.knee or front.members[0]


def _best(front: ParetoFront) -> TrialRecord:
    metric = next((o.name for o in front.objectives if not is_cost(o.name)), None)
    return front.best(metric) or front.members[0]


def _fastest(front: ParetoFront, device: str) -> TrialRecord:
    if not device and len(front.devices) > 1:
        raise UsageError(
            f"pick fastest must say on which device, one of {', '.join(front.devices)} · e.g. "
            f"fastest@{front.devices[0]}"
        )
    latency = Objective(on_device(field_at("latency_ms", device), front.devices, "pick"))
    for source in ("measured", "predicted"):
        times = [(latency.value(record, source), record) for record in front.members]
        known = [(value, record) for value, record in times if value is not None]
        if known:
            return min(known, key=lambda pair: (pair[0], pair[1].number))[1]
    raise StoreError(f"no member's latency is known · pick {FORMS}")


_NAMED = {"knee": _knee, "best": _best}


def _numbered(front: ParetoFront, number: int, more: Iterable[TrialRecord]) -> TrialRecord:
    found = next((record for record in (*front.records, *more) if record.number == number), None)
    if found is None:
        on_front = ", ".join(str(record.number) for record in front.members)
        raise StoreError(f"there is no trial {number} · on the front: {on_front or 'none'}")
    return found


def _within(front: ParetoFront, text: str) -> TrialRecord:
    parts = [part.partition("<=") for part in text.split(",")]
    if not all(sign and name.strip() and value.strip() for name, sign, value in parts):
        raise UsageError(f"pick must be {FORMS}, got {text!r}")
    return best_within(front, {n.strip(): v.strip() for n, _, v in parts})


def best_within(front: ParetoFront, limits: Mapping[str, Value]) -> TrialRecord:
    """The member that is best in the task's metric of those whose costs are within `limits`.

    Raises BudgetError for a limit that cannot be read, StoreError where no member is within.
    """
    if not front.members:
        raise StoreError("the front is empty: no trial finished within the budget")
    spec = {on_device(name, front.devices, "pick"): value for name, value in limits.items()}
    budget = Budget.parse(spec, "pick")
    relative = [limit for limit in budget.limits if limit.relative]
    if relative:
        raise UsageError(f"pick: {relative[0].field} needs an absolute limit, got {relative[0]}")
    inside = front.at_most(**{limit.field: limit.value for limit in budget.limits})
    if inside.members:
        return _best(inside)
    lowest = ", ".join(_lowest(front, limit.field) for limit in budget.limits)
    raise StoreError(f"no model on the front has {budget} · lowest: {lowest}")


def _lowest(front: ParetoFront, field: str) -> str:
    values = (front.value(field, record) for record in front.members)
    known = [value for value in values if value is not None]
    return f"{field} {min(known):.4g}" if known else f"{field} is not known"
