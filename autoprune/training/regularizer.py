"""Group lasso on the units to be pruned next: they shrink to zero before they are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import Group, PruningGraph
from autoprune.pruning.importance import unit_sums


class GroupLasso:
    """A penalty on the norms of some units that grows with each step of one stretch of training.

    The penalty is applied by its proximal step after the optimizer's: all slices of a unit are
    scaled by max(0, 1 - t / norm), where norm is the l2 norm over all its learned slices. The
    thresholds t of a stretch of n steps grow linearly and add up to `strength` times the unit's
    norm at the beginning: with strength 1 the lasso alone brings the unit to 0 at the end of the
    stretch, whatever the learning rate and the length; the loss pulls against it. (Group lasso:
    Yuan & Lin 2006; growing regularization of pruned weights: Wang et al. 2021, arXiv:2012.09243.)
    """

    def __init__(self, strength: float, begin: int, end: int) -> None:
        self.strength, self.begin, self.end = strength, begin, end
        self.pruned_units: dict[str, list[int]] = {}
        self._norms: dict[str, Tensor] = {}
        self._parts: dict[str, list[tuple[Tensor, int, Tensor]]] = {}

    def choose(
        self, model: nn.Module, graph: PruningGraph, keep: Mapping[str, Sequence[int]]
    ) -> None:
        """Take the units that are not in `keep` as those pruned at the end of the stretch."""
        for name, kept in keep.items():
            group, stays = graph.group(name), set(kept)
            self.pruned_units[name] = [unit for unit in range(group.size) if unit not in stays]
            self._bind(model, group)
            self._norms[name] = unit_norms(model, group)[self.pruned_units[name]]

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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `resume` reads it back."""
        return {
            "strength": self.strength,
            "begin": self.begin,
            "end": self.end,
            "pruned_units": self.pruned_units,
            "norms": {name: norms.tolist() for name, norms in self._norms.items()},
        }

    @staticmethod
    def resume(state: Mapping[str, Any], model: nn.Module, graph: PruningGraph) -> GroupLasso:
        """The lasso as it was when `to_dict` was called, bound to a restored model."""
        lasso = GroupLasso(state["strength"], state["begin"], state["end"])
        lasso.pruned_units = {name: list(units) for name, units in state["pruned_units"].items()}
        for name, norms in state["norms"].items():
            lasso._bind(model, graph.group(name))
            lasso._norms[name] = torch.tensor(norms, dtype=torch.float64)
        return lasso

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
