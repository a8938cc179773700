"""What a search computes once before its first trial: calibration, sensitivities, screening."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from autoprune._search.preparing.block_factor import balanced
from autoprune._search.preparing.checks import needs_calibration, values_of
from autoprune._search.preparing.prepare import Prepared, Say
from autoprune._search.sampling.score import STATISTICS, RepairScore, heads
from autoprune._search.sampling.screening import Screening
from autoprune._search.trials.tuning import threads_for
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import IN_FLOAT, Architecture
from autoprune.candidate import OBS
from autoprune.config import RunConfig
from autoprune.pruning import importance, sensitivity
from autoprune.pruning.build import build
from autoprune.pruning.compensate import Calibration, calibrate, reestimate_batchnorm
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.quantization import twin_of
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.on_batches import loss_of, outputs_of
from autoprune.training import Precision, training_precision
from autoprune.training.batches import sample

_SENSITIVITY_SAMPLES = 512
_SENSITIVITY_MACS = 4e12  # multiply-accumulates of all forward passes: a few minutes at most


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
    calibration = scores = None
    if needs_calibration(ready.plan.space.space):
        say("calibration statistics")
        calibration = _calibration(config, task, ready)
    space = ready.plan.space
    if calibration is not None and (space.per_group or OBS in values_of(space.space, "importance")):
        say("importance of units")
        scores = importance.scores(ready.dense, ready.graph, OBS, calibration=calibration)
    say("the arithmetic of training" if precision is None else "the workers' context")
    cpus = config.search.ray.resources_per_trial.get("cpu")
    threads = threads_for(config.search.concurrent) if cpus is None else max(1, int(cpus))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        precision = precision or training_precision(
            config.arithmetic, task, ready.dense, ready.training_device
        )
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
        sized=bool(ready.sizes.files),
        scores=scores,
    )


def measure_sensitivity(
    config: RunConfig,
    task: Task,
    ready: Prepared,
    calibration: Calibration,
    say: Say,
    scores: Mapping[str, Tensor] | None = None,
) -> Sensitivity:
    """How far the outputs move when each group or block alone is pruned, after repair.

    What blocks count beside widths is settled by models that have both (`settle_blocks`). `scores`
    are the importance `obs` of the dense model, where it is known.
    """
    space = ready.plan.space
    if scores is None:
        scores = importance.scores(ready.dense, ready.graph, OBS, calibration=calibration)
    batches = _sensitivity_batches(config, task, ready)
    score = sensitivity.divergence(ready.dense, batches, forward=partial(outputs_of, task))
    began = time.monotonic()

    def told(done: int, all_: int) -> None:
        left = (time.monotonic() - began) * (all_ - done) / max(done, 1)
        tail = f", about {left:.0f} s left" if done else ""
        share = 100 * done // max(all_, 1)
        say(f"sensitivities of groups and blocks: {share} % measured{tail}")

    found = sensitivity.measure(
        ready.dense,
        ready.graph,
        calibration,
        score,
        scores=scores,
        nearest=space.nearest,
        blocks=tuple(space.blocks) if space.most_dropped else (),
        statistics=heads(batches, STATISTICS),
        forward=partial(loss_of, task),
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
    table = Sensitivity(found.dense, counts, increases)
    return settle_blocks(config, task, ready, calibration, table, say, scores=scores)


def settle_blocks(
    config: RunConfig,
    task: Task,
    ready: Prepared,
    calibration: Calibration,
    table: Sensitivity,
    say: Say,
    *,
    scores: Mapping[str, Tensor] | None = None,
) -> Sensitivity:
    """The same with the factor of blocks that suits the budget of this search (`balanced`)."""
    if scores is None:
        scores = importance.scores(ready.dense, ready.graph, OBS, calibration=calibration)
    batches = _sensitivity_batches(config, task, ready)
    score = sensitivity.divergence(ready.dense, batches, forward=partial(outputs_of, task))

    def divergence(architecture: Architecture) -> float:
        small = build(
            ready.dense, ready.graph, architecture, scores=scores, calibration=calibration
        ).model
        if architecture.dropped:
            statistics = heads(batches, STATISTICS)
            reestimate_batchnorm(small, statistics, forward=partial(loss_of, task))
        return score(small)

    if ready.plan.space.most_dropped:
        say("sensitivities of blocks beside those of widths")
    return balanced(table, ready.plan, divergence)


def _sensitivity_batches(config: RunConfig, task: Task, ready: Prepared) -> list[Batch]:
    """Fewer samples where model and number of groups are large, so that it takes about the same."""
    space = ready.plan.space
    builds = len(space.widths) * len(sensitivity.RATIOS)
    builds += sensitivity.BUILDS_PER_BLOCK * len(space.blocks)
    samples = _SENSITIVITY_MACS / max(1, builds * (ready.plan.dense.macs or 1))
    samples = int(min(_SENSITIVITY_SAMPLES, max(_SENSITIVITY_SAMPLES / 8, samples)))
    return heads(sample(task, config.search.seed, samples=samples, least=1), samples)


def relative_importance(scores: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Each unit's importance over its group's mean."""
    return {
        name: (values / values.mean().clamp_min(1e-30)).tolist() for name, values in scores.items()
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
            scores=context.scores,
            seed=config.search.seed,
            threads=context.threads,
            device=ready.training_device,
            precision=context.precision,
        )

    return Screening(ready.plan, score, count=config.search.screen, sensitivity=sensitivity)


def _calibration(config: RunConfig, task: Task, ready: Prepared) -> Calibration:
    samples = config.search.calibration_samples
    batches = sample(task, config.search.seed, samples=samples)
    return calibrate(
        ready.dense,
        batches,
        max_samples=samples,
        seed=config.search.seed,
        forward=partial(loss_of, task),
    )
