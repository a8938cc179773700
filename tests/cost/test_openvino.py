"""OpenVINO: threads, precision, outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.cost.onnx_export import OnnxModel, WrittenModule, to_onnx
from autoprune.cost.targets.openvino import OpenVino, compiled_for, read_graph
from autoprune.errors import DeviceError

openvino = pytest.importorskip("openvino")

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_in_float32_for_these_threads(threads):
    compiled = compiled_for(read_graph(to_onnx(model(), X).data), threads)
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_another_number_of_threads_than_wanted_is_an_error(monkeypatch):
    class Compiled:
        def get_property(self, name):
            return 4

    class Core:
        def compile_model(self, *args):
            return Compiled()

    monkeypatch.setattr("autoprune.cost.targets.openvino._core", Core)
    with pytest.raises(DeviceError, match="openvino must use 1 threads, got 4"):
        compiled_for(None, 1)


def test_a_call_gives_the_outputs_of_the_model_by_keyword_inputs():
    class Net(nn.Module):
        def forward(self, scale, x):
            return x @ scale, x - 1

    inputs = {"x": X, "scale": torch.ones(6, 2)}
    first, second = OpenVino().prepare(Net(), inputs, 1)().values()
    np.testing.assert_allclose(first, (X @ torch.ones(6, 2)).numpy(), rtol=1e-5)
    np.testing.assert_allclose(second, X.numpy() - 1, rtol=1e-6)


def test_a_model_that_was_written_before_runs_as_it_was_written():
    written = WrittenModule()
    made = to_onnx(model(), X)
    written.written = OnnxModel(made.data, made.inputs, made.exporter)
    (found,) = OpenVino().prepare(written, X, 1)().values()
    np.testing.assert_allclose(found, model()(X).detach().numpy(), rtol=1e-4)


def test_what_it_cannot_run_is_one_line(monkeypatch):
    def fail(data):
        raise RuntimeError("no operator Sort-99\nat node 7")

    monkeypatch.setattr("autoprune.cost.targets.openvino.read_graph", fail)
    with pytest.raises(DeviceError, match=r"cannot run Sequential \(no operator Sort-99\) · "):
        OpenVino().prepare(model(), X, 1)
