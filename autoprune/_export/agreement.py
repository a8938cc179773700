"""Whether a written file computes what the model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.cost.inputs import Inputs, as_call, tensors
from autoprune.errors import ExportError, first_line

_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-6}
_CHECKS = 3
_OTHER_BATCHES = (1, 3)

Runner = Callable[[Inputs], list[Tensor]]
"""Runs a loaded file on the inputs of a call; the outputs in the model's order."""


def compare(model: nn.Module, run: Runner, trials: Sequence[Inputs], name: str) -> float:
    """The largest relative difference; raises ExportError where it is above the tolerance."""
    worst = 0.0
    for trial in trials:
        args, kwargs = as_call(trial)
        with torch.no_grad():
            expected = tensors(model(*args, **kwargs))
        try:
            found = run(trial)
        except Exception as error:
            raise ExportError(
                f"{name} was written but does not run on inputs {_shapes(trial)}: "
                f"{first_line(error)}"
            ) from error
        if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in expected]:
            raise ExportError(
                f"{name} must give outputs of shapes {_shapes(expected)}, got {_shapes(found)}"
            )
        for ours, theirs in zip(expected, found, strict=True):
            off, tolerance = difference(ours, theirs), _TOLERANCES.get(ours.dtype, 1e-4)
            if not off <= tolerance:
                raise ExportError(
                    f"{name} must agree with the model within {tolerance:g} of the largest "
                    f"output, got {off:.3g} on inputs {_shapes(trial)} · nothing was written"
                )
            worst = max(worst, off)
    return worst


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest absolute difference relative to the largest finite expected value.

    Infinite where NaN or infinities are not at the same places.
    """
    ours, theirs = expected.double(), found.double()
    finite = torch.isfinite(ours)
    if not torch.equal(finite, torch.isfinite(theirs)) or not torch.equal(
        torch.nan_to_num(ours[~finite]), torch.nan_to_num(theirs[~finite])
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(ours[finite].abs().max()) or 1.0
    return float((ours - theirs)[finite].abs().max()) / scale


def variants(example_inputs: Inputs, dynamic_batch: bool, seed: int) -> list[Inputs]:
    """The example, random inputs like it, and with `dynamic_batch` those of other batch sizes."""
    generator = torch.Generator().manual_seed(seed)
    trials = [example_inputs, *(_random(example_inputs, generator) for _ in range(_CHECKS))]
    if dynamic_batch:
        trials += [_random(resized(example_inputs, n), generator) for n in _OTHER_BATCHES]
    return trials


def _random(example_inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Inputs of the same shapes, types and range: normal floats, integers within the example's."""

    def like(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.is_complex() or leaf.numel() == 0:
            return leaf
        if leaf.is_floating_point():
            spread = float(leaf.double().std(correction=0)) or 1.0
            noise = torch.randn(leaf.shape, generator=generator) * spread
            return (noise + float(leaf.double().mean())).to(leaf.dtype)
        low, high = int(leaf.min()), int(leaf.max())
        drawn = torch.randint(low, high + 1, leaf.shape, generator=generator)
        return drawn.to(leaf.dtype)

    result: Inputs = pytree.tree_map(like, example_inputs)
    return result


def resized(example_inputs: Inputs, batch: int) -> Inputs:
    """The same inputs with another first dimension: repeated, then cut."""

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        times = -(-batch // max(1, leaf.shape[0]))
        return leaf.repeat(times, *(1 for _ in leaf.shape[1:]))[:batch].clone()

    result: Inputs = pytree.tree_map(resize, example_inputs)
    return result


def _shapes(tree: Any) -> str:
    found = tensors(as_call(tree) if isinstance(tree, (Tensor, Mapping)) else tree)
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in found)
