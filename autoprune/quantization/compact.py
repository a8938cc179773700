"""Without what a runtime does not read: of small models, that is a third of the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

_OWN = ("", "ai.onnx")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def compact(data: bytes) -> bytes:
    """The same graph with short names inside, and no notes, shapes or zero points of weights.

    Names of the graph's inputs and outputs stay. A zero point may be left out where it is 0
    and the quantized type is that of the input of `DequantizeLinear`.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:]
    graph.ClearField("doc_string")
    model.ClearField("doc_string")
    _drop_zero_points(graph)
    _share(graph)
    names = _short_names(graph)
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        tensor.ClearField("doc_string")
    used = {node.domain for node in graph.node}
    kept = [each for each in model.opset_import if each.domain in used or each.domain in _OWN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return bytes(model.SerializeToString())


def _drop_zero_points(graph: onnx.GraphProto) -> None:
    """Those of convolutions' weights: all zero, since they are symmetric.

    Of matrix products they stay: without them ONNX Runtime 1.32 computes those in float.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    taken = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in taken and len(node.input) == 3:
            zero = tensors.get(node.input[2])
            if zero is not None and not np.any(numpy_helper.to_array(zero)):
                del node.input[2]
    used = {name for node in graph.node for name in node.input}
    used |= {name for node in graph.node for name in _names_in_subgraphs(node)}
    used |= {each.name for each in graph.output}
    rest = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(rest)


def _share(graph: onnx.GraphProto) -> None:
    """Equal initializers once, but for those that inner graphs read."""
    inner = {name for node in graph.node for name in _names_in_subgraphs(node)}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    rest = []
    for tensor in graph.initializer:
        content = onnx.TensorProto()
        content.CopyFrom(tensor)
        content.name = ""
        kept = first.setdefault(content.SerializeToString(deterministic=True), tensor.name)
        if kept == tensor.name or tensor.name in inner:
            rest.append(tensor)
        else:
            same[tensor.name] = kept
    del graph.initializer[:]
    graph.initializer.extend(rest)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _short_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Name → short name, of everything inside the graph; inner graphs keep theirs."""
    outer = {each.name for each in (*graph.input, *graph.output)}
    inner = {name for node in graph.node for name in _names_in_subgraphs(node)}
    fixed = outer | inner
    own = [tensor.name for tensor in graph.initializer]
    own += [name for node in graph.node for name in node.output]
    free = (name for name in _counted() if name not in fixed)
    return {name: next(free) for name in dict.fromkeys(own) if name and name not in fixed}


def _names_in_subgraphs(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from (*inner.input, *inner.output, *_names_in_subgraphs(inner))
            yield from (tensor.name for tensor in graph.initializer)
            yield from (each.name for each in (*graph.input, *graph.output))


def _counted() -> Iterator[str]:
    """`0`, `1`, ... in base 36."""
    number = 0
    while True:
        text, rest = "", number
        while text == "" or rest:
            rest, digit = divmod(rest, len(_DIGITS))
            text = _DIGITS[digit] + text
        yield text
        number += 1
