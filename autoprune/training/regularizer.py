"""Penalties that prepare the next removal; each is one step on the weights after the optimizer's.

`REGULARIZERS` is the visible table. A regularizer is made for one stretch of training, from a
removal to the next; a task's own one is a single function (`Task.regularize`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import Group, PruningGraph
from autoprune.pruning.importance import unit_sums
from autoprune.tasks.base import Task


class Regularizer:
    """One stretch of training, from step `begin` to a removal before step `end`.

    `pruned_units` are those that leave then. The base class does nothing.
    """

    def __init__(self, strength: float, begin: int, end: int) -> None:
        self.strength, self.begin, self.end = strength, begin, end
        self.pruned_units: dict[str, list[int]] = {}

    def choose(
        self, model: nn.Module, graph: PruningGraph, keep: Mapping[str, Sequence[int]]
    ) -> None:
        """Take the units that are not in `keep` as those pruned at the end of the stretch."""
        for name, kept in keep.items():
            group, stays = graph.group(name), set(kept)
            self.pruned_units[name] = [unit for unit in range(group.size) if unit not in stays]
        self.measure(model, graph)

    def measure(self, model: nn.Module, graph: PruningGraph) -> None:
        """Note at the beginning what the strength is relative to, and bind the model."""

    def shrink(self, step: int) -> None:
        """Change the weights after optimization step `step`, in [begin, end)."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `resume` reads it back."""
        return {
            "strength": self.strength,
            "begin": self.begin,
            "end": self.end,
            "pruned_units": self.pruned_units,
            "sizes": self.sizes(),
        }

    def sizes(self) -> dict[str, list[float]]:
        """What `measure` noted."""
        return {}

    def rebind(
        self, model: nn.Module, graph: PruningGraph, sizes: Mapping[str, list[float]]
    ) -> None:
        """As `measure`, where the sizes are known."""

    def resume(
        self, state: Mapping[str, Any], model: nn.Module, graph: PruningGraph
    ) -> Regularizer:
        """Be as it was when `to_dict` was called, bound to a restored model; returns itself."""
        self.strength, self.begin, self.end = state["strength"], state["begin"], state["end"]
        self.pruned_units = {name: list(units) for name, units in state["pruned_units"].items()}
        self.rebind(model, graph, state["sizes"])
        return self


class GroupLasso(Regularizer):
    """A penalty on the norms of some units that grows with each step of one stretch of training.

    The penalty is applied by its proximal step after the optimizer's: all slices of a unit are
    scaled by max(0, 1 - t / norm), where norm is the l2 norm over all its learned slices. The
    thresholds t of a stretch of n steps grow linearly and add up to `strength` times the unit's
    norm at the beginning: with strength 1 the lasso alone brings the unit to 0 at the end of the
    stretch, whatever the learning rate and the length; the loss pulls against it. (Group lasso:
    Yuan & Lin 2006; growing regularization of pruned weights: Wang et al. 2021, arXiv:2012.09243.)
    """

    def __init__(self, strength: float, begin: int, end: int) -> None:
        super().__init__(strength, begin, end)
        self._norms: dict[str, Tensor] = {}
        self._parts: dict[str, list[tuple[Tensor, int, Tensor]]] = {}

    def measure(self, model: nn.Module, graph: PruningGraph) -> None:
        """The norms of the units to be pruned."""
        for name, units in self.pruned_units.items():
            self._bind(model, graph.group(name))
            self._norms[name] = unit_norms(model, graph.group(name))[units]

    def shrink(self, step: int) -> None:
        """The proximal step after optimization step `step`, in [begin, end)."""
        length = self.end - self.begin
        growth = 2.0 * (step - self.begin + 1) / (length * (length + 1))
        with torch.no_grad():
            for name, parts in self._parts.items():
                owned = [tensor.movedim(dim, 0)[rows] for tensor, dim, rows in parts]
                squares = [_square_sums(values) for values in owned]
                norms = torch.stack(squares).sum(0).sqrt()
                threshold = self.strength * growth * self._norms[name].to(norms)
                factor = (1.0 - threshold / norms.clamp_min(1e-30)).clamp_min(0.0)
                for (tensor, dim, rows), values in zip(parts, owned, strict=True):
                    shape = (-1, *[1] * (values.dim() - 1))
                    tensor.movedim(dim, 0)[rows] = values * factor.to(values.dtype).view(shape)

    def sizes(self) -> dict[str, list[float]]:
        """The norms at the beginning."""
        return {name: norms.tolist() for name, norms in self._norms.items()}

    def rebind(
        self, model: nn.Module, graph: PruningGraph, sizes: Mapping[str, list[float]]
    ) -> None:
        """Bind a restored model."""
        for name, norms in sizes.items():
            self._bind(model, graph.group(name))
            self._norms[name] = torch.tensor(norms, dtype=torch.float64)

    def _bind(self, model: nn.Module, group: Group) -> None:
        learned = dict(model.named_parameters(remove_duplicate=False))
        units = self.pruned_units[group.name]
        self._parts[group.name] = [
            (
                learned[part.tensor],
                part.dim,
                torch.as_tensor(part.indices[units], device=learned[part.tensor].device),
            )
            for part in group.slices
            if part.tensor in learned
        ]


