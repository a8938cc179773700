"""What PyTorch's convolutions on a CPU allocate for themselves, beside input and output.

Two kernels do the work. The native one unfolds its input into columns. oneDNN's takes blocks of 8
or 16 channels: it copies input and weights into that layout, and its result out of it. Which one
runs, PyTorch chooses by the sizes (`use_mkldnn` in ATen's Convolution.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Number = int | NDArray[Any]
_NATIVE = 20480  # elements of a single input up to which the native kernel is taken
_MANY = 16  # inputs from which pointwise convolutions leave the native kernel
CONVOLUTIONS = frozenset(
    f"aten::{name}" for name in ("convolution", "_convolution", "convolution_overrideable")
)


@dataclass(frozen=True)
class Convolution:
    """The sizes of one call; arrays over many are broadcast.

    `channels` and `filters` are those of input and output, `depth` the weight's second dimension;
    `kernel`, `inside` and `outside` the positions of the kernel, and of one channel of input and
    output. `is_wide`: the kernel spans more than three positions in its last two dimensions.
    """

    batch: Number
    channels: Number
    filters: Number
    depth: Number
    kernel: Number
    inside: Number
    outside: Number
    itemsize: Number
    is_wide: bool | NDArray[np.bool_]
    is_transposed: bool | NDArray[np.bool_]


def is_wide(kernel: Sequence[int]) -> bool:
    """Whether a kernel spans more than three positions in its last two dimensions."""
    return len(kernel) > 1 and min(kernel[-2:]) > 3


def workspace_bytes(it: Convolution, threads: int = 1) -> NDArray[np.float64]:
    """The most that is allocated at once inside the call, beyond its input and its output.

    Exact for the usual convolutions in float32; transposed and oddly grouped ones are estimated.
    """
    size = it.batch * np.asarray(it.itemsize, dtype=np.float64)
    grouped = np.where(it.is_transposed, it.filters, it.depth) < np.asarray(it.channels)
    few = (np.asarray(it.channels) < block()) & ~grouped & ~np.asarray(it.is_transposed)
    source = np.where(few, 0.0, size * it.inside * padded(it.channels))  # few: read in place
    weights = np.where(it.is_transposed, it.channels, it.filters) * it.depth * it.kernel
    copies = source + weights * np.asarray(it.itemsize) - size * it.outside * it.filters
    blocked = size * it.outside * padded(it.filters) + np.maximum(copies, 0.0)
    pointwise = (np.asarray(it.kernel) == 1) & (np.asarray(it.outside) >= it.inside)
    unfolded = (
        size
        * it.kernel
        * np.where(it.is_transposed, it.filters * it.inside, it.channels * it.outside)
    )
    native = np.where(pointwise & ~np.asarray(it.is_transposed), 0.0, unfolded)
    return np.asarray(np.where(_is_onednn(it, grouped, pointwise, threads), blocked, native))


def _is_onednn(
    it: Convolution, grouped: NDArray[Any], pointwise: NDArray[Any], threads: int
) -> NDArray[Any]:
    batch = np.asarray(it.batch)
    worthwhile = ~pointwise | (threads > 1) | (batch >= _MANY)
    large = (batch > 1) | (batch * it.channels * it.inside > _NATIVE)
    known = np.isin(it.itemsize, _itemsizes())
    return np.asarray(known & worthwhile & (grouped | it.is_wide | large))


def _itemsizes() -> list[int]:
    """Of the types that oneDNN computes with on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []
    return [4, 2] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [4]


def block() -> int:
    """How many channels oneDNN and ONNX Runtime keep together on this processor."""
    return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


def padded(channels: Number) -> NDArray[np.float64]:
    """The channels of whole blocks."""
    return np.asarray(np.ceil(np.asarray(channels) / block()) * block())
