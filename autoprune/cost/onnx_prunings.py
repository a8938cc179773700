"""ONNX graphs of a model and its prunings: exported once, then filled with other weights.

Exporting takes far longer than replacing the weights of an existing graph and comparing it with the
model. Such a graph is only for timing: ONNX Runtime does the folding that it lacks.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from autoprune.cost.inputs import Inputs, as_call, evaluating, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import OnnxModel, WrittenModule, to_onnx, write_unfolded
from autoprune.errors import ExportError, first_line

_log = logging.getLogger(__name__)
_MODEL = "model."  # what the exporter puts before the names of the state dict
_APART = 1e-4  # added to each tensor, times its number: equal tensors would share one initializer
_AGREE = 1e-2  # of the largest output: graphs that differ by more are not the same


def onnx_of_prunings(models: Sequence[nn.Module], example_inputs: Inputs) -> Iterator[OnnxModel]:
    """Each model as ONNX, in order; the first is the one of which the others are prunings.

    A model is written anew by `to_onnx` where there is only one, where its graph filled with other
    weights does not give its outputs (a size that the exporter has taken for a constant), or where
    ONNX Runtime optimizes it to other operators than a newly exported graph. A `WrittenModule`
    among them is not a pruning: then each is written by `to_onnx`.

    Raises:
        ExportError: a model cannot be written.
    """
    related = len(models) > 1 and not any(isinstance(each, WrittenModule) for each in models)
    template = _template(models[0], example_inputs) if related else None
    for model in models:
        filled = template.filled(model, example_inputs) if template else None
        yield filled or to_onnx(model, example_inputs)


class Template:
    """The unfolded graph of a model, to be filled with the weights of its prunings."""

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        """Raises ExportError where the graph's weights cannot be distinguished."""
        told = frozen_copy(model)
        with torch.no_grad():
            for number, tensor in enumerate(_floats(told)):
                tensor.add_((number + 1) * _APART)
        written = write_unfolded(told, example_inputs)
        self._inputs = written.inputs
        self._graph = onnx.load_from_string(written.data)
        self._names = [each.name for each in self._graph.graph.initializer]
        unknown = {_key(name) for name in self._names} - set(told.state_dict())
        if unknown:
            raise ExportError(f"no weights of the model: {', '.join(sorted(unknown))}")
        del self._graph.graph.initializer[:], self._graph.graph.value_info[:]

    def filled(self, model: nn.Module, example_inputs: Inputs) -> OnnxModel | None:
        """The graph with this model's weights; None where its outputs differ from the model's."""
        try:
            written = self._with(model)
            off = _disagreement(written, model, example_inputs)
        except Exception as error:  # noqa: BLE001 - what does not fit shows in many ways
            _log.debug("the graph does not fit: %s", first_line(error))
            return None
        return written if off <= _AGREE else None

    def _with(self, model: nn.Module) -> OnnxModel:
        state = model.state_dict()
        modules = dict(model.named_modules())
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        for name in self._names:
            array = np.ascontiguousarray(state[_key(name)].detach().cpu().numpy())
            graph.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "group":  # of a convolution: its channels may be pruned
                    layer: Any = modules[_key(node.input[1]).rpartition(".")[0]]
                    attribute.i = layer.groups
        return OnnxModel(graph.SerializeToString(), self._inputs, "torchscript")


_Shapes = tuple[tuple[int, ...], ...]
_known: WeakKeyDictionary[nn.Module, dict[_Shapes, Template | None]] = WeakKeyDictionary()


def _template(model: nn.Module, example_inputs: Inputs) -> Template | None:
    """The model's template for inputs of these shapes, made once.

    None where it would not be timed like the model.
    """
    known = _known.setdefault(model, {})
    shapes = tuple(tuple(each.shape) for each in tensors(as_call(example_inputs)))
    if shapes not in known:
        known[shapes] = _checked_template(model, example_inputs)
    return known[shapes]


def _checked_template(model: nn.Module, example_inputs: Inputs) -> Template | None:
    try:
        template = Template(model, example_inputs)
    except Exception as error:  # noqa: BLE001 - then every model is written anew, and says why
        _log.debug("no graph to be filled: %s", first_line(error))
        return None
    filled = template.filled(model, example_inputs)
    if filled is None or optimized(filled) != optimized(to_onnx(model, example_inputs)):
        return None
    return template


def optimized(written: OnnxModel) -> Counter[str]:
    """Counts of the operators in the graph as optimized by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(written.data, options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def _disagreement(written: OnnxModel, model: nn.Module, example_inputs: Inputs) -> float:
    """The largest difference of outputs relative to the largest output; inf for other shapes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        written.data, options, providers=["CPUExecutionProvider"]
    )
    found = session.run(None, written.feed(example_inputs))
    args, kwargs = as_call(moved(example_inputs, "cpu"))
    here = all(each.device.type == "cpu" for each in _floats(model))
    small = model if here else frozen_copy(model)
    with evaluating(small), torch.no_grad():
        wanted = [each.numpy() for each in tensors(small(*args, **kwargs))]
    if [each.shape for each in found] != [each.shape for each in wanted]:
        return float("inf")
    off = [
        np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1e-12)
        for a, b in zip(found, wanted, strict=True)
    ]
    return float(np.max(off))  # NaN where one is


def _key(name: str) -> str:
    return name.removeprefix(_MODEL)


def _floats(model: nn.Module) -> Iterator[Tensor]:
    """Each floating-point tensor of the state once."""
    seen = set()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield tensor
