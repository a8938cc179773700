"""Preparation of a search: model, graph, costs, plan, calibration."""

from __future__ import annotations

import difflib
import logging
import math
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from autoprune._search.plan import Limits, Plan
from autoprune._search.score import STATISTICS, RepairScore, heads
from autoprune._search.screening import Screening
from autoprune._search.study import distributions
from autoprune._search.target_devices import (
    Profiles,
    TargetDevice,
    check,
    check_int8,
    load_targets,
)
from autoprune._search.tuning import threads_for
from autoprune._search.verify import MeasurementRig, objectives_of
from autoprune._search.worker import WorkerContext
from autoprune.architecture import FLOAT32, IN_FLOAT, INT8, Architecture
from autoprune.budget import Cost
from autoprune.candidate import BY_ACTIVATIONS
from autoprune.config import RunConfig
from autoprune.cost.activations import COUNTED, PeakMemory
from autoprune.cost.file_size import MARGIN as FILE_MARGIN
from autoprune.cost.file_size import FileSize
from autoprune.cost.model import CostModel
from autoprune.cost.precisions import PrecisionCosts
from autoprune.cost.targets import cores, device_name
from autoprune.cost_fields import FILE, MEMORY, cost_fields, field_at, is_cost, is_latency
from autoprune.device.layers import largest_part
from autoprune.device.widths import efficient_step
from autoprune.errors import AutopruneError, ConfigError, DeviceError, GraphError, TaskError
from autoprune.fitted_space import FittedSpace
from autoprune.graph import PruningGraph
from autoprune.pareto import Objective
from autoprune.patterns import WeightCurve
from autoprune.pruning import importance, sensitivity
from autoprune.pruning.compensate import Calibration, calibrate
from autoprune.pruning.restrictions import restricted_by
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.pruning.sparsity import sparse_weights
from autoprune.pruning.verification import prunable
from autoprune.pruning.weight_importance import curves
from autoprune.quality import check_qualities
from autoprune.quantization import twin_of
from autoprune.space import SearchSpace, Value
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense
from autoprune.tasks.loaders import split_size
from autoprune.tasks.metrics import evaluated
from autoprune.training import Precision, choose, training_device
from autoprune.training.batches import sample
from autoprune.training.optimizers import optimizer_for

