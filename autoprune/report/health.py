"""What is doubtful about a run, in plain words, each with what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.cost_fields import is_latency, split_field
from autoprune.quality import tells_nothing
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.front_axes import cost_of
from autoprune.report.sampling_error import allowed_loss, apart, error_of_difference, nearest
from autoprune.report.why import limits_in_words
from autoprune.space.settings import Parameter

Level = Literal["bad", "warn"]
_ERROR = 0.1  # of predicted latencies: above, they are unsure
_STOPPED = 0.8  # share of trials stopped early: above, the rungs stop too many
_EDGE = 0.05  # of a range
_MOST = 2 / 3  # of the front's models
_FAR = 4.0  # standard errors between validation and test: not by chance
_LEAST_GAP = 0.02
_TIGHT = 0.93  # of a limit that the cheapest model still uses
_FEW = 8
_KINDS = {"random": "random widths", "uniform": "uniform pruning"}  # of baselines


@dataclass(frozen=True)
class Finding:
    """One doubt: `bad` says that results cannot be used as they are."""

    level: Level
    text: str
    remedy: str


def findings(view: RunView, *, is_part: bool = False) -> list[Finding]:
    """All doubts, the bad ones first; empty where nothing was found.

    Of a run that `is_part` of a search from several starting models, quality is not checked: that
    is held against the first one's dense model.
    """
    checks = [check for check in CHECKS if not (is_part and check is _quality)]
    found = [finding for check in checks for finding in check(view)]
    return sorted(found, key=lambda finding: finding.level != "bad")


def _no_front(view: RunView) -> Iterator[Finding]:
    if view.members or not view.records or not view.finished:
        return
    remedy = "raise the budget, or allow more: space.ratios.max, space.depth, fewer keep and bounds"
    yield Finding("bad", f"There is no model: {view.without_model}.", remedy)


def _untrained(view: RunView) -> Iterator[Finding]:
    name, dense = view.metric.name if view.metric else "", view.dense
    value, constant = dense.metrics.get(name), dense.constant.get(name)
    if value is None or constant is None or view.metric is None:
        return
    maximize = view.metric.direction == "maximize"
    if tells_nothing(value, constant, maximize=maximize, samples=dense.samples):
        yield Finding(
            "bad",
            f"The dense model is hardly better than a constant output: {name} "
            f"{text.metric(name, value)} and {text.metric(name, constant)} on validation data.",
            "train it before the search (checkpoint or dense_epochs of the task), or look for what "
            "is wrong with the validation data",
        )


def _quality(view: RunView) -> Iterator[Finding]:
    found = view.recommendation
    if found is None or found.is_within or found.unknown:
        return
    members = {record.number for record in view.members}
    if any(view.is_good_enough(r) for r in view.retrained if r.number in members):
        return
    number, broken = found.record.number, found.broken
    limits, more = limits_in_words(view), "more search.epochs or trials, or a looser budget"
    said = f"No model of the front has {limits}: the nearest, trial {number}, has "
    said += _values(broken, found.record.metrics)
    remedy = "short trials understate what a full training reaches: retrain it and look; "
    remedy += f"otherwise {more}"
    after = [result for result in view.retrained if result.number == number]
    if after:
        reached = {name: spread.mean for name, spread in after[-1].validation.items()}
        epochs = f"{after[-1].epochs:g} epochs of retraining"
        said += f", and {_values(broken, reached)} after {epochs}"
        remedy = f"a longer retraining, {more}"
    yield Finding("warn", f"{said}.{_near_miss(view)}", remedy)


def _values(names: Iterable[str], metrics: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {text.metric(name, metrics.get(name))}" for name in names)


def _near_miss(view: RunView) -> str:
    """The model that is good enough and just over the budget as measured, in words."""
    near = view.near_miss
    if near is None or view.metric is None:
        return ""
    name = view.metric.name
    return (
        f" Trial {near.number} has {name} {text.metric(name, view.metric_of(near))}, but is over "
        f"the budget as measured: {view.over_budget(near)}."
    )


def _predictor(view: RunView) -> Iterator[Finding]:
    for field in view.latencies:
        pairs = [
            (cost_of(r, "predicted", field), cost_of(r, "measured", field)) for r in view.records
        ]
        ratios = [p / m for p, m in pairs if p and m]
        device = split_field(field)[1]
        profile = view.devices.get(device)
        error = _mean_error(ratios) if len(ratios) > 2 else profile.error if profile else None
        if error is not None and error > _ERROR:
            on = f" on {device}" if device else ""
            off = f"Predicted latencies{on} are off by {100 * error:.0f} %"
            yield _other_speed(view, field, ratios, off) or Finding(
                "warn",
                f"{off}, so models near the limit may have been missed.",
                f"measure on an idle machine: autoprune verify {view.place}; if they are still "
                "off, make a profile with autoprune profile -o and search again",
            )


def _other_speed(view: RunView, field: str, ratios: Sequence[float], off: str) -> Finding | None:
    """What is said where the dense model's prediction is off likewise: the device's speed changed.

    None where it is not, or off in the other direction than most of the `ratios` of predicted to
    measured latency. Measuring again cannot help: predictions stay as they are.
    """
    predicted, measured = (
        cost.value(field) if cost else None for cost in (view.dense.predicted, view.dense.measured)
    )
    if not predicted or not measured or len(ratios) <= 2:
        return None
    dense, middle = predicted / measured, sorted(ratios)[len(ratios) // 2]
    if abs(dense - 1.0) <= _ERROR or (dense > 1.0) is not (middle > 1.0):
        return None
    rest = _mean_error([ratio / dense for ratio in ratios])
    speed = "slower" if dense > 1.0 else "faster"
    return Finding(
        "warn",
        f"{off}, and that of the dense model by {100 * abs(dense - 1.0):.0f} %: the device was "
        f"{speed} when predictions were fitted than when the front was measured. Relative to the "
        f"dense model they are off by {100 * rest:.0f} %.",
        "search again on an idle machine, if models near the limit matter; measuring this front "
        "again does not change predictions",
    )


def _mean_error(ratios: Sequence[float]) -> float:
    return sum(abs(ratio - 1.0) for ratio in ratios) / len(ratios)


def _noise(view: RunView) -> Iterator[Finding]:
    known = [r for r in view.members if r.measured is not None]
    noisy = [r for r in known if text.noise(r.measured)]
    if known and len(noisy) > len(known) / 4:
        yield Finding(
            "warn",
            f"{_of_front(len(noisy), len(known))} measured while the machine was busy.",
            f"close other programs and run: autoprune verify {view.place}",
        )


def _of_front(count: int, known: int) -> str:
    """So many models of the front, with the verb.

    >>> _of_front(1, 1), _of_front(1, 4)
    ('The model of the front was', '1 of 4 models of the front was')
    """
    if known == 1:
        return "The model of the front was"
    return f"{count} of {known} models of the front {'was' if count == 1 else 'were'}"


def _rungs(view: RunView) -> Iterator[Finding]:
    own = [r for r in view.records if r.is_counted and r.state in ("complete", "stopped")]
    stopped = [r for r in own if r.state == "stopped"]
    if len(own) < _FEW or len(stopped) <= _STOPPED * len(own):
        return
    first = all(len(record.history) <= 1 for record in stopped)
    where = " at the first rung" if first else ""
    many = "All" if len(stopped) == len(own) else f"{len(stopped)} of {len(own)}"
    yield Finding(
        "warn",
        f"{many} trials were stopped{where}, so few were trained to their end.",
        "search.rungs: 1 (or 0), or more search.epochs, so that the first evaluation tells more",
    )


def _failed(view: RunView) -> Iterator[Finding]:
    failed = [r for r in view.records if r.state == "failed"]
    tried = [r for r in view.records if r.state != "infeasible"]
    if failed and len(failed) > len(tried) / 10:
        yield Finding(
            "bad" if len(failed) > len(tried) / 2 else "warn",
            f"{len(failed)} of {len(tried)} trials failed: {text.last_line(failed[0].error)}.",
            f"their reasons: autoprune show {view.place}",
        )


def _learning_rate(view: RunView) -> Iterator[Finding]:
    varied = view.plan.space.space.varied if view.plan else ()
    if len(view.members) < 3:
        return
    for parameter in varied:
        if not parameter.name.startswith("recovery.lr") or not parameter.is_number:
            continue
        rates = [rate for r in view.members if (rate := r.candidate.recovery.lr) is not None]
        least, most = _ends(parameter)
        share = 1.0 if len(parameter.choices) == 2 else _MOST  # of two, each is an end
        for word, end, near in (("upper", most, 1.0), ("lower", least, 0.0)):
            there = [rate for rate in rates if abs(_place(parameter, rate) - near) <= _EDGE]
            if rates and least < most and len(there) >= share * len(rates):
                what = "choices" if parameter.choices else "range"
                yield Finding(
                    "warn",
                    f"{len(there)} of {len(rates)} models of the front have a learning rate at the "
                    f"{word} end of its {what} ({end:g}).",
                    f"widen space.{parameter.name}",
                )


def _ends(parameter: Parameter) -> tuple[float, float]:
    """The least and the largest value of a range, or of choices that are numbers."""
    choices = [float(choice) for choice in parameter.choices]
    return (min(choices), max(choices)) if choices else (parameter.low, parameter.high)


def _place(parameter: Parameter, value: float) -> float:
    """Where a value lies between the ends, 0 to 1; of choices 0 or 1 only at an end."""
    low, high = _ends(parameter)
    if parameter.choices:
        return 0.5 + 0.5 * (value >= high) - 0.5 * (value <= low)
    if parameter.log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5


def _neighbors(view: RunView) -> Iterator[Finding]:
    """The recommended model and the member nearest in the metric, less than an error apart."""
    name, value, count = _recommended_share(view)
    near = nearest(view)
    if value is None or near is None or view.recommendation is None:
        return
    gap, error = abs(near.value - value), error_of_difference(value, near.value, count)
    if gap < error:
        yield Finding(
            "warn",
            f"The validation split ({count} samples) hardly tells the recommended trial "
            f"{view.recommendation.record.number} ({name} {text.metric(name, value)}) and trial "
            f"{near.number} ({text.metric(name, near.value)}) apart: {apart(gap, count)}, and the "
            f"standard error of the difference is {100 * error:.2g} pt.",
            "use a larger split; or retrain both with several seeds and compare those on test "
            f"data: autoprune retrain {view.place} --pick trial={near.number} --seeds 3",
        )


def _single(view: RunView) -> Iterator[Finding]:
    """A recommended model without neighbors, whose limits allow less of a loss than the error."""
    name, value, count = _recommended_share(view)
    dense, allowed = view.dense.metrics.get(name), allowed_loss(view)
    if value is None or dense is None or not allowed or nearest(view):
        return
    error = error_of_difference(value, dense, count)
    if allowed < error:
        yield Finding(
            "warn",
            f"The validation split ({count} samples) hardly tells whether the recommended model is "
            f"good enough: it may lose {100 * allowed:.2g} pt of {name}, and the standard error of "
            f"the difference from the dense model is {100 * error:.2g} pt.",
            "use a larger split; or retrain it with several seeds and compare it with the dense "
            f"model on test data: autoprune retrain {view.place} --seeds 3",
        )


def _recommended_share(view: RunView) -> tuple[str, float | None, int]:
    """The metric, the recommended model's value where it is a share of samples, and their count."""
    name, count = view.metric.name if view.metric else "", view.dense.samples or 0
    found = view.recommendation
    value = view.metric_of(found.record) if found else None
    return name, value if count and text.is_share(name) else None, count


