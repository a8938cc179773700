"""Preparation of a search: model, graph, costs, plan, calibration."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from autoprune._search.measuring.byte_models import ByteModels, file_sizes, peak_memories
from autoprune._search.measuring.target_devices import (
    ProfiledModel,
    Profiles,
    TargetDevice,
    check,
    load_targets,
)
from autoprune._search.measuring.verify import MeasurementRig
from autoprune._search.plan import Limits, Plan
from autoprune._search.preparing.checks import (
    check_methods,
    check_precisions,
    check_restrictions,
    check_variables,
    dense_metrics,
    objectives_for,
)
from autoprune._search.preparing.reference import constant_metrics, reference_point
from autoprune._search.preparing.smaller_models import SmallerModel, smaller_models
from autoprune._search.sampling.study import distributions
from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.config import RunConfig
from autoprune.cost.precisions import PrecisionCosts
from autoprune.cost_fields import FILE, field_at, is_latency
from autoprune.device.layers import largest_part
from autoprune.device.widths import efficient_step
from autoprune.errors import DeviceError, GraphError
from autoprune.graph import PruningGraph
from autoprune.pareto import Objective
from autoprune.patterns import WeightCurve
from autoprune.pruning.restrictions import restricted_by
from autoprune.pruning.sparsity import sparse_weights
from autoprune.pruning.verification import prunable
from autoprune.pruning.weight_importance import SCORES, curves
from autoprune.quality import check_qualities, tells_nothing
from autoprune.space import FittedSpace, SearchSpace
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of
from autoprune.tasks.load import load_dense
from autoprune.tasks.loaders import split_size
from autoprune.training import training_device
from autoprune.training.batches import steps_of
from autoprune.training.optimizers import optimizer_for

_CURVE = 21  # overall sparsities at which each weight's own is computed
_LOG = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A prepared search.

    `metrics` are the dense model's on the validation split, `samples` is the size of that, and
    `constant` are those of a constant output; `smaller` are other dense models to compare with.
    """

    plan: Plan
    dense: nn.Module
    graph: PruningGraph
    metrics: Mapping[str, float]
    rig: MeasurementRig
    training_device: str
    sizes: ByteModels = field(default_factory=ByteModels)
    samples: int | None = None
    smaller: tuple[SmallerModel, ...] = ()
    constant: Mapping[str, float] = field(default_factory=dict)

    def with_targets(self, targets: tuple[TargetDevice, ...]) -> Prepared:
        """The same search with costs predicted from these devices' profiles."""
        precisions = self.plan.space.space.precisions
        costs, margins = _costs(self.graph, targets, precisions, self.sizes)
        plan = replace(
            self.plan,
            price=costs.cost,
            prices=costs.prices_of(self.plan.space.items),
            dense=costs.dense,
            margins=margins,
            largest_part=_largest_part(self.graph, targets),
        )
        return replace(self, plan=plan, rig=replace(self.rig, targets=targets))

    @property
    def targets(self) -> tuple[TargetDevice, ...]:
        """The target devices."""
        return self.rig.targets

    @property
    def is_offline(self) -> bool:
        """Whether all target devices are offline."""
        return all(target.is_offline for target in self.targets)


def prepare(
    config: RunConfig,
    task: Task,
    say: Say,
    *,
    profiles: Profiles | None = None,
    is_resumed: bool = False,
) -> Prepared:
    """Everything up to the plan; raises UsageError for a user error.

    `profiles` are those that are there already. Unless the run is resumed, devices without one are
    asked whether they can measure, and `keep` and `bounds` are held against the untrained model.
    """
    objectives = objectives_for(config, task)
    check_variables(config)
    targets = load_targets(config.targets, profiles or {})
    has_int8 = INT8 in config.space.precisions
    if has_int8:
        check_precisions(config, objectives, targets)
    if not is_resumed:
        check(targets)
        check_restrictions(config, task)
    device = training_device(config.train_on)
    say("the dense model")
    dense = load_dense(task, device=device, say=say)
    dense = dense.to("cpu").eval()
    example = task.example_input()
    graph = prunable(dense, example, ignored_layers=task.ignored_layers, num_heads=task.num_heads)
    metrics = dense_metrics(task, dense.to(device))
    constant, samples = constant_metrics(task, dense), split_size(task.val_loader())
    say(_dense_words(task, metrics, constant, samples))
    check_qualities(config.recommended_within(task.metric), metrics, task.metric)
    dense = dense.to("cpu")
    if config.search.baselines.smaller:
        say("smaller dense models")
    smaller = smaller_models(config, task, dense, metrics, device)
    if not graph.groups:
        why = "; ".join(f"{frozen.name}: {frozen.reason}" for frozen in graph.frozen[:3])
        raise GraphError(f"the model of {name_of(task)} has no prunable groups · {why}")
    names = [*config.budget.fields, *(objective.name for objective in objectives)]
    seed, model = config.search.seed, ProfiledModel(dense, graph, example)
    targets = tuple(
        target.fitted(model, seed, say) if target.is_predicted(names) else target
        for target in targets
    )
    if has_int8:
        targets = tuple(it.with_int8(model, seed, say) for it in targets)
    precisions = config.space.precisions
    memory = peak_memories(names, model, targets, precisions, say)
    space = config.space.for_optimizer(optimizer_for(task, dense, graph))
    space = replace(space, curve=task.removed_share)
    check_methods(space, task)
    weights = weight_curves(dense, graph, space, task)
    wanted = [*names, FILE] if weights else names
    files = file_sizes(wanted, model, task, config.task, precisions, say)
    if weights and FILE not in names:
        _LOG.warning(
            "patterns lower file_bytes only, which is neither in the budget nor an objective"
        )
    sizes = ByteModels(memory, files)
    plan = _plan(config, space, graph, objectives, metrics, constant, targets, sizes, weights)
    steps = steps_of(task, plan.epochs, plan.seed)
    plan = replace(plan, space=replace(plan.space, steps=steps))
    plan.check()
    distributions(plan)
    rig = MeasurementRig(dense, graph, example, targets)
    return Prepared(plan, dense, graph, metrics, rig, device, sizes, samples, smaller, constant)