_PACKAGES = ("autoprune", "torch", "ray", "optuna", "numpy", "onnx", "onnxruntime")
_SENSITIVITY_SAMPLES = 512
_SENSITIVITY_MACS = 4e12  # multiply-accumulates of all forward passes: a few minutes at most
_CURVE = 21  # overall sparsities at which each weight's own is computed
_LOG = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A prepared search.

    `metrics` are the dense model's on the validation split, `samples` is the size of that.
    """

    plan: Plan
    dense: nn.Module
    graph: PruningGraph
    metrics: Mapping[str, float]
    rig: MeasurementRig
    training_device: str
    memory: tuple[PeakMemory, ...] = (COUNTED,)
    file: FileSize | None = None
    samples: int | None = None

    def with_targets(self, targets: tuple[TargetDevice, ...]) -> Prepared:
        """The same search with costs predicted from these devices' profiles."""
        precisions = self.plan.space.space.precisions
        costs, margins = _costs(self.graph, targets, self.memory, precisions, self.file)
        plan = replace(
            self.plan,
            price=costs.cost,
            prices=costs.prices,
            dense=costs.dense,
            margins=margins,
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
    asked whether they can measure.
    """
    objectives = _objectives(config, task)
    targets = load_targets(config.targets, profiles or {})
    has_int8 = INT8 in config.space.precisions
    if has_int8:
        _check_int8(config, objectives, targets)
    if not is_resumed:
        check(targets)
    device = training_device(config.train_on)
    say("the dense model")
    dense = load_dense(task, device=device)
    dense = dense.to("cpu").eval()
    example = task.example_input()
    graph = prunable(dense, example, ignored_layers=task.ignored_layers, num_heads=task.num_heads)
    metrics = _dense_metrics(task, dense.to(device))
    check_qualities(config.quality_limits, metrics, task.metric)
    dense = dense.to("cpu")
    if not graph.groups:
        why = "; ".join(f"{frozen.name}: {frozen.reason}" for frozen in graph.frozen[:3])
        raise GraphError(f"the model of {type(task).__name__} has no prunable groups · {why}")
    names = [*config.budget.fields, *(objective.name for objective in objectives)]
    seed = config.search.seed
    targets = tuple(
        target.fitted(dense, graph, example, seed, say) if target.is_predicted(names) else target
        for target in targets
    )
    if has_int8:
        targets = tuple(it.with_int8(dense, graph, example, seed, say) for it in targets)
    memory: tuple[PeakMemory, ...] = (COUNTED,)
    if MEMORY in names and targets:
        say("peak memory of random prunings")
        memory = tuple(target.peak_memory(dense, graph, example) for target in targets)
    space = config.space.for_optimizer(optimizer_for(task, dense, graph))
    _check_methods(space, task)
    weights = weight_curves(dense, graph, space, task.ignored_layers)
    file = FileSize.of(dense.state_dict(), graph, config.task) if FILE in names or weights else None
    if weights and FILE not in names:
        _LOG.warning(
            "patterns lower file_bytes only, which is neither in the budget nor an objective"
        )
    plan = _plan(config, space, graph, objectives, metrics, targets, memory, file, weights)
    plan.check()
    distributions(plan)
    rig = MeasurementRig(dense, graph, example, targets)
    samples = split_size(task.val_loader())
    return Prepared(plan, dense, graph, metrics, rig, device, memory, file, samples)


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
    for target in ready.targets:
        try:
            targets.append(target.corrected(rig.dense, rig.graph, rig.example, chosen))
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
    targets: tuple[TargetDevice, ...],
    memory: tuple[PeakMemory, ...],
    file: FileSize | None,
    weights: Mapping[str, WeightCurve],
) -> Plan:
    costs, margins = _costs(graph, targets, memory, space.precisions, file)
    limits, restricted = config.search, restricted_by(config, graph, space)
    return Plan(
        space=FittedSpace.of(
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
        ),
        price=costs.cost,
        prices=costs.prices,
        dense=costs.dense,
        budget=config.budget,
        objectives=objectives,
        reference=_reference(objectives, metrics, costs.dense),
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
        largest_part=partial(
            largest_part,
            graph,
            {field_at("latency_ms", it.name): it.profile.predictor for it in targets if it.profile},
        ),
        scratch=limits.baselines.scratch,
    )


def weight_curves(
    dense: nn.Module, graph: PruningGraph, space: SearchSpace, ignored_layers: Sequence[str]
) -> dict[str, WeightCurve]:
    """The weights that can have a pattern, with their share of zeros; none where none are used."""
    if space.patterns.is_dense:
        return {}
    parameters = dict(dense.named_parameters())
    ignored = tuple(f"{layer}." for layer in ignored_layers)
    dims = {n: d for n, d in sparse_weights(dense, graph).items() if not n.startswith(ignored)}
    found = curves({name: parameters[name] for name in dims}, _CURVE) if dims else {}
    return {
        name: WeightCurve(
            parameters[name].numel(),
            parameters[name].shape[dims[name]],
            curve,
            tuple(block.name for block in graph.blocks if name in block.tensors),
        )
        for name, curve in found.items()
    }


def _costs(
    graph: PruningGraph,
    targets: Iterable[TargetDevice],
    memory: Sequence[PeakMemory],
    precisions: Collection[str],
    file: FileSize | None,
) -> tuple[PrecisionCosts, dict[str, float]]:
    """What predicts costs, and by how much each upper bound lies above the prediction."""
    targets = list(targets)
    predictors = {target.name: target.profile.predictor for target in targets if target.profile}
    models = {FLOAT32: CostModel(graph, latency=predictors, memory=memory, file=file)}
    if INT8 in precisions:
        quantized = {target.name: target.int8.predictor for target in targets if target.int8}
        models[INT8] = CostModel(graph, latency=quantized, precision=INT8)
    margins = {name: margin for target in targets for name, margin in target.margins.items()}
    factor = max(fitted.upper_factor for fitted in memory)
    if factor > 1.0:
        margins[MEMORY] = factor - 1.0
    if file is not None:
        margins[FILE] = FILE_MARGIN
    return PrecisionCosts(models), margins


def make_context(
    config: RunConfig,
    task: Task,
    ready: Prepared,
    path: str,
    say: Say,
    precision: Precision | None = None,
) -> WorkerContext:
    """The context of the workers: calibration and the arithmetic of training, computed once.

    `precision` is that of a resumed run: timed again, it might be another one.
    """
    calibration = None
    if _needs_calibration(ready.plan.space.space):
        say("calibration statistics")
        calibration = _calibration(config, task, ready)
    say("the arithmetic of training" if precision is None else "the workers' context")
    cpus = config.search.ray.resources_per_trial.get("cpu")
    threads = threads_for(config.search.concurrent) if cpus is None else max(1, int(cpus))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        precision = precision or choose(task, ready.dense, ready.training_device)
    finally:
        torch.set_num_threads(before)
    return WorkerContext(
        task=task,
        weights={name: tensor.cpu() for name, tensor in ready.dense.state_dict().items()},
        graph=ready.graph,
        calibration=calibration,
        milestones=ready.plan.milestones,
        path=path,
        task_reference=config.task,
        task_args=config.task_args,
        threads=threads,
        device=ready.training_device,
        precision=precision,
        precisions=ready.plan.space.space.precisions,
        sized=ready.file is not None,
    )


def measure_sensitivity(
    config: RunConfig, task: Task, ready: Prepared, calibration: Calibration, say: Say
) -> Sensitivity:
    """How far the outputs move when each group or block alone is pruned, after repair.

    On fewer samples where model and number of groups are large, so that it takes about the same.
    """
    space = ready.plan.space
    builds = len(space.widths) * len(sensitivity.RATIOS) + len(space.blocks)
    samples = _SENSITIVITY_MACS / max(1, builds * (ready.plan.dense.macs or 1))
    samples = int(min(_SENSITIVITY_SAMPLES, max(_SENSITIVITY_SAMPLES / 8, samples)))
    batches = heads(sample(task, config.search.seed, samples=samples, least=1), samples)
    score = sensitivity.divergence(ready.dense, batches, forward=task.outputs)
    began = time.monotonic()

    def told(done: int, all_: int) -> None:
        left = (time.monotonic() - began) * (all_ - done) / max(done, 1)
        tail = f", about {left:.0f} s left" if done else ""
        say(f"sensitivity of {all_} groups and blocks: {done} measured{tail}")

    found = sensitivity.measure(
        ready.dense,
        ready.graph,
        calibration,
        score,
        nearest=space.nearest,
        blocks=tuple(space.blocks) if space.most_dropped else (),
        statistics=heads(batches, STATISTICS),
        forward=task.loss,
        progress=told,
    )
    fixed = {item: space.choices(item) for item in space.items if item not in found.counts}
    counts = {**found.counts, **{item: choices[-1:] for item, choices in fixed.items()}}
    increases = {**found.increases, **dict.fromkeys(fixed, (0.0,))}
    if IN_FLOAT in space.items:
        say("sensitivity to int8")
        twin = twin_of(ready.dense, task, QuantizationSettings(), threads=1)
        rise = max(0.0, score(twin.int8) - found.dense)
        counts[IN_FLOAT], increases[IN_FLOAT] = (0, 1), (rise, 0.0)
    return Sensitivity(found.dense, counts, increases)


def relative_importance(
    dense: nn.Module, graph: PruningGraph, calibration: Calibration
) -> dict[str, list[float]]:
    """Each unit's importance by the Optimal-Brain-Surgeon order, over its group's mean."""
    found = importance.scores(dense, graph, "obs", calibration=calibration)
    return {
        name: (values / values.mean().clamp_min(1e-30)).tolist() for name, values in found.items()
    }


def make_screening(
    config: RunConfig,
    task: Task,
    ready: Prepared,
    context: WorkerContext,
    sensitivity: Callable[[str, int], float] | None,
) -> Screening | None:
    """The screening of proposals; None where every proposal is trained."""
    if config.search.screen == 0:
        return None

    def score() -> RepairScore:
        return RepairScore(
            task,
            ready.dense,
            ready.graph,
            context.calibration,
            seed=config.search.seed,
            threads=context.threads,
            device=ready.training_device,
            precision=context.precision,
        )

    return Screening(ready.plan, score, count=config.search.screen, sensitivity=sensitivity)


def environment(config: RunConfig) -> dict[str, Any]:
    """Machine and versions."""
    found: dict[str, Any] = {}
    for package in _PACKAGES:
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


def _check_int8(
    config: RunConfig, objectives: Sequence[Objective], targets: Sequence[TargetDevice]
) -> None:
    """Raise ConfigError where a search with int8 models cannot be."""
    check_int8(targets)
    names = {*config.budget.fields, *(objective.name for objective in objectives)}
    for name in (MEMORY, FILE):
        if name in names:
            raise ConfigError(
                f"space.precision: {name} of int8 models is not known · leave it out of budget and "
                "search.objectives, or search with precision: float32"
            )


def _objectives(config: RunConfig, task: Task) -> tuple[Objective, ...]:
    names = config.search.objectives or [task.metric, config.budget.fields[0]]
    costs = cost_fields(list(config.devices))
    known = [task.metric, *costs]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" · nearest: {near[0]}" if near else ""
            raise ConfigError(
                f"search.objectives: {name!r} is neither the task's metric ({task.metric}) nor a "
                f"cost ({', '.join(costs)}){hint}"
            )
    if task.metric not in names or len(set(names)) != len(names):
        raise ConfigError(
            f"search.objectives must hold the task's metric ({task.metric}) and nothing twice, "
            f"got {', '.join(names)}"
        )
    return objectives_of(names, task.metric, task.direction)


def _dense_metrics(task: Task, dense: nn.Module) -> dict[str, float]:
    try:
        metrics = evaluated(task, dense, "val")
    except AutopruneError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise TaskError(
            f"{type(task).__name__}.evaluate failed for the dense model on val: "
            f"{type(error).__name__}: {text}"
        ) from error
    value = metrics.get(task.metric)
    if value is None or not math.isfinite(value):
        raise TaskError(
            f"{type(task).__name__}.evaluate must give a finite {task.metric!r} for the dense "
            f"model, got {value if value is not None else sorted(metrics)} on val"
        )
    return metrics


def _reference(
    objectives: tuple[Objective, ...], metrics: Mapping[str, float], dense: Cost
) -> tuple[float, ...]:
    """The reference point: half of the dense metric (twice, where less is better), dense cost."""

    def worst(objective: Objective) -> float:
        if is_cost(objective.name):
            return dense.get(objective.name)
        value = metrics[objective.name]
        better_up = objective.direction == "maximize"
        return value - abs(value) / 2.0 if better_up else value + abs(value)

    return tuple(worst(objective) for objective in objectives)


def _check_methods(space: SearchSpace, task: Task) -> None:
    """Raise TaskError where a method of the task is asked for and it defines none."""
    for setting, method in (("importance", "importance"), ("recovery.penalty", "regularize")):
        own = getattr(type(task), method) is not getattr(Task, method)
        if "task" in _values(space, setting) and not own:
            raise TaskError(
                f"{setting} 'task' needs {type(task).__name__}.{method}, which is not defined "
                "· define it, or use another one"
            )


def _values(space: SearchSpace, name: str) -> tuple[Value, ...]:
    """What a setting may be."""
    varied = {parameter.name: parameter.choices for parameter in space.varied}
    return varied.get(name, (space.fixed[name],) if name in space.fixed else ())


def _needs_calibration(space: SearchSpace) -> bool:
    importances = _values(space, "importance")
    return True in _values(space, "repair") or not BY_ACTIVATIONS.isdisjoint(map(str, importances))


def _calibration(config: RunConfig, task: Task, ready: Prepared) -> Calibration:
    samples = config.search.calibration_samples
    batches = sample(task, config.search.seed, samples=samples)
    return calibrate(
        ready.dense,
        batches,
        max_samples=samples,
        seed=config.search.seed,
        forward=task.loss,
    )