def _contaminated(view: RunView) -> Iterator[Finding]:
    """Validation much better than test, of a metric in [0, 1] that is maximized.

    Training metrics are not compared with validation: a task evaluates these two splits only, its
    training batches may be augmented, and a model that generalizes is as good on both.
    """
    name = view.metric.name if view.metric else ""
    validation = view.dense.metrics.get(name)
    tests = [result.dense.test[name] for result in view.retrained if name in result.dense.test]
    if validation is None or not tests or not _is_within_one(view, (validation, *tests)):
        return
    gap = validation - tests[0]
    if gap > _largest_by_chance(name, tests[0], view.dense.samples or 1000):
        yield Finding(
            "warn",
            f"The dense model has {text.metric(name, validation)} on validation and only "
            f"{text.metric(name, tests[0])} on test data: it may have been trained on validation "
            "data.",
            "split again and train the dense model without the validation split: a search that "
            "selects on known data favors models that remember it",
        )


def _is_within_one(view: RunView, values: Iterable[float]) -> bool:
    """Whether the metric is maximized and looks like one in [0, 1]: so are all known values."""
    own = (v for r in view.records if (v := view.metric_of(r)) is not None)
    is_maximized = view.metric is not None and view.metric.direction == "maximize"
    return is_maximized and all(0.0 <= value <= 1.0 for value in (*values, *own))


