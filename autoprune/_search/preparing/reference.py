"""The reference point of the hypervolume: what a model has to beat to count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autoprune.budget import Cost
from autoprune.cost_fields import is_cost
from autoprune.pareto import Objective
from autoprune.tasks.base import Task
from autoprune.tasks.metrics import evaluated
from autoprune.tasks.nested import mapped


def reference_point(
    objectives: tuple[Objective, ...],
    metrics: Mapping[str, float],
    constant: Mapping[str, float],
    dense: Cost,
) -> tuple[float, ...]:
    """The dense model's costs, and of each metric the better of two values.

    One is half of the dense model's (twice, where less is better). The other lies halfway between
    the dense model's and that of a constant output: a classifier of two classes has half of the
    dense model's accuracy without having learned anything. `metrics` are the dense model's,
    `constant` what `constant_metrics` has found.
    """

    def worst(objective: Objective) -> float:
        name, sign = objective.name, objective.sign
        if is_cost(name):
            return dense.get(name)
        value = metrics[name]
        half = value - abs(value) / 2.0 if sign < 0 else value + abs(value)
        uninformed = constant.get(name, math.nan)
        if not math.isfinite(uninformed) or sign * uninformed <= sign * value:
            return half
        return sign * min(sign * half, sign * (value + uninformed) / 2.0)

    return tuple(map(worst, objectives))


def constant_metrics(task: Task, dense: nn.Module) -> dict[str, float]:
    """The validation metrics of a model whose output is the same for every sample.

    It is the mean of the dense model's outputs over the first batch. Empty where the shapes of
    outputs differ between samples, or where the task cannot evaluate such outputs.
    """
    handle = dense.register_forward_hook(_Constant())
    try:
        return evaluated(task, dense, "val")
    except Exception:  # noqa: BLE001  the task may ask anything of an output
        return {}
    finally:
        handle.remove()


class _Constant:
    """A forward hook that replaces each output by the mean over the first batch."""

    def __init__(self) -> None:
        self._means: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        known, found = iter(self._means), []

        def same(value: Tensor) -> Tensor:
            if not value.is_floating_point() or not value.dim():
                return value
            mean = next(known) if self._means else value.mean(0)
            found.append(mean)
            return mean.expand(value.shape[0], *mean.shape).reshape(value.shape).clone()

        constant = mapped(same, output)
        self._means = self._means or found
        return constant
