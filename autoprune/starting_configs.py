"""What each of several starting models gets: its share of trials and time, its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.budget import Cost, Limit
from autoprune.config import RunConfig
from autoprune.config.sections import SearchConfig
from autoprune.cost_fields import is_cost
from autoprune.quality import QualityLimit, parse_quality
from autoprune.store import DenseReport, RunFolder


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


def share_of(config: RunConfig, trials: int) -> SearchConfig:
    """The limits of a run with so many of the trials: time and epochs in proportion.

    The epochs are enough for one trial at least.
    """
    search, part = config.search, trials / config.search.trials
    minutes = None if search.minutes is None else search.minutes * part
    epochs = None if search.total_epochs is None else search.total_epochs * part
    epochs = None if epochs is None else max(epochs, search.epochs)
    return search.model_copy(update={"trials": trials, "minutes": minutes, "total_epochs": epochs})


def config_of(config: RunConfig, whole: RunFolder, name: str, trials: int) -> RunConfig:
    """The configuration of the run of one starting model, with its share of trials and time.

    What is relative to a dense model is so to the first one: in the configurations of the others
    it is absolute. Smaller dense models are baselines of the first run.
    """
    data = config.starting_from(name).to_dict()
    share, first = share_of(config, trials), next(iter(config.starting_models))
    data["output"] = str(whole.starting_model(name).path)
    if name != first:
        data |= _absolute(config, whole.starting_model(first))
        data["search"]["baselines"]["smaller"] = {}
        data["search"]["levels"] = [
            _resolved(level.limits[0], whole.starting_model(first)) for level in config.levels
        ]
    data["search"] |= {
        "trials": trials,
        "minutes": share.minutes,
        "total_epochs": share.total_epochs,
    }
    if config.max_disk_bytes is not None:
        data["search"]["max_disk"] = f"{config.max_disk_bytes / len(config.starting_models):.0f} B"
    place = f"{whole.path}: {name}"
    return RunConfig.from_dict(data, place=place, base=Path(config.base or "."), resolved=True)


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
