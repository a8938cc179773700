"""Normalization layers: affine and running tensors follow the channels."""

from __future__ import annotations

import numpy as np

from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow, Rule
from autoprune.graph.given import meet_groups
from autoprune.graph.types import Indices


def batch_norm(flow: Flow, call: Call) -> None:
    """Per channel: dimension 1 is united with weight, bias and running statistics.

    Of a weight (weight standardization) the statistics are taken over its inputs.
    """
    source = call["input"]
    labels = list(flow.labels(source))
    if call["training"]:
        others = (*labels[:1], *labels[2:])
        flow.take_statistic([label for label in others if label is not None])
    names: list[str] = []
    for key in ("weight", "bias", "running_mean", "running_var"):
        tensor = call[key]
        if tensor is not None:
            labels[1] = flow.join(labels[1], flow.labels(tensor)[0])
            names += flow.state(tensor).names
    if labels[1] is not None:  # an instance norm sees batch x channels
        held = getattr(flow.modules.get(flow.layer), "num_features", source.shape[1])
        flow.note(names, "num_features", labels[1][:held], held)
    vector = (labels[1],)
    call.labels = [tuple(labels) if out.dim() == source.dim() else vector for out in call.outs]
    call.labels = [
        found if out.dim() != 1 or out.shape[0] == source.shape[1] else (None,)
        for found, out in zip(call.labels, call.outs, strict=True)
    ]
    call.zero = call["weight"] is not None or flow.state(source).zero


def layer_norm(flow: Flow, call: Call) -> None:
    """Over the last dimensions; the masked model must normalize over the kept channels only."""
    source, weight, bias = call["input"], call["weight"], call["bias"]
    count = len(call["normalized_shape"])
    labels = list(flow.labels(source))
    first = source.dim() - count
    for place in range(count):
        label = labels[first + place]
        for tensor in (weight, bias):
            if tensor is not None:
                label = flow.join(label, flow.labels(tensor)[place])
        labels[first + place] = label
    if weight is not None:
        sizes: list[int | Indices] = []
        for label, size in zip(labels[first:], source.shape[first:], strict=True):
            sizes.append(size if label is None else label)
        names = flow.state(weight).names
        flow.note(names, "normalized_shape", tuple(sizes), tuple(call["normalized_shape"]))
    flow.take_statistic([label for label in labels[first:] if label is not None])
    reduced = (*labels[:first], *([None] * count))
    call.labels = [tuple(labels) if out.shape == source.shape else reduced for out in call.outs]
    call.zero = True


def group_norm(flow: Flow, call: Call) -> None:
    """The same channel of every group is pruned together; the number of groups does not change."""
    source, weight, bias, groups = call["input"], call["weight"], call["bias"], call["group"]
    labels = list(flow.labels(source))
    label, channels = labels[1], source.shape[1]
    names: list[str] = []
    for tensor in (weight, bias):
        if tensor is not None:
            label = flow.join(label, flow.labels(tensor)[0])
            names += flow.state(tensor).names
    if label is not None:
        if 1 < groups < channels:
            held = flow.ids.tie_columns(
                label.reshape(groups, channels // groups), flow.place("meets a fixed position")
            )
            label = np.tile(held, groups) if label.min() >= 0 else label
        if groups == channels:
            flow.note(names, "num_groups", label, groups)
            meet_groups(flow, label)
        flow.note(names, "num_channels", label, channels)
        flow.take_statistic([label])
    labels[1] = label
    call.labels = [tuple(labels) if out.shape == source.shape else () for out in call.outs]
    call.zero = True


def weight_norm(flow: Flow, call: Call) -> None:
    """Direction times magnitude: both carry the ids of the dimension that is not reduced."""
    labels = list(flow.labels(call["v"]))
    lengths = flow.labels(call["g"])
    dim = call["dim"]
    labels[dim] = flow.join(labels[dim], lengths[dim if len(lengths) > 1 else 0])
    call.labels = [tuple(labels), lengths]
    call.zero = True


BATCH_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
    "cudnn_batch_norm",
    "miopen_batch_norm",
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
}
"""Operator → rule."""