def _largest_by_chance(name: str, value: float, count: int) -> float:
    """A difference between two splits that chance hardly exceeds.

    Four standard errors of a share of all samples. Other metrics are taken as rates over a quarter
    of them, such as the positives of a sensitivity or the smaller class of an AUC, whose variance
    is at most p (1 - p) / n of that class (Birnbaum and Klose 1957).
    """
    counted = count if text.is_share(name) else count / 4
    error = math.sqrt(max(value * (1.0 - value), 1.0 / counted) / counted)
    return max(_LEAST_GAP, _FAR * error)


def _tight(view: RunView) -> Iterator[Finding]:
    smallest = view.plan.smallest if view.plan else None
    for name, most in view.plan.limits.items() if view.plan and smallest else ():
        least = smallest.value(name) if smallest else None
        if least is not None and least > _TIGHT * most:
            yield Finding(
                "warn",
                f"The budget is nearly out of reach: the smallest model of this space uses "
                f"{100 * least / most:.0f} % of the limit on {text.label(name)}"
                f"{_largest(view, name)}.",
                "allow more pruning (space.ratios.max, space.depth), keep less, or raise the limit",
            )


def _largest(view: RunView, field: str) -> str:
    """The layer that takes most of this cost of the smallest model, where it takes much."""
    parts = _parts(view, field)
    if view.network is None or not sum(parts):
        return ""
    place = max(range(len(parts)), key=lambda k: parts[k])
    share = 100 * parts[place] / sum(parts)
    return (
        f"; {view.network.layers[place].name} alone takes {share:.0f} % of it" if share > 20 else ""
    )


