"""Indexing: embeddings, gathers, packed sequences, and data movement replayed on the ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.graph import reshape as shapes
from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow, table
from autoprune.graph.ids import Labels
from autoprune.graph.types import Indices

_MASKS = (torch.bool, torch.uint8)


def embedding(flow: Flow, call: Call) -> None:
    """Columns of the table are channels; its rows are not prunable."""
    weight, indices = call["weight"], call["indices"]
    rows, columns = flow.labels(weight)
    flow.block(rows, "are the words of an embedding")
    flow.ids.mark(columns, 1)
    if columns is not None:
        flow.note(flow.state(weight).names, "embedding_dim", columns, weight.shape[1])
    call.labels = [(*flow.labels(indices), columns)]
    call.zero = True


def embedding_bag(flow: Flow, call: Call) -> None:
    """Sums or means of rows of a table."""
    rows, columns = flow.labels(call["weight"])
    flow.block(rows, "are the words of an embedding")
    flow.ids.mark(columns, 1)
    if columns is not None:
        flow.note(flow.state(call["weight"]).names, "embedding_dim", columns, len(columns))
    call.labels = [(None, columns), *[()] * (len(call.outs) - 1)]
    call.zero = True


def packed(flow: Flow, call: Call) -> None:
    """Packed sequences (no padding): features pass through."""
    call.labels = [(None, *flow.labels(call["input"])[2:]), (None,)]
    call.zero = flow.state(call["input"]).zero


def padded(flow: Flow, call: Call) -> None:
    """Packed sequences as a batch again."""
    call.labels = [(None, None, *flow.labels(call["data"])[1:]), (None,)]
    call.zero = flow.state(call["data"]).zero and not call["padding_value"]


def indexed(flow: Flow, call: Call) -> None:
    """Indexing by tensors: indexed dimensions are not prunable, the others move with the data."""
    source = call["self"]
    labels = list(flow.labels(source))
    if call.name.startswith("index_select") or call.name.startswith("gather"):
        dims = [call["dim"] % source.dim()]
    else:
        dims = _index_dims(call["indices"])
    for dim in dims:
        flow.refuse_parts(labels[dim])
        flow.block(labels[dim], "is indexed by position")
        labels[dim] = None
    _replay(flow, call, tuple(labels))
    call.weight = flow.state(source).weight  # one of several weights, picked by a router


def placed(flow: Flow, call: Call) -> None:
    """Scatter and index_put: the indexed dimensions are not prunable; the others are united."""
    target = call["self"]
    values = next(v for v in (call["source"], call["src"], call["values"]) if v is not None)
    labels, held = list(flow.labels(target)), flow.labels(values)
    indices = call["indices"]
    dims = _index_dims(indices) if indices is not None else [call["dim"] % target.dim()]
    for dim in dims:
        flow.block(labels[dim], "is indexed by position")
        labels[dim] = None
    order = _order_of_values(indices, target.dim(), dims)
    for place in range(-1, -1 - min(len(order), values.dim()), -1):
        aimed, label = order[place], held[place]
        if aimed is None:
            flow.block(label, "is indexed by position")
        elif values.shape[place] > 1:
            labels[aimed] = flow.join(labels[aimed], label)
    call.labels = [tuple(labels)]
    call.zero = flow.state(target).zero and flow.state(values).zero


def _order_of_values(
    indices: Sequence[Tensor | None] | None, count: int, dims: Sequence[int]
) -> list[int | None]:
    """The dimensions of what is placed: those of the target, None for positions of the indices.

    Indices that stand side by side put theirs in place of what they index, others in front.

    >>> _order_of_values([None, torch.arange(3)], 3, [1])
    [0, None, 2]
    >>> _order_of_values([torch.arange(3), None, torch.arange(3)], 3, [0, 2])
    [None, 1]
    """
    if indices is None:
        return [None if dim in dims else dim for dim in range(count)]
    tensors = (index for index in indices if index is not None)
    positions = max(1 if index.dtype in _MASKS else index.dim() for index in tensors)
    adjacent = dims[-1] - dims[0] == len(dims) - 1
    rest: list[int | None] = [dim for dim in range(count) if dim not in dims]
    front = dims[0] if adjacent else 0
    return [*rest[:front], *[None] * positions, *rest[front:]]


def moved(flow: Flow, call: Call) -> None:
    """Any other data movement: the same operation is applied to the ids."""
    _replay(flow, call, flow.labels(call["self"]))


def _replay(flow: Flow, call: Call, labels: Labels) -> None:
    source = call["self"]
    result: list[list[Indices | None]] = [[None] * out.dim() for out in call.outs]
    for dim, label in enumerate(labels):
        if label is None or len(label) < 2:
            continue
        shape = [1] * source.dim()
        shape[dim] = len(label)
        ids = torch.from_numpy(label + 1).double().reshape(shape).expand(source.shape).contiguous()
        outs = _again(call, ids.to(source.device))
        for place, out in enumerate(outs if outs is not None else []):
            table = out.round().long().cpu().numpy() - 1
            found = shapes.settle(flow.ids, table)
            if found is not None and result[place][found[0]] is None:
                result[place][found[0]] = found[1]
            elif found is not None:
                flow.block(label, "two channel dimensions are merged into one")
        if outs is None:
            flow.block(label, f"{call.name} is not understood")
    call.labels = [tuple(found) for found in result]
    call.zero = flow.state(source).zero


def _again(call: Call, ids: Tensor) -> list[Tensor] | None:
    arguments: dict[str, Any] = {**call.args, "self": ids}
    try:
        result = getattr(torch.ops.aten, call.name)(**arguments)
    except (RuntimeError, TypeError, NotImplementedError, IndexError):
        return None
    return [result] if isinstance(result, Tensor) else list(result)


def _index_dims(indices: Sequence[Tensor | None]) -> list[int]:
    dims: list[int] = []
    place = 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in _MASKS else 1
        if index is not None:
            dims += range(place, place + width)
        place += width
    return dims


RULES = {
    **table(embedding, "embedding"),
    **table(embedding_bag, "_embedding_bag _embedding_bag_forward_only"),
    **table(packed, "_pack_padded_sequence"),
    **table(padded, "_pad_packed_sequence"),
    **table(
        placed,
        """index_add index_copy index_put _unsafe_index_put scatter scatter_add index_reduce
        scatter_reduce""",
    ),
    **table(indexed, "index index_select gather _unsafe_index"),
    **table(
        moved,
        "flip rot90 unfold diagonal tril triu",
    ),
}
"""Operator → rule."""
