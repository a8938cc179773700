"""Optimizers of recovery: the built-in ones, a task's own, schedule and gradient clipping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from autoprune.candidate import Recovery, warmup_steps
from autoprune.errors import TaskError
from autoprune.graph import PruningGraph
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of
from autoprune.training.held_masks import HeldMasks

MOMENTUM = 0.9
_MOST_GROWTH, _HIGHEST_RATE = 4.0, 0.1


def optimizer_for(task: Task, model: nn.Module, graph: PruningGraph) -> str:
    """What `recovery.optimizer: auto` means: `task` where the task configures one of its own.

    Otherwise `adamw` for a model with attention and `sgd` for any other. Raises TaskError where
    what the task configures cannot train a candidate.
    """
    own = task.configure_optimizers(model, 1.0, 0.0)
    if own is not None:
        _check_own(own, task, model)
        return "task"
    return "adamw" if has_attention(graph) else "sgd"


def has_attention(graph: PruningGraph) -> bool:
    """Whether the model calls an attention kernel, or a softmax between products of activations."""
    names = [op.name for op in graph.ops]
    if any("attention" in name for name in names):
        return True
    products = [i for i, op in enumerate(graph.ops) if op.macs and not op.parameters]
    softmax = [i for i, name in enumerate(names) if "softmax" in name]
    return any(products[0] < i < products[-1] for i in softmax) if products else False


def built_in(model: nn.Module, name: str, lr: float, weight_decay: float) -> Optimizer:
    """`sgd` (Nesterov momentum) or `adamw` over the trainable parameters.

    Scales, shifts and biases (fewer than two dimensions) do not decay.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() > 1]
    vectors = [parameter for parameter in trainable if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True)
    return AdamW(groups, lr=lr)


def rate_for_length(recovery: Recovery, before: float, now: float) -> float:
    """The peak learning rate for `now` epochs, where that of `recovery` was found in `before`.

    SGD's grows with the square root of the length, at most fourfold and to 0.1, and never shrinks
    (`results/search/lr.md` has what the best rates are); other optimizers keep theirs. `recovery`
    must be resolved.

    >>> short = Recovery(lr=0.01, optimizer="sgd")
    >>> rate_for_length(short, 1.0, 9.0), rate_for_length(short, 1.0, 100.0)
    (0.03, 0.04)
    """
    assert recovery.lr is not None, "resolved"
    grown = recovery.lr * growth(recovery.optimizer, now / before)
    return max(recovery.lr, min(grown, _HIGHEST_RATE))


def growth(optimizer: str, ratio: float) -> float:
    """By what the best learning rate grows where a training is `ratio` times as long.

    >>> growth("sgd", 4.0), growth("sgd", 100.0), growth("adamw", 4.0)
    (2.0, 4.0, 1.0)
    """
    return min(_MOST_GROWTH, math.sqrt(ratio)) if optimizer == "sgd" else 1.0


def rate_share(step: int, total: int, warmup: float) -> float:
    """The share of the peak learning rate at optimization step `step` in [0, total).

    Linear over the first `warmup` of the steps (one at least), then a cosine to 0.

    >>> [round(rate_share(step, 40, 0.05), 3) for step in (0, 1, 20, 39)]
    [0.5, 1.0, 0.52, 0.002]
    """
    warm = warmup_steps(warmup, total)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step + 1 - warm) / max(1, total + 1 - warm)))


def rewarmed(step: int, removals: Sequence[int], warm: int) -> float:
    """The share of the rate that the schedule gives at `step`: it rises anew after each removal.

    >>> [rewarmed(step, (0, 10), 4) for step in (9, 10, 11, 13, 14)]
    [1.0, 0.25, 0.5, 1.0, 1.0]
    """
    since = step - max((at for at in removals if 0 < at <= step), default=-warm)
    return min(1.0, (since + 1) / warm)


class Optimization:
    """The optimizer of one run with its schedule over `steps` steps and its gradient clipping.

    `recovery` must be resolved (`Recovery.resolved`); `removals` are the steps before which the
    model gets smaller. Raises TaskError where what the task configures does not fit.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recovery: Recovery,
        steps: int,
        *,
        removals: Sequence[int] = (),
    ) -> None:
        assert recovery.lr is not None, "resolved"
        assert recovery.weight_decay is not None, "resolved"
        self.peak = recovery.lr
        self.optimizer = _optimizer(
            task, model, recovery.optimizer, self.peak, recovery.weight_decay
        )
        anew = removals if recovery.rewarm else ()
        self._schedule = _schedule(task, self.optimizer, steps, recovery.warmup, anew)
        self._grad_clip = recovery.grad_clip

    @property
    def name(self) -> str:
        """The optimizer's class."""
        return type(self.optimizer).__name__

    @property
    def rate(self) -> float:
        """The learning rate of the next step; the largest of the parameter groups'."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def step(self, loss: Tensor, held: HeldMasks | None = None) -> None:
        """One optimization step down the gradient of `loss`; what is `held` stays zero."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if held is not None:
            held.clear_gradients()
        if self._grad_clip > 0.0:
            groups = self.optimizer.param_groups
            clip_grad_norm_([p for group in groups for p in group["params"]], self._grad_clip)
        self.optimizer.step()
        if held is not None:
            held.clear_weights()
        self._schedule.step()

    def seek(self, step: int) -> None:
        """Bring a fresh schedule to where it is after `step` steps."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for _ in range(step):
                self._schedule.step()


def _optimizer(
    task: Task, model: nn.Module, name: str, lr: float, weight_decay: float
) -> Optimizer:
    if name != "task":
        return built_in(model, name, lr, weight_decay)
    return _check_own(task.configure_optimizers(model, lr, weight_decay), task, model)


def _check_own(optimizer: Any, task: Task, model: nn.Module) -> Optimizer:
    """What a task configures, checked; TaskError where it cannot train a candidate."""
    place = f"{name_of(task)}.configure_optimizers"
    if not isinstance(optimizer, Optimizer):
        raise TaskError(
            f"{place} must return a torch optimizer for recovery.optimizer: task, "
            f"got {type(optimizer).__name__}"
        )
    if isinstance(optimizer, LBFGS):
        raise TaskError(f"{place} must return an optimizer that steps without a closure, got LBFGS")
    known = {id(parameter) for parameter in model.parameters()}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if not known.issuperset(held):
        raise TaskError(
            f"{place} must take the parameters of the model that it is given, "
            f"got {len([p for p in held if p not in known])} others"
        )
    return optimizer


def _schedule(
    task: Task, optimizer: Optimizer, steps: int, warmup: float, removals: Sequence[int]
) -> LRScheduler:
    schedule = task.configure_schedule(optimizer, steps, warmup)
    if schedule is None:
        warm = warmup_steps(warmup, steps)

        def share(step: int) -> float:
            return rate_share(step, steps, warmup) * rewarmed(step, removals, warm)

        return LambdaLR(optimizer, share)
    if removals:
        raise TaskError(
            f"recovery.rewarm needs the built-in schedule, and {name_of(task)} configures "
            "one of its own · set it to false"
        )
    if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau):
        raise TaskError(
            f"{name_of(task)}.configure_schedule must return a torch LRScheduler that is "
            f"stepped without a metric, got {type(schedule).__name__}"
        )
    return schedule
