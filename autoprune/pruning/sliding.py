"""Layers whose outputs depend on neighboring channels, of which some were pruned.

Convolutions that slide over channels (efficient channel attention), local response normalization.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import GraphError
from autoprune.graph import Indices
from autoprune.graph.types import POSITIONS, SOURCE


class SlidingConv1d(nn.Conv1d):
    """A `Conv1d` over the channels of a dense layer, some of which were pruned.

    The input has the kept ones. It is convolved with each at its position in the dense layer and
    zeros at the others; the output has the kept positions again. Buffers: the `positions`, and for
    each position of the dense layer its `source` in the input, or the zero behind it. Pruning makes
    both; they are no part of the state.
    """

    positions: Tensor
    source: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, kept)` to `(batch, out_channels, kept)`."""
        zero = torch.zeros_like(x[..., :1])
        dense = torch.cat([x, zero], dim=-1).index_select(-1, self.source)
        return super().forward(dense).index_select(-1, self.positions)


class SlidingLocalResponseNorm(nn.LocalResponseNorm):
    """A `LocalResponseNorm` over the channels of a dense layer, some of which were pruned.

    Pruned channels count as zeros. Buffers as those of `SlidingConv1d`.
    """

    positions: Tensor
    source: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, kept, …)` to the same shape."""
        zero = torch.zeros_like(x[:, :1])
        dense = torch.cat([x, zero], dim=1).index_select(1, self.source)
        return super().forward(dense).index_select(1, self.positions)


_SLIDING: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: SlidingConv1d,
    nn.LocalResponseNorm: SlidingLocalResponseNorm,
}


def check_positions(layer: nn.Module | None, size: int) -> None:
    """Raise GraphError where a layer does not see `size` channels, or cannot lose any."""
    if type(layer) in _SLIDING:
        return
    if isinstance(layer, SlidingConv1d | SlidingLocalResponseNorm) and len(layer.positions) == size:
        return
    raise GraphError(
        f"the model must fit the graph: expected a Conv1d or a LocalResponseNorm over {size} "
        f"channels, got {layer} · trace this model again"
    )


def keep_positions(
    layer: nn.Module, size: int, kept: Indices, device: torch.device | None = None
) -> None:
    """Let a layer see only `kept` of the `size` channels that it sees so far, in place.

    What it then holds is on `device`. Raises GraphError as `check_positions`.
    """
    check_positions(layer, size)
    if type(layer) in _SLIDING:
        positions, dense_size = torch.arange(size, device=device), size
        layer.__class__ = _SLIDING[type(layer)]
    else:
        positions, dense_size = layer.get_buffer(POSITIONS).long(), len(layer.get_buffer(SOURCE))
    positions = positions[torch.from_numpy(kept).to(positions.device)]
    source = torch.full((dense_size,), len(positions), device=positions.device)
    source[positions] = torch.arange(len(positions), device=positions.device)
    layer.register_buffer(POSITIONS, positions.int(), persistent=False)
    layer.register_buffer(SOURCE, source.int(), persistent=False)
