"""A model as int8 where only its speed counts."""

from __future__ import annotations

import onnx
import torch
from models.keywords import INPUTS, TwoByName
from small_run import model_of

from autoprune.quantization import int8_for_timing


def test_it_is_quantized_and_takes_the_models_inputs() -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    module = int8_for_timing(model_of(0), x)
    assert module.written.dtype == "int8"
    kinds = {node.op_type for node in onnx.load_from_string(module.written.data).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert module(x).shape == (2, 3)


def test_inputs_by_name_are_calibrated_on_by_name() -> None:
    found = int8_for_timing(TwoByName().eval(), INPUTS)(**INPUTS)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "logits": (2, 3, 3),
        "hidden": (2, 3, 4),
    }
