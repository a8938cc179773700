"""Written files are loaded again and compare equal to the eager model, or do not appear at all."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import nn

from autoprune._export import export_model
from autoprune.cost import onnx_export
from autoprune.errors import ConfigError, ExportError


def residual() -> nn.Module:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)) + x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), Block(), nn.Dropout(0.5), nn.Flatten())
    model.append(nn.Linear(6 * 6 * 6, 4))
    model[1].norm.running_mean.normal_()
    return model


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_file_computes_what_the_model_computes(tmp_path, name, dynamic):
    model = residual().train()
    exported = export_model(model, tmp_path / "new" / name, X, dynamic_batch=dynamic)
    assert exported.difference < 1e-5
    assert exported.size_bytes == exported.path.stat().st_size
    assert exported.inputs == {"input": ("batch" if dynamic else 1, 3, 8, 8)}
    assert [entry.name for entry in exported.path.parent.iterdir()] == [name]
    assert all(module.training for module in model.modules())

    x = torch.randn(5 if dynamic else 1, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    if name.endswith("onnx"):
        session = onnxruntime.InferenceSession(exported.path)
        found = session.run(None, {"input": x.numpy()})[0]
    else:
        found = torch.export.load(exported.path).module()(x).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_several_inputs_by_keyword_and_several_outputs(tmp_path):
    inputs = INPUTS
    for name in ("net.onnx", "net.pt2"):
        assert export_model(TwoByName(), tmp_path / name, inputs).difference < 1e-6
    names = {i.name for i in onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()}
    assert names == {"scale", "tokens"}


def test_a_file_that_differs_is_refused_and_nothing_is_overwritten(tmp_path):
    class Moody(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls  # a constant in every file

    path = tmp_path / "moody.onnx"
    path.write_bytes(b"the older file")
    with pytest.raises(ExportError, match=r"moody.onnx must agree with the model within 0.0001"):
        export_model(Moody(), path, torch.randn(4, 9))
    assert path.read_bytes() == b"the older file"
    assert list(tmp_path.iterdir()) == [path]


class WithToken(nn.Module):
    """A token before the others, as in a ViT; `len` is a constant for the TorchScript exporter."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Parameter(torch.ones(1, 1, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.cat([self.token.expand(len(x), -1, -1), x], 1)).mean(1)


def test_a_free_batch_that_one_exporter_takes_for_a_constant_is_left_to_the_other(tmp_path, capfd):
    model = WithToken().eval()
    exported = export_model(model, tmp_path / "m.onnx", torch.randn(1, 5, 4), dynamic_batch=True)
    assert exported.exporter == "dynamo"
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(exported.path)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 5, 4)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-5)
    assert list(tmp_path.iterdir()) == [exported.path]


def test_where_both_exporters_files_are_refused_both_reasons_are_given(tmp_path, monkeypatch):
    write = onnx_export._write

    def only_torchscript(flat, names, exporter, dynamic_batch):
        if exporter == "dynamo":
            raise RuntimeError("tired")
        return write(flat, names, exporter, dynamic_batch)

    monkeypatch.setattr(onnx_export, "_write", only_torchscript)
    reasons = r"m.onnx was written but does not run .* · by another exporter: .*dynamo: .*tired"
    with pytest.raises(ExportError, match=reasons):
        export_model(WithToken(), tmp_path / "m.onnx", torch.randn(2, 5, 4), dynamic_batch=True)
    assert not list(tmp_path.iterdir())


def test_unknown_format_names_the_known(tmp_path):
    with pytest.raises(ConfigError, match=r"one of onnx, pt2, .*, packed, got 'engine' .*\.packed"):
        export_model(residual(), tmp_path / "m.engine", X)


def test_falls_back_to_the_dynamo_exporter(monkeypatch):
    write = onnx_export._write

    def only_dynamo(flat, names, exporter, dynamic_batch):
        if exporter == "torchscript":
            raise RuntimeError("operator unknown")
        return write(flat, names, exporter, dynamic_batch)

    monkeypatch.setattr(onnx_export, "_write", only_dynamo)
    model = nn.Linear(3, 2)
    written = onnx_export.to_onnx(model, torch.zeros(1, 3))
    assert written.exporter == "dynamo"
    session = onnxruntime.InferenceSession(written.data)
    found = session.run(None, written.feed(torch.ones(1, 3)))[0]
    np.testing.assert_allclose(found, model(torch.ones(1, 3)).detach().numpy(), rtol=1e-5)


def test_both_exporters_failing_gives_both_reasons(monkeypatch):
    def fail(flat, names, exporter, dynamic_batch):
        raise RuntimeError(f"{exporter} is tired\nand more")

    monkeypatch.setattr(onnx_export, "_write", fail)
    with pytest.raises(ExportError, match=r"torchscript is tired · dynamo: .*dynamo is tired"):
        onnx_export.to_onnx(nn.Linear(3, 2), torch.zeros(1, 3))


def test_exporting_is_quiet_when_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert onnx_export.to_onnx(residual(), X).exporter == "torchscript"
