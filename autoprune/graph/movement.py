"""Data movement: ids move with the data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from autoprune.graph import reshape as shapes
from autoprune.graph import views
from autoprune.graph.calls import Call, Statistic
from autoprune.graph.flow import Flow, Rule, table
from autoprune.graph.given import cut_given, meet, parts_given, settle
from autoprune.graph.ids import FIXED, is_free
from autoprune.graph.sizes import Size
from autoprune.graph.types import Indices


def cat(flow: Flow, call: Call) -> None:
    """Concatenated labels; positions of an unlabeled part are fixed."""
    out, parts = call.outs[0], [t for t in call["tensors"] if t.dim() == call.outs[0].dim()]
    dim = (call["dim"] or 0) % out.dim()
    labels: list[Indices | None] = []
    for place in range(out.dim()):
        pieces = [flow.labels(part)[place] for part in parts]
        if place != dim:
            held = pieces[0]
            for piece in pieces[1:]:
                held = flow.join(held, piece)
            labels.append(held)
        elif all(piece is None or is_free(piece) for piece in pieces):
            labels.append(None)
        else:
            sizes = [part.shape[place] for part in parts]
            labels.append(
                np.concatenate([_or_fixed(*pair) for pair in zip(pieces, sizes, strict=True)])
            )
    call.labels = [tuple(labels)]
    call.zero = all(flow.state(part).zero for part in parts)


def stack(flow: Flow, call: Call) -> None:
    """A new dimension; the others are united."""
    parts = call["tensors"]
    dim = call["dim"] % call.outs[0].dim()
    held = list(flow.labels(parts[0]))
    for part in parts[1:]:
        held = [flow.join(a, b) for a, b in zip(held, flow.labels(part), strict=True)]
    held.insert(dim, None)
    call.labels = [tuple(held)]
    call.zero = all(flow.state(part).zero for part in parts)


def pad(flow: Flow, call: Call) -> None:
    """New positions are fixed; positions cut by negative padding are not prunable."""
    source, labels = call["self"], list(flow.labels(call["self"]))
    for pair, (low, high) in enumerate(zip(call["pad"][::2], call["pad"][1::2], strict=True)):
        dim = source.dim() - 1 - pair
        label = labels[dim]
        if label is None or low == high == 0:
            continue
        start, stop = max(0, -low), len(label) - max(0, -high)
        flow.block(label[:start], "is cut by a negative pad")
        flow.block(label[stop:], "is cut by a negative pad")
        ends = (_or_fixed(None, max(0, low)), label[start:stop], _or_fixed(None, max(0, high)))
        labels[dim] = np.concatenate(ends)
    call.labels = [tuple(labels)]
    call.zero = flow.state(source).zero


def slice_(flow: Flow, call: Call) -> None:
    """Positions before a literal bound are not prunable, so that the bound stays valid."""
    source = call["self"]
    dim = (call["dim"] or 0) % source.dim()
    labels, size = list(flow.labels(source)), source.shape[dim]
    label = labels[dim]
    if label is not None:
        start, stop, step = call["start"] or 0, call["end"], call["step"] or 1
        stop = size if stop is None else stop
        reason = "is sliced at a fixed place"
        for edge in (start, stop):
            if 0 < edge < size and (source_of := cut_given(flow, edge)) is not None:
                settle(flow, source_of, label[:edge], edge, {})
            elif 0 < edge < size:
                flow.refuse_parts(label)
                flow.block(label[:edge], reason)
            elif -size < edge < 0:
                flow.refuse_parts(label)
                flow.block(label[edge:], reason)
        if step != 1:
            flow.refuse_parts(label)
            flow.block(label, reason)
        labels[dim] = label[slice(start, stop, step)]
    call.labels = [tuple(labels)]
    call.zero = flow.state(source).zero


def split(flow: Flow, call: Call) -> None:
    """Equal parts: the same position of every part is pruned together. Others: `_unequal`."""
    source = call["self"]
    dim = (call["dim"] or 0) % source.dim()
    labels = list(flow.labels(source))
    label, sizes = labels[dim], [out.shape[dim] for out in call.outs]
    if label is not None and len(sizes) > 1:
        equal = len(set(sizes)) == 1 and not isinstance(call["split_sizes"], Sequence)
        if equal:
            why = flow.place("meets a fixed position")
            held = flow.ids.tie_columns(label.reshape(len(sizes), -1), why)
            known = meet(flow, flow.arguments[0][1:2] if flow.caller == "split" else (), (held,))
            flow.note_sizes((held,), sizes[:1], known)
        else:
            _unequal(flow, label, sizes)
    edges = np.cumsum([0, *sizes])
    for low, high in itertools.pairwise(edges):
        labels[dim] = None if label is None else label if len(sizes) == 1 else label[low:high]
        call.labels.append(tuple(labels))
    call.zero = flow.state(source).zero


def _unequal(flow: Flow, label: Indices, sizes: Sequence[int]) -> None:
    """Parts whose sizes come from attributes or shapes follow; those of literal sizes do not."""
    given = parts_given(flow, len(sizes))
    edges = np.cumsum([0, *sizes])
    reason = "is split into parts of fixed sizes"
    if given is not None:
        for size, low, high in zip(given, edges[:-1], edges[1:], strict=True):
            if isinstance(size, Size):
                settle(flow, size.source, label[low:high], int(size), {})
            else:
                flow.refuse_parts(label)
                flow.block(label[low:high], reason)
    elif not isinstance(flow.modules.get(flow.layer), nn.MultiheadAttention):  # (E, 2 E) of its own
        flow.refuse_parts(label)
        flow.block(label, reason)


def take_one(flow: Flow, call: Call) -> None:
    """One position of a dimension (`x[:, 0]`, `unbind`): if used, the dimension is not prunable."""
    source = call["self"]
    dim = (call["dim"] or 0) % source.dim()
    labels = flow.labels(source)
    picked = labels[dim]
    if picked is not None and call["index"] in (0, -1):  # there is one however many leave
        call.statistic = Statistic((picked,), flow.place("is indexed by position"), picked=True)
    else:
        flow.refuse_parts(picked)
        flow.block(picked, "is indexed by position")
    rest = tuple(label for place, label in enumerate(labels) if place != dim)
    call.labels = [rest for _ in call.outs]
    call.zero = flow.state(source).zero


def roll(flow: Flow, call: Call) -> None:
    """A shift along other dimensions passes; along channels it makes them not prunable."""
    source = call["self"]
    labels = flow.labels(source)
    dims = call["dims"] or range(source.dim())
    for dim in dims:
        flow.block(labels[dim], "is rolled by a fixed shift")
    call.labels = [labels]
    call.zero = flow.state(source).zero


def repeat(flow: Flow, call: Call) -> None:
    """Repeated labels."""
    source, counts = call["self"], call["repeats"]
    front = len(counts) - source.dim()
    labels: list[Indices | None] = [None] * front
    for label, count in zip(flow.labels(source), counts[front:], strict=True):
        labels.append(label if label is None or count == 1 else np.tile(label, count))
    call.labels = [tuple(labels)]
    call.zero = flow.state(source).zero


def patches(flow: Flow, call: Call) -> None:
    """Each channel becomes several neighboring ones (`unfold`, `pixel_unshuffle`)."""
    source = call["self"]
    labels = flow.labels(source)
    wide = None if labels[-3] is None else np.repeat(labels[-3], _positions(call))
    rest = [None] * (call.outs[0].dim() - source.dim() + 2)
    call.labels = [(*labels[:-3], wide, *rest)]
    call.zero = flow.state(source).zero


def folded(flow: Flow, call: Call) -> None:
    """Neighboring channels become one (`fold`, `pixel_shuffle`): they are pruned together."""
    source, dims = call["self"], call["self"].dim()
    front = dims - 2 if call.name == "col2im" else dims - 3
    label = flow.labels(source)[front]
    if label is not None:
        label = shapes.tie(flow.ids, label.reshape(-1, _positions(call)), 0)
    call.labels = [(*flow.labels(source)[:front], label, None, None)]
    call.zero = flow.state(source).zero


def shuffled(flow: Flow, call: Call) -> None:
    """Groups of channels interleaved: those at one place of every group are pruned together."""
    first, label, *rest = flow.labels(call["self"])
    if label is not None:
        bundles = shapes.tie(flow.ids, label.reshape(call["groups"], -1), 1)
        label = np.repeat(bundles, call["groups"])
    call.labels = [(first, label, *rest)]
    call.zero = flow.state(call["self"]).zero


def _positions(call: Call) -> int:
    if call["kernel_size"] is not None:
        return math.prod(call["kernel_size"])
    return int(call["upscale_factor"] or call["downscale_factor"]) ** 2


def _or_fixed(label: Indices | None, size: int) -> Indices:
    """The ids of a part; a part without ids has a literal size."""
    if label is None or is_free(label):
        return np.full(size, FIXED, dtype=np.int64)
    return label


RULES: dict[str, Rule] = {
    **views.RULES,
    **table(cat, "cat"),
    **table(stack, "stack"),
    **table(pad, "constant_pad_nd"),
    **table(slice_, "slice slice_copy narrow"),
    **table(
        split, "split split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk split_copy"
    ),
    **table(take_one, "select select_copy unbind unbind_copy"),
    **table(roll, "roll"),
    **table(repeat, "repeat"),
    **table(patches, "im2col pixel_unshuffle"),
    **table(folded, "col2im pixel_shuffle"),
    **table(shuffled, "channel_shuffle native_channel_shuffle"),
}
"""Operator → rule."""
