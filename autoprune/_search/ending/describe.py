"""What a search writes of itself: its plan, groups, layers, and what mattered."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import optuna

from autoprune._search.plan import Plan
from autoprune._search.preparing.prepare import Prepared
from autoprune.architecture import INT8
from autoprune.budget import Cost
from autoprune.config import RunConfig
from autoprune.cost.targets import PACKAGES, cores, device_name
from autoprune.cost_fields import is_cost
from autoprune.store import (
    BlockInfo,
    DenseReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    RunFolder,
    SearchPlan,
)

_FEWEST = 20  # complete trials: of fewer, importances are noise
_OF_TRAINING = ("recovery.", "schedule.", "importance", "repair")  # names of variables
_PACKAGES = ("autoprune", "torch", "ray", "optuna", "numpy", "onnx")


def describe(store: RunFolder, ready: Prepared) -> None:
    """Write what the search knows before its first trial, for the report and for `resume`."""
    for target in ready.targets:
        if target.profile is not None:
            store.save_profile(target.name, target.profile.to_dict())
        if target.int8 is not None:
            store.save_profile(target.name, target.int8.to_dict(), INT8)
    store.save_plan(search_plan(ready.plan))
    if store.dense() is None:
        store.save_dense(dense_report(ready, None))
    groups = tuple(GroupInfo(g.name, g.kind, g.size) for g in ready.graph.groups)
    frozen = tuple(FrozenInfo(f.name, f.size, f.reason) for f in ready.graph.frozen)
    blocks = tuple(BlockInfo(b.name, b.kind) for b in ready.graph.blocks)
    store.save_groups(Groups(groups, frozen, blocks))


def environment(config: RunConfig) -> dict[str, Any]:
    """Machine and versions."""
    found: dict[str, Any] = {}
    for package in (*_PACKAGES, *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": device_name(),
        "cores": cores(),
        "seed": config.search.seed,
    }


def search_plan(plan: Plan) -> SearchPlan:
    """What was decided before the first trial, as it is written: without the task's curve."""
    budgets = (plan.budget, *plan.levels)
    space = replace(plan.space, space=replace(plan.space.space, curve=None))
    decided = SearchPlan.of(
        plan.objectives, plan.reference, budgets, space, plan.dense, plan.smallest()
    )
    return replace(decided, margins=dict(plan.margins))


def dense_report(ready: Prepared, measured: Cost | None) -> DenseReport:
    """What is known of the dense model."""
    known = ready.metrics, ready.plan.dense, measured, ready.samples, ready.constant
    return DenseReport(*known)


def importances(study: optuna.Study, plan: Plan) -> dict[str, dict[str, float]]:
    """Importance of each search variable by objective (PED-ANOVA); empty with too few trials.

    A cost follows from the architecture alone, so for costs the variables of training are left out.
    """
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < _FEWEST:
        return {}
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, objective in enumerate(plan.objectives):
            shares = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=_value_of(place),
                normalize=False,
            )
            if is_cost(objective.name):
                shares = {n: v for n, v in shares.items() if not n.startswith(_OF_TRAINING)}
            total = sum(shares.values())
            if total:
                found[objective.name] = {name: share / total for name, share in shares.items()}
    return found


def _value_of(place: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: float(trial.values[place])