def _parts(view: RunView, field: str) -> Sequence[float]:
    """What each layer of the smallest model takes of a cost; empty where that is not known."""
    costs = view.network.models.get("smallest") if view.network else None
    if view.network is None or costs is None:
        return ()
    if field == "macs":
        return costs.macs
    estimated = view.network.latency
    is_same = is_latency(estimated) and split_field(field)[1] == split_field(estimated)[1]
    return costs.ms if is_latency(field) and is_same else ()


def _short(view: RunView) -> Iterator[Finding]:
    own = [r for r in view.records if r.is_counted and r.state != "infeasible"]
    if view.finished and " minute" in view.ended_by and len(own) < _FEW:
        yield Finding(
            "warn",
            f"The time limit ended the search after {len(own)} trial{'s' * (len(own) != 1)}, "
            "hardly more than the first candidates.",
            f"continue it: autoprune resume {view.place} --minutes +30",
        )


def _no_gain(view: RunView) -> Iterator[Finding]:
    gains = [gain for r in view.members if not r.baseline and (gain := view.gain(r)) is not None]
    if len(gains) > 1 and max(gains) <= 0.0:
        yield Finding(
            "warn",
            "No model of the front is better than uniform pruning at equal cost.",
            "more trials; if it is so then, one ratio for all layers (space: quick) is enough here",
        )


def _is_baseline(view: RunView) -> Iterator[Finding]:
    """Uniform widths only where others were possible, and in place of `_no_gain`."""
    found, space = view.recommendation, view.plan.space if view.plan else None
    kind = found.record.baseline if found and view.finished else ""
    is_choice = space is not None and space.per_group and len(space.widths) > 1
    is_doubtful = kind == "random" or (kind == "uniform" and is_choice and not any(_no_gain(view)))
    if found and is_doubtful:
        yield Finding(
            "warn",
            f"The recommended model, trial {found.record.number}, is a baseline ({_KINDS[kind]}), "
            "none that the search itself proposed.",
            f"give the search more trials: autoprune resume {view.place} --trials +20",
        )


CHECKS: tuple[Callable[[RunView], Iterator[Finding]], ...] = (
    _no_front,
    _untrained,
    _quality,
    _tight,
    _predictor,
    _noise,
    _rungs,
    _failed,
    _learning_rate,
    _neighbors,
    _single,
    _contaminated,
    _short,
    _no_gain,
    _is_baseline,
)
