"""Formats that are extras: files that agree, their names, and what happens to older ones."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import nn

from autoprune._export import FORMATS, Exported, export_model, format_of
from autoprune.errors import ConfigError, DeviceError, ExportError

NEEDS = {
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "executorch": ("executorch",),
    "litert": ("ai_edge_litert",),
    "coreml": ("coremltools",),
}
SLOW = {"executorch", "litert"}  # seconds a model
FORMAT = pytest.mark.parametrize("name", NEEDS)
WRITES = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NEEDS]
)
TWO_FILES = [name for name in NEEDS if FORMATS[name].weights]


def need(name: str) -> None:
    for module in NEEDS[name]:
        pytest.importorskip(module)
    try:
        FORMATS[name].check()
    except DeviceError as error:  # what is no package of this environment
        pytest.skip(str(error))


def export(name: str, tmp_path, model: nn.Module, x: torch.Tensor, **options: bool) -> Exported:
    need(name)
    return export_model(model, tmp_path / FORMATS[name].file, x, format=name, **options)


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)
    )
    model[1].running_mean.normal_()
    return model


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@WRITES
def test_the_file_agrees_in_float32_and_the_size_counts_all_files(tmp_path, name):
    model = small().train()
    made = export(name, tmp_path, model, X)
    assert made.format == name
    assert made.difference < 1e-5  # float16 would differ by about 1e-3
    files = [made.path, *([made.weights] if made.weights else [])]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    if FORMATS[name].folder:
        files = [file for file in made.path.rglob("*") if file.is_file()]
    assert made.size_bytes == sum(file.stat().st_size for file in files)
    assert made.size_bytes > 4 * 6 * 36 * 4  # the weights of the linear layer alone
    assert all(module.training for module in model.modules())


@WRITES
def test_a_file_that_differs_is_refused(tmp_path, monkeypatch, name):
    need(name)
    monkeypatch.setattr("autoprune._export.agreement.difference", lambda expected, found: 0.5)
    with pytest.raises(ExportError, match="must agree with the model within"):
        export(name, tmp_path, small(), X)
    assert list(tmp_path.iterdir()) == []


@FORMAT
def test_a_missing_package_is_said_before_anything_is_written(tmp_path, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module in NEEDS[name] else found(module)
    )
    with pytest.raises(DeviceError, match=rf"pip install 'autoprune\[{name}\]'"):
        export_model(small(), tmp_path / "new" / FORMATS[name].file, X)
    assert list(tmp_path.iterdir()) == []


def test_the_ending_of_another_format_is_refused(tmp_path):
    says = r"model\.onnx ends as a file of format onnx does, got format pt2 · end it with \.pt2"
    with pytest.raises(ConfigError, match=says):
        format_of(tmp_path / "model.onnx", "pt2")
    assert format_of(tmp_path / "model.bin", "pt2") == "pt2"


@pytest.mark.parametrize("name", FORMATS)
def test_the_ending_tells_the_format(tmp_path, name):
    assert format_of(tmp_path / FORMATS[name].file) == name


@pytest.mark.parametrize("name", TWO_FILES)
def test_a_format_of_two_files_needs_its_ending(tmp_path, name):
    with pytest.raises(ConfigError, match=f"must end with {FORMATS[name].ending}"):
        format_of(tmp_path / "model", name)


@pytest.mark.parametrize("name", TWO_FILES)
def test_the_first_file_is_there_only_with_its_own_weights(tmp_path, monkeypatch, name):
    """An export that is killed between the two leaves weights, never a graph of others."""
    first = export(name, tmp_path, small(), X)
    replace = type(first.path).replace

    def killed(self, target):
        replace(self, target)
        if target.parent == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(type(first.path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export(name, tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), X)
    assert list(tmp_path.iterdir()) == [first.weights]


def test_openvino_files_run_at_any_batch_in_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = small()
    made = export("openvino", tmp_path, model, X, dynamic_batch=True)
    assert (made.path.name, made.weights.name) == ("model.xml", "model.bin")
    x = torch.randn(5, 3, 8, 8)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would take bfloat16
    (found,) = openvino.compile_model(made.path, "CPU", exact)(x.numpy()).values()
    np.testing.assert_allclose(found, model.eval()(x).detach().numpy(), atol=1e-4)


def test_several_inputs_by_keyword_and_several_outputs_in_openvino(tmp_path):
    pytest.importorskip("openvino")

    inputs = INPUTS
    assert export_model(TwoByName(), tmp_path / "net.xml", inputs).difference < 1e-6


def test_ncnn_says_which_integers_a_model_computes_with(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids, mask):
            return self.out((self.embed(ids) * mask[..., None]).mean(1))

    need("ncnn")
    path, ids, mask = tmp_path / "model.ncnn.param", torch.tensor([[3, 1, 8]]), torch.ones(1, 3)
    says = r"indices of embeddings only, .* mask \(torch\.int64, in mul_\d+\) · give it as float32"
    with pytest.raises(ExportError, match=says):
        export_model(Masked(), path, {"ids": ids, "mask": mask.long()}, format="ncnn")
    assert export_model(Masked(), path, {"ids": ids, "mask": mask}).difference < 1e-5


def test_ncnn_files_run_at_any_batch(tmp_path):
    ncnn = pytest.importorskip("ncnn")
    model = small()
    made = export("ncnn", tmp_path, model, X, dynamic_batch=True)
    assert (made.path.name, made.weights.name) == ("model.ncnn.param", "model.ncnn.bin")
    net = ncnn.Net()
    for option in ("use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    assert net.load_param(str(made.path)) == 0
    assert net.load_model(str(made.weights)) == 0
    x = torch.randn(5, 3, 8, 8)
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x.numpy(), batch_index=0))
    found = extractor.extract("out0")[1].numpy(batch_index=0)
    np.testing.assert_allclose(found, model.eval()(x).detach().numpy(), atol=1e-4)


@pytest.mark.slow  # seconds to convert
def test_executorch_files_run_at_other_batches(tmp_path):
    pytest.importorskip("executorch")
    from autoprune.cost.targets.executorch import LoadedProgram

    model = small()
    made = export("executorch", tmp_path, model, X, dynamic_batch=True)
    assert made.weights is None
    x = torch.randn(5, 3, 8, 8)
    (found,) = LoadedProgram(made.path).run([x])
    torch.testing.assert_close(found, model.eval()(x).detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow  # seconds to convert
def test_litert_files_run_at_other_batches_without_autoprune(tmp_path):
    """A model without reshapes to a known size; LiteRT takes the batch from its inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    made = export("litert", tmp_path, model, X, dynamic_batch=True)
    from ai_edge_litert.interpreter import Interpreter

    x = torch.randn(5, 3, 8, 8)
    run = Interpreter(str(made.path)).get_signature_runner()
    found = run(args_0=x.numpy())["output_0"]
    np.testing.assert_allclose(found, model.eval()(x).detach().numpy(), atol=1e-4)


@pytest.mark.slow  # seconds to convert
def test_a_litert_file_of_one_batch_is_said_to_be_so(tmp_path):
    with pytest.raises(ExportError, match="reshapes are for a batch of 2 · export it without"):
        export("litert", tmp_path, small(), X, dynamic_batch=True)
    assert list(tmp_path.iterdir()) == []
