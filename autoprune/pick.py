"""Which trial is meant: `recommended`, `trial=7`, or `accuracy>=0.9, min latency_ms`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from autoprune.budget import Budget, Limit, Value
from autoprune.cost_fields import cost_fields, field_at, is_cost, on_device, split_field
from autoprune.errors import StoreError, UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord

RECOMMENDED = "recommended"
DENSE = "dense"  # of `export` alone: it is no trial
FORMS = (
    "recommended, knee, fastest, best, trial=N, or limits such as 'latency_ms<=3' and "
    "'accuracy>=0.9, min latency_ms'"
)
_EMPTY = "the front is empty: no trial finished within the budget"
_LIMIT = re.compile(r"([A-Za-z_][\w@.-]*)\s*([<>]=?)\s*([^\s=].*)")
_GOAL = re.compile(r"(?i:(min|max))\s+([A-Za-z_][\w@.-]*)")
_NEXT = re.compile(r"[<>]|\b(min|max)\s", re.IGNORECASE)  # what begins another part
_SIGNS = {"≤": "<=", "≥": ">=", "=<": "<=", "=>": ">="}


def pick(
    front: ParetoFront,
    text: str,
    records: Iterable[TrialRecord] = (),
    recommended: TrialRecord | None = None,
) -> TrialRecord:
    """The record that `text` names.

    `recommended` is the one given (see `recommendation.recommend`), or else the knee: the best
    trade of the front. `best` is its best in the task's metric; `fastest` has the lowest measured
    latency (the lowest predicted one where none was measured); where devices have names,
    `fastest@phone` says on which one, and `latency_ms@phone<=8`. `trial=N` (or `trial N`, `N`) is
    any of the front's records or of `records`. Otherwise commas separate limits on costs
    (`macs<=2 M`) and metrics (`accuracy>=0.9`), which all hold, and at most one goal (`min
    latency_ms`, `max accuracy`) among the members within them; by default the best in the metric,
    or with a limit on a metric the cheapest. Latencies are those that the front was made with.

    Raises UsageError for another form, StoreError where nothing fits.
    """
    number, wanted = trial_number(text), word_of(text)
    if number is not None:
        return _numbered(front, number, records)
    word, _ = split_field(wanted)
    is_word = wanted in (RECOMMENDED, *_NAMED) or word == "fastest"
    query = None if is_word else _Query.parse(text.strip(), front)
    if not front.members:
        raise StoreError(_EMPTY)
    if query is not None:
        return query.answer(front)
    if word == "fastest":
        return _fastest(front, split_field(text.strip())[1])
    if wanted == RECOMMENDED:
        return recommended or _knee(front)
    return _NAMED[wanted](front)


def word_of(text: str) -> str:
    """The text as it is compared with the words that are picks: ` Knee` is `knee`."""
    return text.strip().lower()


def trial_number(text: str) -> int | None:
    """The number in `trial=7`, `trial 7` or `7`; None of other texts."""
    match = re.fullmatch(r"(?:trial\s*=?\s*)?([0-9]+)", word_of(text))
    return int(match.group(1)) if match else None


def best_within(front: ParetoFront, limits: Mapping[str, Value]) -> TrialRecord:
    """The member that is best in the task's metric of those whose costs are within `limits`.

    Raises BudgetError for a limit that cannot be read, StoreError where no member is within.
    """
    if not front.members:
        raise StoreError(_EMPTY)
    return _Query(costs=_budget(front, limits)).answer(front)


@dataclass(frozen=True)
class _Query:
    """Limits on costs and metrics, and what is to be smallest or largest within them."""

    costs: Budget | None = None
    metrics: tuple[tuple[str, str, float], ...] = ()
    goal: Objective | None = None
    words: str = field(default="", compare=False)

    @staticmethod
    def parse(text: str, front: ParetoFront) -> _Query:
        limits, goals = [], []
        for part in _parts(text):
            if match := _GOAL.fullmatch(part):
                name, goal = _known(match.group(2), front), match.group(1).lower()
                goals.append(Objective(name, "minimize" if goal == "min" else "maximize"))
            elif match := _LIMIT.fullmatch(part):
                limits.append(_limit(match, front))
            else:
                raise UsageError(f"pick must be {FORMS}, got {text!r}")
        if len(goals) > 1:
            raise UsageError(f"pick takes one goal (min or max), got {text!r}")
        costs = [limit for limit in limits if isinstance(limit, Limit)]
        metrics = tuple(limit for limit in limits if not isinstance(limit, Limit))
        budget = _tightest(costs) if costs else None
        return _Query(budget, metrics, goals[0] if goals else None, text)

    def answer(self, front: ParetoFront) -> TrialRecord:
        limits = {it.field: it.value for it in self.costs.limits} if self.costs else {}
        inside = [r for r in front.at_most(**limits).members if self._is_good(r)]
        if not inside:
            raise StoreError(f"no model on the front has {self._named()} · {self._range(front)}")
        goal = self.goal or _default_goal(front, bool(self.metrics))
        values = [(front.value(goal.name, r), r.number, r) for r in inside]
        known = [(goal.sign * value, number, r) for value, number, r in values if value is not None]
        if not known:
            raise StoreError(f"pick: {goal.name} is not known of any model within the limits")
        return min(known, key=lambda it: it[:2])[2]

    def _is_good(self, record: TrialRecord) -> bool:
        for name, sign, bound in self.metrics:
            value = record.metrics.get(name)
            if value is None or (value < bound if sign == ">=" else value > bound):
                return False
        return True

    def _named(self) -> str:
        return self.words or str(self.costs)

    def _range(self, front: ParetoFront) -> str:
        """What the front has of each limited quantity."""
        parts = [_lowest(front, limit.field) for limit in self.costs.limits] if self.costs else []
        found = [f"lowest: {', '.join(parts)}"] if parts else []
        for name, sign, _ in self.metrics:
            values = [v for r in front.members if (v := r.metrics.get(name)) is not None]
            if values:
                best = max(values) if sign == ">=" else min(values)
                found.append(f"{'highest' if sign == '>=' else 'lowest'} {name}: {best:.4g}")
        return " · ".join(found)


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


def _known(name: str, front: ParetoFront) -> str:
    """A cost with its device, or a metric of the records; UsageError names the nearest one."""
    if is_cost(name):
        return on_device(name, front.devices, "pick")
    metrics = dict.fromkeys(metric for record in front.members for metric in record.metrics)
    metrics |= dict.fromkeys(o.name for o in front.objectives if not is_cost(o.name))
    if name not in metrics:
        known = [*metrics, *cost_fields(front.devices)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
        raise UsageError(f"pick: {name!r} is neither a metric nor a cost · {hint}")
    return name


def _parts(text: str) -> list[str]:
    """What commas separate, with signs as they are usually written; one part at least."""
    for other, sign in _SIGNS.items():
        text = text.replace(other, sign)
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part] or [text]


def _limit(match: re.Match[str], front: ParetoFront) -> Limit | tuple[str, str, float]:
    """A limit on a cost, or of a metric name, sign and bound."""
    name, sign, value = _known(match.group(1), front), *match.group(2, 3)
    if _NEXT.search(value):
        raise UsageError(f"pick: commas separate limits and a goal, got {match.group()!r}")
    if not is_cost(name):
        return name, f"{sign[0]}=", _bound(sign, _number(name, value))
    if sign[0] == ">":
        raise UsageError(f"pick: {name} is a cost and takes <=, got {match.group()!r}")
    found = _budget(front, {name: value}).limits[0]
    return replace(found, value=_bound(sign, found.value))


def _number(name: str, text: str) -> float:
    try:
        value = float(text.rstrip("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"pick: {name} needs a number such as 0.9 or 90%, got {text!r}")
    return value


def _bound(sign: str, value: float) -> float:
    """The bound of `>=` or `<=` that says the same: beside the value of `>` and `<`."""
    beyond = {">": math.inf, "<": -math.inf}.get(sign)
    return value if beyond is None else math.nextafter(value, beyond)


def _tightest(limits: Iterable[Limit]) -> Budget:
    """A budget in which of several limits on one cost the lowest is left."""
    found: dict[str, Limit] = {}
    for limit in limits:
        found[limit.field] = min(found.get(limit.field, limit), limit, key=lambda it: it.value)
    return Budget(tuple(found.values()))


def _budget(front: ParetoFront, limits: Mapping[str, Value]) -> Budget:
    """Absolute limits on costs, each latency with its device."""
    spec = {on_device(name, front.devices, "pick"): value for name, value in limits.items()}
    budget = Budget.parse(spec, "pick", _batches(front))
    relative = [limit for limit in budget.limits if limit.relative]
    if relative:
        raise UsageError(f"pick: {relative[0].field} needs an absolute limit, got {relative[0]}")
    return budget


def _batches(front: ParetoFront) -> dict[str, int]:
    """The batch of each device whose latency is known, by its name."""
    found: dict[str, int] = {}
    for cost in (cost for record in front.records for cost in (record.predicted, record.measured)):
        for name in (cost.names or ("",)) if cost else ():
            device = cost.device_of(name) if cost else None
            found |= {name: device.batch} if device else {}
    return found


def _default_goal(front: ParetoFront, limits_metrics: bool) -> Objective:
    """The cheapest where metrics are limited, otherwise the best in the task's metric."""
    costs = [o for o in front.objectives if is_cost(o.name)]
    metrics = [o for o in front.objectives if not is_cost(o.name)]
    wanted = (costs or metrics) if limits_metrics else (metrics or costs)
    return wanted[0]


def _lowest(front: ParetoFront, name: str) -> str:
    values = (front.value(name, record) for record in front.members)
    known = [value for value in values if value is not None]
    return f"{name} {min(known):.4g}" if known else f"{name} is not known"