class Slimming(Regularizer):
    """An l1 penalty on the scales of all batch normalizations, as its proximal step.

    Every |scale| gets smaller by the same amount a step; over the stretch these add up to
    `strength` times the mean |scale| of its layer at the beginning (Liu et al. 2017,
    arXiv:1708.06519). What the loss does not pull back goes to zero, and is pruned by `bn_scale`.
    """

    def __init__(self, strength: float, begin: int, end: int) -> None:
        super().__init__(strength, begin, end)
        self._scales: dict[str, Tensor] = {}
        self._means: dict[str, float] = {}

    def measure(self, model: nn.Module, graph: PruningGraph) -> None:
        """The mean size of each layer's scales."""
        self._scales = _scales(model)
        self._means = {n: scale.detach().abs().mean().item() for n, scale in self._scales.items()}

    def shrink(self, step: int) -> None:
        """Soft thresholding."""
        share = self.strength / (self.end - self.begin)
        with torch.no_grad():
            for name, scale in self._scales.items():
                smaller = scale.abs().sub(share * self._means[name]).clamp_min(0.0)
                scale.copy_(torch.copysign(smaller, scale))

    def sizes(self) -> dict[str, list[float]]:
        """The means at the beginning."""
        return {name: [mean] for name, mean in self._means.items()}

    def rebind(
        self, model: nn.Module, graph: PruningGraph, sizes: Mapping[str, list[float]]
    ) -> None:
        """Bind a restored model."""
        self._scales = _scales(model)
        self._means = {name: mean for name, (mean,) in sizes.items()}


class OfTask(Regularizer):
    """The task's own function, called after each step with the step's share of the strength."""

    def __init__(
        self, function: Callable[..., None], strength: float, begin: int, end: int
    ) -> None:
        super().__init__(strength, begin, end)
        self._function = function
        self._model: nn.Module | None = None

    def measure(self, model: nn.Module, graph: PruningGraph) -> None:
        """Only the model."""
        self._model = model

    def rebind(
        self, model: nn.Module, graph: PruningGraph, sizes: Mapping[str, list[float]]
    ) -> None:
        """Only the model."""
        self._model = model

    def shrink(self, step: int) -> None:
        """Call the function."""
        with torch.no_grad():
            self._function(self._model, self.pruned_units, self.strength / (self.end - self.begin))


REGULARIZERS: dict[str, Callable[[float, int, int], Regularizer]] = {
    "group_lasso": GroupLasso,
    "slimming": Slimming,
}


def make(penalty: str, strength: float, begin: int, end: int, task: Task) -> Regularizer:
    """The regularizer of that name for one stretch."""
    if penalty == "task":
        return OfTask(task.regularize, strength, begin, end)
    return REGULARIZERS[penalty](strength, begin, end)


def _scales(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }


def unit_norms(model: nn.Module, group: Group) -> Tensor:
    """The l2 norm of each unit of `group` over all its learned slices: `(size,)` float64, CPU."""
    learned = dict(model.named_parameters(remove_duplicate=False))
    squares = torch.zeros(group.size, dtype=torch.float64)
    for part in group.slices:
        if part.tensor in learned:
            squares += unit_sums(learned[part.tensor].detach().double().square(), part).cpu()
    return squares.sqrt()


def _square_sums(values: Tensor) -> Tensor:
    """Sums of squares of `(units, k, ...)` over all but the units."""
    return values.flatten(1).double().square().sum(1)
