"""Sizes that differ from call to call, such as lengths of texts: files that take all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from autoprune.cost.inputs import Inputs, batch_size, tensors
from autoprune.cost.onnx_export import Axes, FlatModule, OnnxModel, to_onnx
from autoprune.cost.onnx_module import Array, pieces_of
from autoprune.cost.targets.on_device import CPU, open_session
from autoprune.errors import ExportError, first_line

_TOLERANCE = 1e-3  # of the largest output

Call = list[Array]
"""The tensors of one call of the model, in the order of the file's inputs."""


def free_dimensions(calls: Sequence[Call]) -> tuple[dict[int, str], ...]:
    """For each tensor the dimensions after the first whose sizes differ, with a name for each.

    Dimensions that have the same sizes in every call share a name.

    >>> short, long = np.zeros((1, 3)), np.zeros((2, 5))
    >>> free_dimensions([[short, short], [long, long]])
    ({1: 'size_0'}, {1: 'size_0'})
    """
    names: dict[tuple[int, ...], str] = {}
    free = []
    for arrays in zip(*calls, strict=True):
        sizes = zip(*(array.shape[1:] for array in arrays), strict=False)
        free.append(
            {
                dimension: names.setdefault(found, f"size_{len(names)}")
                for dimension, found in enumerate(sizes, start=1)
                if len(set(found)) > 1
            }
        )
    return tuple(free)


def written_for(
    model: nn.Module, traced: Inputs, calls: Sequence[Call], *, dynamic_batch: bool
) -> OnnxModel:
    """Write the model for the sizes of `traced`, and free where those of a call are others.

    A file with free sizes must agree with the model on the smallest call, on the largest, and on
    one of twice its sizes where the model takes that; one with a free batch on batches of one and
    of three samples. Raises ExportError where no exporter can write such a file.
    """
    example = [tensor.detach().numpy() for tensor in tensors(traced)]
    free = free_dimensions([example, *calls])
    if not (any(free) or dynamic_batch):
        return to_onnx(model, traced)
    ordered = sorted(calls, key=lambda call: sum(array[:1].size for array in call))
    batches = (1, 3) if dynamic_batch else (batch_size(traced),)
    trials = [pieces_of(call, size)[0] for call in (ordered[0], ordered[-1]) for size in batches]
    trials += [_doubled(trials[-1], free)] if any(free) else []
    check = _agreement(_answered(FlatModule(model, traced).eval(), trials))
    try:
        return to_onnx(model, traced, dynamic_batch=dynamic_batch, free=free, check=check)
    except ExportError as error:
        if not any(free):
            raise
        raise ExportError(
            f"inputs have several sizes, and a file for all cannot be written: {first_line(error)}"
            " · or make all batches of one size (for texts, pad them to one length)"
        ) from error


def _doubled(call: Call, free: Axes) -> Call:
    """The call with everything twice in the free dimensions."""
    found = []
    for array, dimensions in zip(call, free, strict=True):
        for dimension in dimensions:
            array = np.concatenate([array, array], dimension)
        found.append(array)
    return found


def _answered(flat: FlatModule, trials: Sequence[Call]) -> list[tuple[Call, Call]]:
    """The trials that the model can answer, with its answers."""
    found = []
    for call in trials:
        with torch.no_grad(), contextlib.suppress(Exception):  # longer than it has positions for
            found.append((call, [t.numpy() for t in flat(*map(torch.from_numpy, call))]))
    return found


def _agreement(answered: Sequence[tuple[Call, Call]]) -> Callable[[OnnxModel], None]:
    """A function that raises ExportError where a file's outputs are not the model's."""

    def check(written: OnnxModel) -> None:
        import onnxruntime

        session, silent = open_session(written.data, 1, CPU), onnxruntime.RunOptions()
        silent.log_severity_level = 4
        for call, outputs in answered:
            found = session.run(None, dict(zip(written.inputs, call, strict=True)), silent)
            if not all(map(_close, found, outputs)):
                shapes = ", ".join(str(array.shape) for array in call)
                raise ExportError(f"the file does not agree with the model on inputs {shapes}")

    return check


def _close(found: Array, expected: Array) -> bool:
    finite = np.abs(expected[np.isfinite(expected)])
    limit = _TOLERANCE * float(finite.max(initial=0.0))
    return found.shape == expected.shape and np.allclose(
        found, expected, rtol=0.0, atol=limit, equal_nan=True
    )


def by_sizes(feeds: Sequence[dict[str, Array]]) -> list[list[dict[str, Array]]]:
    """The feeds in groups of equal shapes, the largest group first."""
    groups: dict[tuple[tuple[int, ...], ...], list[dict[str, Array]]] = {}
    for feed in feeds:
        groups.setdefault(tuple(array.shape for array in feed.values()), []).append(feed)
    return sorted(groups.values(), key=len, reverse=True)
