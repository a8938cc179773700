"""A model as int8 in ONNX Runtime where only its speed counts."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from autoprune.cost.inputs import Inputs, moved, tensors
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.onnx_module import OnnxModule
from autoprune.quantization.static import quantized_file
from autoprune.store import QuantizationSettings

_TIMED = QuantizationSettings(method="minmax", samples=1)


def int8_for_timing(model: nn.Module, example_inputs: Inputs) -> OnnxModule:
    """The model as int8, calibrated on its example inputs alone.

    It is as fast as one that is calibrated well, but its outputs mean nothing. Raises ExportError
    where the model cannot be written or quantized.
    """
    inputs = moved(example_inputs, "cpu")
    written = to_onnx(model, inputs)
    pairs = zip(written.inputs, tensors(inputs), strict=True)
    feed = {name: tensor.detach().numpy() for name, tensor in pairs}
    made = replace(written, data=quantized_file(written.data, [feed], _TIMED), dtype="int8")
    return OnnxModule(made, model, inputs)
