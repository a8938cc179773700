"""Contractions: ids of the contracted dimension are consumed, ids of the output are produced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph.calls import Call, elements
from autoprune.graph.flow import Flow, Rule
from autoprune.graph.given import meet_groups
from autoprune.graph.ids import IN, OUT, Labels, free, is_free
from autoprune.graph.types import Indices

_ALIGNED = 16  # bytes
_ADDED = frozenset({"addmm", "baddbmm", "addmv", "_sparse_addmm"})
_MODEL_INPUT = "is contracted with a dimension of fixed size"


def convolution(flow: Flow, call: Call) -> None:
    """Convolutions. Grouped ones: the same channel of every group is pruned together, or whole
    groups where there are more groups than channels in each."""
    source, weight, bias = call["input"], call["weight"], call["bias"]
    groups, transposed = call["groups"], call["transposed"]
    x, w = list(flow.labels(source)), flow.labels(weight)
    slides = _slides_over_channels(flow, call)
    x[2:] = [flow.join(x[2], slides)] if slides is not None else _passed(flow, call, x[2:])
    inside, outside = (w[0], w[1]) if transposed else (w[1], w[0])
    names = flow.state(weight).names
    out_size = call.outs[0].shape[1]
    if groups == 1:
        flow.join(x[1], inside, _MODEL_INPUT)
        flow.ids.mark(inside, IN)
        flow.ids.mark(outside, OUT)
        made = outside
    else:
        made = _grouped(flow, call, x[1], w)
    if bias is not None:
        flow.ids.mark(flow.labels(bias)[0], OUT)
        made = flow.join(made, flow.labels(bias)[0])
    flow.note(names, "in_channels", _size(x[1], source.shape[1]), source.shape[1])
    flow.note(names, "out_channels", _size(made, out_size), out_size)
    call.weight = call.weight and not flow.is_applied(weight, source)
    call.labels = [(x[0], made, *x[2:])]
    across = any(label is not None for label in x[2:])  # a bias is added at pruned positions, too
    kept_zero = bias is None and flow.state(source).zero and slides is None
    call.zero = not across or kept_zero
    shape = source.shape[2:] if transposed else call.outs[0].shape[2:]
    labels = x[2:] if slides is None else [None]  # it computes at all positions of the dense layer
    spatial = (_size(label, size) for label, size in zip(labels, shape, strict=True))
    first = _size(x[1], source.shape[1]) if transposed else _size(made, out_size)
    per = _size(w[1], weight.shape[1])
    call.macs = (_size(x[0], source.shape[0]), first, per, *spatial, *weight.shape[2:])


def _slides_over_channels(flow: Flow, call: Call) -> Indices | None:
    """Ids of the channels that a `Conv1d` slides over, None where it does not, or they must stay.

    So does efficient channel attention (Wang et al. 2020, arXiv:1910.03151). The smaller layer puts
    zeros where channels were pruned, which is what the masked model has there.
    """
    source, weight = call["input"], call["weight"]
    label = flow.labels(source)[-1]
    layer, state = flow.modules.get(flow.layer), flow.state(weight)
    if label is None or type(layer) is not nn.Conv1d or state.names != (f"{flow.layer}.weight",):
        return None
    same = call.outs[0].shape[2:] == source.shape[2:] and call["stride"][0] == 1
    if not same or weight.shape[2] == 1 or label.min() < 0 or not flow.state(source).zero:
        return None
    held = flow.own_positions(len(label))
    return held if len(held) == len(label) else None


def _passed(flow: Flow, call: Call, labels: Sequence[Indices | None]) -> list[Indices | None]:
    """Spatial dimensions pass where the kernel sees single positions; others are not prunable."""
    result = []
    for place, label in enumerate(labels):
        strides, paddings, more = (
            call[name][place % len(call[name])] for name in ("stride", "padding", "output_padding")
        )
        single = call["weight"].shape[2 + place] == strides == 1 and paddings == more == 0
        if not single:
            flow.refuse_parts(label)
            flow.block(label, "is a spatial dimension of convolution")
        result.append(label if single else None)
    return result


def _grouped(flow: Flow, call: Call, x: Indices | None, w: Labels) -> Indices | None:
    weight, groups, transposed = call["weight"], call["groups"], call["transposed"]
    size_in, size_out = call["input"].shape[1], call.outs[0].shape[1]
    per_in, per_out = size_in // groups, size_out // groups
    why = flow.place("meets a fixed position")
    ids = flow.ids
    if x is None:
        for label in w:
            flow.block(label, _MODEL_INPUT)
    whole = per_in == 1 or (groups > per_in and not transposed) or (transposed and per_out == 1)
    if x is not None and whole:
        table = x.reshape(groups, per_in)
        held = ids.tie_columns(np.ascontiguousarray(table.T), why)  # one id a group
        first = w[0]
        if first is not None:
            rows = first.reshape(groups, -1)
            if not transposed:
                ids.mark(first, OUT)
            else:
                ids.mark(first, IN if per_in > 1 or per_out > 1 else OUT)
            for column in rows.T:
                flow.join(held, np.ascontiguousarray(column))
        flow.block(w[1], "is one group's share of a grouped convolution")
        flow.note(flow.state(weight).names, "groups", held, groups)
        meet_groups(flow, held)
        return np.repeat(held, per_out) if transposed or first is None else first
    if x is not None:
        held = ids.tie_columns(x.reshape(groups, per_in), why)
        inner = w[1] if not transposed else None
        if transposed and w[0] is not None:
            ids.mark(w[0], IN)
            inner = ids.tie_columns(w[0].reshape(groups, per_in), why)
        flow.join(held, inner, _MODEL_INPUT)
        ids.mark(inner, IN)
    if transposed:
        ids.mark(w[1], OUT)
        return None if w[1] is None else np.tile(w[1], groups)
    ids.mark(w[0], OUT)
    if w[0] is not None and per_out < size_out:
        ids.tie_columns(w[0].reshape(groups, per_out), why)
    return w[0]


def product(flow: Flow, call: Call) -> None:
    """Matrix products, batched or not, with or without an added term."""
    left, right = _operands(call)
    a, b = flow.labels(left), flow.labels(right)
    vector = right.dim() == 1
    inner = b[0] if vector else b[-2]
    _contract(flow, (left, right), a[-1], inner)
    batch = _batch(flow, a, b) if left.dim() > 2 else []
    _see_heads(flow, batch, left, right)
    rows = [a[-2]] if left.dim() > 1 else []
    columns = [] if vector else [b[-1]]
    applied = flow.is_applied(left, right), flow.is_applied(right, left)
    call.weight = call.weight and not any(applied)
    alone = flow.state(left).weight != flow.state(right).weight  # two: the norm of a weight
    if applied[0] or alone:
        _roles(flow, left, a[-1], rows)
    if applied[1] or alone:
        _roles(flow, right, inner, columns)
    labels = [*batch, *rows, *columns]
    added = call["self"] if call.name in _ADDED else None
    if not vector and left.dim() == 2:
        _features(flow, left, right, a, b)
    if added is not None:
        labels = _add(flow, call, added, labels)
    call.labels = [tuple(labels)]
    call.zero = _output_zero(flow, left, right)
    shape = [*left.shape[:-2], *left.shape[-2:], *([] if vector else [right.shape[-1]])]
    known = [*(batch or a[:-2]), *rows, a[-1] if a[-1] is not None else inner, *columns]
    if left.layout is not torch.strided:  # only its elements are multiplied
        known, shape = [None, *columns], [elements(left), *right.shape[1:]]
    call.macs = tuple(_size(label, size) for label, size in zip(known, shape, strict=True))


def grouped(flow: Flow, call: Call) -> None:
    """Grouped matrix product: each row is multiplied with the matrix of its expert.

    Torch's kernel takes sizes in multiples of 16 bytes: channels are pruned in such bundles.
    """
    left, right = call.tensors[:2]
    a, b = flow.labels(left), flow.labels(right)
    if left.dim() != 2 or right.dim() != 3:
        raise ValueError(f"{left.dim()}-d with {right.dim()}-d operands")
    flow.block(b[0], "are the experts of a bank")
    if call.name == "_grouped_mm":
        for label in (a[1], b[1], b[2]):
            _in_bundles(flow, label, _ALIGNED // right.element_size())
    _contract(flow, (left, right), a[1], b[1])
    _roles(flow, right, b[1], [b[2]])
    call.labels = [(a[0], b[2])]
    call.zero = _output_zero(flow, left, right)
    inner = a[1] if a[1] is not None else b[1]
    sizes = zip((a[0], inner, b[2]), (*left.shape, right.shape[2]), strict=True)
    call.macs = tuple(_size(label, size) for label, size in sizes)


def _in_bundles(flow: Flow, label: Indices | None, size: int) -> None:
    """Tie neighbors: bundles of this many channels are pruned together."""
    if label is not None and size > 1 and len(label) % size == 0:
        table = np.ascontiguousarray(label.reshape(-1, size).T)
        flow.ids.tie_columns(table, flow.place("meets a fixed position"))


def linear(flow: Flow, call: Call) -> None:
    """`x @ weight.T + bias` in one call."""
    source, weight, bias = call["input"], call["weight"], call["bias"]
    x, w = flow.labels(source), flow.labels(weight)
    _contract(flow, (source, weight), x[-1], w[1])
    _roles(flow, weight, w[1], [w[0]])
    call.weight = call.weight and not flow.is_applied(weight, source)
    made = w[0]
    if bias is not None:
        flow.ids.mark(flow.labels(bias)[0], OUT)
        made = flow.join(made, flow.labels(bias)[0])
    flow.note(
        flow.state(weight).names, "in_features", _size(w[1], weight.shape[1]), weight.shape[1]
    )
    flow.note(
        flow.state(weight).names, "out_features", _size(made, weight.shape[0]), weight.shape[0]
    )
    call.labels = [(*x[:-1], made)]
    call.zero = True
    known = (*x[:-1], x[-1] if x[-1] is not None else w[1], w[0])
    sizes = (*source.shape, weight.shape[0])
    call.macs = tuple(_size(label, size) for label, size in zip(known, sizes, strict=True))


def bilinear(flow: Flow, call: Call) -> None:
    """`sum_ab left[a] * weight[out, a, b] * right[b]`, as `nn.Bilinear` has it."""
    left, weight, right = call["i1"], call["i2"], call["i3"]
    a, w, b = (flow.labels(tensor) for tensor in (left, weight, right))
    flow.join(a[-1], w[1], _MODEL_INPUT)
    flow.join(b[-1], w[2], _MODEL_INPUT)
    _roles(flow, weight, w[1], [w[0]])
    flow.ids.mark(w[2], IN)
    names = flow.state(weight).names
    attributes = ("out_features", "in1_features", "in2_features")
    for attribute, label, size in zip(attributes, w, weight.shape, strict=True):
        flow.note(names, attribute, _size(label, size), size)
    call.labels = [(flow.join(a[0], b[0]), w[0])]
    call.zero = True
    sizes = zip((a[0], *w), (left.shape[0], *weight.shape), strict=True)
    call.macs = tuple(_size(label, size) for label, size in sizes)


def distances(flow: Flow, call: Call) -> None:
    """Distances of vectors to vectors: positions that are zero in both add nothing to them."""
    left, right = call["x1"], call["x2"]
    a, b = flow.labels(left), flow.labels(right)
    for label in (a[-1], b[-1]):
        flow.refuse_parts(label)
        if not (flow.state(left).zero and flow.state(right).zero):
            flow.block(label, "is a feature of distances, not zero where it is pruned")
    flow.join(a[-1], b[-1])
    for tensor, label in ((left, a[-1]), (right, b[-1])):
        _roles(flow, tensor, label, [])
    call.labels = [(*_batch(flow, a, b), a[-2], b[-2])]


def attention(flow: Flow, call: Call) -> None:
    """Scaled dot-product attention: heads pass through; the width of queries and keys is prunable
    only where the scale is an argument of the call."""
    query, key, value = call["query"], call["key"], call["value"]
    q = flow.labels(query)
    k, v = (_for_each_query(flow, query, tensor) for tensor in (key, value))
    batch = _batch(flow, (*_batch(flow, q, k), *q[-2:]), v)
    _see_heads(flow, batch, query, key)
    for label in (q[-1], k[-1], v[-1]):
        flow.refuse_parts(label)
    flow.join(q[-1], k[-1])
    if call["scale"] is None:
        flow.block(q[-1], "sets the scale of attention")
        flow.block(k[-1], "sets the scale of attention")
    for label in (k[-2], v[-2]):
        flow.block(label, "softmax over channels")
    mask = call["attn_mask"] if call["attn_mask"] is not None else call["attn_bias"]
    if isinstance(mask, Tensor):
        for place, label in enumerate(reversed(flow.labels(mask))):
            size = mask.shape[mask.dim() - 1 - place]
            other = [k[-2], q[-2], *reversed(batch)][place]
            if size > 1:
                flow.join(label, other)
    first = (*batch, q[-2], v[-1])
    call.labels = [first if out.dim() == query.dim() else first[:-1] for out in call.outs]
    call.zero = flow.state(value).zero
    head = [_size(label, size) for label, size in zip(batch, query.shape[:-2], strict=True)]
    width = query.shape[-1] + value.shape[-1]
    call.macs = (*head, query.shape[-2], key.shape[-2], width)


def _for_each_query(flow: Flow, query: Tensor, shared: Tensor) -> Labels:
    """Labels of keys or values, repeated where several query heads share one of them."""
    labels = list(flow.labels(shared))
    times = query.shape[-3] // shared.shape[-3] if query.dim() > 2 else 1
    heads = labels[-3] if times > 1 else None
    if heads is not None:
        labels[-3] = np.repeat(heads, times)
    elif times > 1:  # one head for all fits any number of them
        labels[-3] = free(query.shape[-3]) if shared.shape[-3] == 1 else None
    return tuple(labels)


def _contract(
    flow: Flow, operands: tuple[Tensor, Tensor], left: Indices | None, right: Indices | None
) -> None:
    states = [flow.state(tensor) for tensor in operands]
    if not any(state.weight for state in states):
        pairs = zip(operands, states, strict=True)
        if not any(state.layers and tensor.dim() == 2 for tensor, state in pairs):  # has no heads
            flow.refuse_parts(left)
            flow.refuse_parts(right)
        if not any(state.zero for state in states):  # the sum is over the kept channels
            flow.take_statistic([label for label in (left, right) if label is not None])
    flow.join(left, right, _MODEL_INPUT)


def _batch(flow: Flow, left: Labels, right: Labels) -> list[Indices | None]:
    """Joined batch dimensions; where one operand has heads the other must be split alike."""
    result = []
    for a, b in zip(left[:-2], right[:-2], strict=True):
        if (a is None) != (b is None) and not is_free(a) and not is_free(b):
            for label in (*left[-2:], *right[-2:]):
                flow.refuse_parts(label)
        result.append(flow.join(a, b))
    return result


def _see_heads(flow: Flow, batch: Sequence[Indices | None], left: Tensor, right: Tensor) -> None:
    """Labeled batch dimensions in a product of two activations are attention heads."""
    if not flow.state(left).weight and not flow.state(right).weight:
        flow.heads_seen += [label[label >= 0] for label in batch if label is not None]


def _roles(
    flow: Flow, tensor: Tensor, consumed: Indices | None, produced: list[Indices | None]
) -> None:
    if flow.state(tensor).weight:
        flow.ids.mark(consumed, IN)
        for label in produced:
            flow.ids.mark(label, OUT)


def _add(
    flow: Flow, call: Call, added: Tensor, labels: list[Indices | None]
) -> list[Indices | None]:
    held = flow.labels(added)
    if flow.state(added).weight:
        for label in held:
            flow.ids.mark(label, OUT)
    result = list(labels)
    for place in range(1, added.dim() + 1):
        if added.shape[-place] == call.outs[0].shape[-place] and added.shape[-place] > 1:
            result[-place] = flow.join(labels[-place], held[-place])
    return result


def _features(flow: Flow, left: Tensor, right: Tensor, a: Labels, b: Labels) -> None:
    for tensor, consumed, made, into, out in (
        (right, a[1], b[1], *right.shape),
        (left, b[0], a[0], left.shape[1], left.shape[0]),
    ):
        state, other = flow.state(tensor), flow.state(right if tensor is left else left)
        if state.weight and (state.names or not other.weight):  # not the factors of a weight
            flow.note(state.names, "in_features", _size(consumed, into), into)
            flow.note(state.names, "out_features", _size(made, out), out)


def _output_zero(flow: Flow, left: Tensor, right: Tensor) -> bool:
    one, two = flow.state(left), flow.state(right)
    return ((one.zero or one.weight) and (two.zero or two.weight)) or two.weight or one.weight


def _operands(call: Call) -> tuple[Tensor, Tensor]:
    if call.name in {"addmm", "_sparse_addmm"}:
        return call["mat1"], call["mat2"]
    if call.name == "baddbmm":
        return call["batch1"], call["batch2"]
    if call.name == "addmv":
        return call["mat"], call["vec"]
    others = (call["mat2"], call["vec"], call["tensor"], call["other"])
    return call["self"], next(other for other in others if other is not None)


def _size(label: Indices | None, size: int) -> int | Indices:
    return size if label is None else label


RULES: dict[str, Rule] = {
    "convolution": convolution,
    "_convolution": convolution,
    "convolution_overrideable": convolution,
    "mm": product,
    "bmm": product,
    "mv": product,
    "dot": product,
    "vdot": product,
    "addmm": product,
    "_sparse_addmm": product,
    "baddbmm": product,
    "addmv": product,
    "linear": linear,
    "_grouped_mm": grouped,
    "transformers::grouped_mm_fallback": grouped,  # where the other does not take the sizes
    "_trilinear": bilinear,
    "_cdist_forward": distances,
    "_euclidean_dist": distances,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_flash_attention": attention,
    "_scaled_dot_product_efficient_attention": attention,
    "_scaled_dot_product_cudnn_attention": attention,
    "_scaled_dot_product_fused_attention_overrideable": attention,
}
"""Operator → rule."""