def _dense_words(
    task: Task, metrics: Mapping[str, float], constant: Mapping[str, float], samples: int | None
) -> str:
    """How good the dense model is, and whether that is more than nothing."""
    value, least = metrics[task.metric], constant.get(task.metric, math.nan)
    words = f"the dense model: {task.metric} {value:.4g} on validation data"
    maximize = task.direction == "maximize"
    if tells_nothing(value, least, maximize=maximize, samples=samples):
        words += f", hardly better than a constant output ({least:.4g}): is it trained?"
    return words


def correct(ready: Prepared, chosen: Sequence[Architecture], say: Say) -> Prepared:
    """The search with latency predictors corrected by measuring these architectures.

    They should use the budget up: what was measured of random prunings, perhaps on a busier
    machine, is then right where it decides. Where a device fails, its profile stays as it is.
    """
    names = [*ready.plan.budget.fields, *(objective.name for objective in ready.plan.objectives)]
    if not chosen or not any(is_latency(name) for name in names):
        return ready
    say("latencies of models that use the budget up")
    rig, targets = ready.rig, []
    model = ProfiledModel(rig.dense, rig.graph, rig.example)
    for target in ready.targets:
        try:
            targets.append(target.corrected(model, chosen))
        except DeviceError as error:
            _LOG.warning("its profile is used as it is: %s", error)
            targets.append(target)
    return ready.with_targets(tuple(targets))


def _plan(
    config: RunConfig,
    space: SearchSpace,
    graph: PruningGraph,
    objectives: tuple[Objective, ...],
    metrics: Mapping[str, float],
    constant: Mapping[str, float],
    targets: tuple[TargetDevice, ...],
    sizes: ByteModels,
    weights: Mapping[str, WeightCurve],
) -> Plan:
    costs, margins = _costs(graph, targets, space.precisions, sizes)
    limits, restricted = config.search, restricted_by(config, graph, space)
    fitted = FittedSpace.of(
        space,
        graph.sizes(),
        efficient_step(graph, [it.profile.predictor for it in targets if it.profile]),
        {
            block.name: tuple(graph.lost([block.name]))
            for block in graph.blocks
            if block.name not in restricted.blocks
        },
        weights,
        restricted.ranges,
    )
    return Plan(
        space=fitted,
        price=costs.cost,
        prices=costs.prices_of(fitted.items),
        dense=costs.dense,
        budget=config.budget,
        objectives=objectives,
        reference=reference_point(objectives, metrics, constant, costs.dense),
        limits=Limits(
            limits.trials,
            limits.total_epochs,
            limits.minutes * 60.0 if limits.minutes is not None else None,
            limits.trial_timeout,
            limits.equal_failures,
            limits.keep_models == "all",
            config.max_disk_bytes,
            limits.patience,
        ),
        epochs=limits.epochs,
        rungs=limits.rungs,
        concurrent=limits.concurrent,
        sampler=limits.sampler,
        seed=limits.seed,
        levels=config.levels,
        margins=margins,
        quality=config.quality_limits,
        metrics=metrics,
        largest_part=_largest_part(graph, targets),
        scratch=limits.baselines.scratch,
    )


def weight_curves(
    dense: nn.Module, graph: PruningGraph, space: SearchSpace, task: Task
) -> dict[str, WeightCurve]:
    """The weights that can have a pattern, with their share of zeros; none where none are used."""
    if space.patterns.is_dense:
        return {}
    parameters = dict(dense.named_parameters())
    ignored = tuple(f"{layer}." for layer in task.ignored_layers)
    dims = {n: d for n, d in sparse_weights(dense, graph).items() if not n.startswith(ignored)}
    score = SCORES.get(space.patterns.score, task.sparsity_score)
    found = curves({name: parameters[name] for name in dims}, _CURVE, score) if dims else {}
    return {
        name: WeightCurve(
            parameters[name].numel(),
            parameters[name].shape[dims[name]],
            curve,
            tuple(block.name for block in graph.blocks if name in block.tensors),
        )
        for name, curve in found.items()
    }


def _largest_part(
    graph: PruningGraph, targets: Iterable[TargetDevice]
) -> Callable[[Architecture, str], str]:
    """`largest_part` with the latencies that these devices' profiles predict."""
    predictors = {
        field_at("latency_ms", it.name): it.profile.predictor for it in targets if it.profile
    }
    return partial(largest_part, graph, predictors)


def _costs(
    graph: PruningGraph,
    targets: Iterable[TargetDevice],
    precisions: Collection[str],
    sizes: ByteModels,
) -> tuple[PrecisionCosts, dict[str, float]]:
    """What predicts costs, and by how much each upper bound lies above the prediction."""
    targets = list(targets)
    predictors = {target.name: target.profile.predictor for target in targets if target.profile}
    models = {FLOAT32: sizes.costs(graph, predictors, FLOAT32)}
    if INT8 in precisions:
        quantized = {target.name: target.int8.predictor for target in targets if target.int8}
        models[INT8] = sizes.costs(graph, quantized, INT8)
    margins = {name: margin for target in targets for name, margin in target.margins.items()}
    return PrecisionCosts(models), margins | sizes.margins
