"""Quantized files compute nearly the same, per channel, and are calibrated on training data."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autoprune.errors import ExportError, UsageError
from autoprune.quantization import quantize
from autoprune.quantization.static import calibration_calls
from autoprune.store import QuantizationSettings
from autoprune.store.quantization import Method
from autoprune.tasks.base import Task

MINMAX = QuantizationSettings("minmax", samples=20)


class Images(Task):
    """Random images; counts which splits are read."""

    dense_epochs = 0

    def __init__(self) -> None:
        self.reads = {"train": 0, "val": 0, "test": 0}

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        model.append(nn.Linear(8 * 4 * 4, 4))
        model[1].running_var.uniform_(0.5, 2.0)
        return model.eval()

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 3, 6, 6)

    def _batches(self, split: str, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self.reads[split] += 1
        x = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        return [(x, torch.zeros(16, dtype=torch.int64)) for _ in range(3)]

    def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._batches("train", seed)

    def val_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._batches("val", 1000)

    def test_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._batches("test", 1001)


def weights(data: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Operator -> int8 weight and scales of the node that it takes its weight from."""
    graph = onnx.load_from_string(data).graph
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.op_type: tuple(tensors[name] for name in made[node.input[1]].input[:2])
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
    }


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_outputs_are_near_those_of_the_model_and_weights_are_a_quarter(method: str) -> None:
    task = Images()
    model = task.build_model()
    made = quantize(model, task, QuantizationSettings(method, samples=40))
    x = task.train_loader(0)[0][0][:1]
    with torch.no_grad():
        expected = model(x).numpy()
    found = onnxruntime.InferenceSession(made.int8.data).run(None, {"input": x.numpy()})[0]
    assert 0.0 < np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    assert made.int8.dtype == "int8"
    assert {tensor.dtype.name for tensor, _ in weights(made.int8.data).values()} == {"int8"}


def test_every_method_finds_ranges_of_its_own() -> None:
    class Outliers(Images):
        def _batches(self, split: str, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(x**5, y) for x, y in super()._batches(split, seed)]

    task = Outliers()
    model, methods = task.build_model(), get_args(Method)
    settings = [QuantizationSettings(method, samples=400) for method in methods]
    written = {quantize(model, task, each).int8.data for each in settings}
    assert len(written) == len(methods)


def test_every_output_channel_has_its_own_scale() -> None:
    task = Images()
    model = task.build_model()
    with torch.no_grad():
        model[0].weight[3] *= 100.0
    quantized, scales = weights(quantize(model, task, MINMAX).int8.data)["Conv"]
    norm = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    folded = (model[0].weight * norm[:, None, None, None]).detach().numpy()
    assert scales.shape == (8,)
    largest = np.abs(folded).max((1, 2, 3))
    np.testing.assert_allclose(scales * 64, largest, rtol=0.02)  # 7 bits: -64 to 64
    assert np.abs(quantized).max((1, 2, 3)).tolist() == [64] * 8
    np.testing.assert_allclose(
        quantized * scales[:, None, None, None], folded, atol=largest.max() / 100
    )


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_weights_stay_within_their_bits(bits: int, largest: int) -> None:
    settings = QuantizationSettings("minmax", samples=16, weight_bits=bits)
    task = Images()
    found = weights(quantize(task.build_model(), task, settings).int8.data)
    assert {int(np.abs(tensor.astype(int)).max()) for tensor, _ in found.values()} == {largest}


def test_calibration_reads_training_samples_only_and_as_many_as_asked() -> None:
    task = Images()
    quantize(task.build_model(), task, MINMAX)
    assert task.reads == {"train": 1, "val": 0, "test": 0}
    calls = calibration_calls(task.build_model(), task, MINMAX)
    assert [call[0].shape[0] for call in calls] == [16, 4]
    first = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(calls[0][0], first.numpy())


def test_arguments_are_in_the_order_of_the_example() -> None:
    class Named(Images):
        def example_input(self) -> dict[str, torch.Tensor]:
            return {"x": torch.zeros(1, 2), "y": torch.zeros(1, 3)}

        def outputs(self, model: nn.Module, batch: object) -> object:
            return model(y=torch.ones(4, 3), x=torch.ones(4, 2))

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum(1) + y.sum(1)

    (call,) = calibration_calls(Sum(), Named(), QuantizationSettings("minmax", samples=4))
    assert [array.shape for array in call] == [(4, 2), (4, 3)]


def test_seed_decides_the_samples() -> None:
    task = Images()
    files = [
        quantize(task.build_model(), task, QuantizationSettings("minmax", 4, seed)).int8.data
        for seed in (0, 0, 1)
    ]
    assert files[0] == files[1] != files[2]


