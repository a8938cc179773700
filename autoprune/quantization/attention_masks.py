"""Masks of attention: what stays float for them, and how they look while ranges are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from autoprune.cost.onnx_module import Array

_LARGE = 100.0  # e^-100 of the largest share is none; Swin's masks are -100, others -1e4 or -inf
_SOFTMAX = ("Softmax", "LogSoftmax")
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Neg", "Where", "Min", "Max", "Clip"}
_COPYING = {"Cast", "CastLike", "Identity", "Expand", "Tile", "Reshape", "Flatten", "Squeeze"}
_COPYING |= {"Unsqueeze", "Transpose", "Slice", "Gather", "GatherND", "GatherElements", "Concat"}
_COPYING |= {"ScatterND", "ScatterElements", "Split", "Pad", "Trilu"}
_PASSING = _ELEMENTWISE | _COPYING


@dataclass(frozen=True, slots=True)
class Masks:
    """The parts of a graph that bring a mask's very large values to a softmax.

    `nodes` are the names of nodes that stay float: the softmaxes, and those between them and the
    values. `constants` and `inputs` are the names of the tensors that hold such values.
    """

    nodes: tuple[str, ...]
    constants: tuple[str, ...]
    inputs: tuple[str, ...]


def masks_of(graph: onnx.GraphProto, feeds: list[dict[str, Array]]) -> Masks:
    """Values of 100 and more that reach a softmax through sums, choices and reshapes alone.

    One scale for scores and such values would leave the scores in one step of 256.
    """
    constants = [name for name, tensor in _constants(graph) if _masking(_array(tensor))]
    inputs = list(dict.fromkeys(name for f in feeds for name in f if _masking(f[name])))
    large = {*constants, *inputs}
    for node in graph.node:
        if node.op_type in _PASSING and large.intersection(node.input):
            large.update(node.output)
    nodes, needed = [], set[str]()
    for node in reversed(graph.node):
        if node.op_type in _SOFTMAX or needed.intersection(node.output):
            read = large.intersection(node.input)
            needed |= read
            nodes += [node.name] if read else []
    kept = (tuple(name for name in names if name in needed) for names in (constants, inputs))
    return Masks(tuple(nodes), *kept)


def in_range(graph: onnx.GraphProto, masks: Masks) -> dict[str, bytes]:
    """Limit the masks' constants to ±100, in place; name → what each was before."""
    before = {}
    for name, tensor in _constants(graph):
        if name in masks.constants:
            before[name] = tensor.SerializeToString()
            tensor.CopyFrom(numpy_helper.from_array(_limited(_array(tensor)), tensor.name))
    return before


def put_back(graph: onnx.GraphProto, before: Mapping[str, bytes]) -> None:
    """Undo `in_range`, in place; constants that are gone stay away."""
    for name, tensor in _constants(graph):
        if name in before:
            tensor.ParseFromString(before[name])


def feeds_in_range(feeds: list[dict[str, Array]], masks: Masks) -> list[dict[str, Array]]:
    """The feeds with masks limited to ±100."""

    def limited(name: str, array: Array) -> Array:
        return _limited(array) if name in masks.inputs else array

    return [{name: limited(name, array) for name, array in feed.items()} for feed in feeds]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Name → tensor of initializers, and of nodes that hold the value of their output."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type in ("Constant", "ConstantOfShape"):
            yield from ((node.output[0], each.t) for each in node.attribute if each.name == "value")


def _array(tensor: onnx.TensorProto) -> Array:
    return numpy_helper.to_array(tensor)


def _masking(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.any(np.abs(array) >= _LARGE))


def _limited(array: Array) -> Array:
    return np.clip(array, -_LARGE, _LARGE).astype(array.dtype)