def test_batch_can_be_left_free() -> None:
    task = Images()
    settings = QuantizationSettings("minmax", samples=16, dynamic_batch=True)
    session = onnxruntime.InferenceSession(quantize(task.build_model(), task, settings).int8.data)
    for batch in (1, 5):
        x = np.zeros((batch, 3, 6, 6), np.float32)
        assert session.run(None, {"input": x})[0].shape == (batch, 4)


def test_runtime_computes_convolution_and_product_in_int8(tmp_path) -> None:
    task = Images()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    data = quantize(task.build_model(), task, MINMAX).int8.data
    onnxruntime.InferenceSession(data, options)
    found = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"QLinearConv", "QGemm"} <= found
    assert not {"Conv", "Gemm"} & found


def test_inputs_of_very_different_ranges_reach_a_normalization_in_float() -> None:
    class Ranges(Images):
        scale = torch.tensor([1e4, 1.0, 1e-2, 1.0])

        def build_model(self) -> nn.Module:
            torch.manual_seed(0)
            model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval()
            model[0].running_var.copy_(self.scale.square())
            return model

        def example_input(self) -> torch.Tensor:
            return torch.zeros(1, 4)

        def _batches(self, split: str, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) * self.scale
            return [(x, torch.zeros(64, dtype=torch.int64))]

    task = Ranges()
    model = task.build_model()
    settings = QuantizationSettings("minmax", samples=64, dynamic_batch=True)
    x = task.train_loader(0)[0][0]
    session = onnxruntime.InferenceSession(quantize(model, task, settings).int8.data)
    with torch.no_grad():
        expected = model(x).numpy()
    found = session.run(None, {"input": x.numpy()})[0]
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


class Sequences(Images):
    """Sequences of several lengths for an encoder of torch, or of one length."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Linear(8, 2)).eval()

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, self.lengths[0], 8)

    def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        found = [torch.randn(8, length, 8, generator=generator) for length in self.lengths]
        return [(x, torch.zeros(8, dtype=torch.int64)) for x in found]


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize("lengths", [(4,), (4, 6, 3)])
def test_an_encoder_of_torch_is_quantized(lengths: tuple[int, ...], method: str) -> None:
    task = Sequences(lengths)
    model = task.build_model()
    made = quantize(model, task, QuantizationSettings(method, samples=24))
    session = onnxruntime.InferenceSession(made.int8.data)
    for x, _ in task.train_loader(0):
        with torch.no_grad():
            expected = model(x[:1]).numpy()
        (found,) = session.run(None, {"input": x[:1].numpy()})
        assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    free = [each for each in session.get_inputs()[0].shape if isinstance(each, str)]
    assert len(free) == (len(lengths) > 1)


def test_model_stays_as_it_is() -> None:
    task = Images()
    model = task.build_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize(model, task, MINMAX)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_training_samples_it_is_refused() -> None:
    class Empty(Images):
        def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return []

    task = Empty()
    with pytest.raises(UsageError, match=r"Empty.train_loader gave none"):
        quantize(task.build_model(), task, MINMAX)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_named(method: str, value: float) -> None:
    class Damaged(Images):
        def _batches(self, split: str, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            batches = super()._batches(split, seed)
            batches[0][0][3, 1, 2, 2] = value
            return batches

    task = Damaged()
    with pytest.raises(ExportError, match=r"got NaN or infinity in 'input' · leave such samples"):
        quantize(task.build_model(), task, QuantizationSettings(method, samples=20))


def test_weights_that_are_no_numbers_are_named() -> None:
    task = Images()
    model = task.build_model()
    with torch.no_grad():
        model[4].weight[0, 0] = math.nan
    with pytest.raises(ExportError, match=r"^weights must be numbers for int8, got NaN in '.*4"):
        quantize(model, task, MINMAX)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_another_type_is_refused(dtype: torch.dtype) -> None:
    task = Images()
    with pytest.raises(ExportError, match=r"is made of a float32 model, got (b?float16|float64) "):
        quantize(task.build_model().to(dtype), task, MINMAX)


def test_failure_of_the_quantizer_is_one_line(monkeypatch) -> None:
    import onnxruntime.quantization

    def fail(*_: object, **__: object) -> None:
        raise KeyError("odd\nnode")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fail)
    task = Images()
    with pytest.raises(ExportError, match=r"cannot be quantized .* keep the float file") as caught:
        quantize(task.build_model(), task, MINMAX)
    assert "\n" not in str(caught.value)
