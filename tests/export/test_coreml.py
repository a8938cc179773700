"""Core ML packages: weights, names and shapes as read again, and what is in the way of one."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import Tensor, nn

import autoprune
from autoprune._export import export_model
from autoprune._export.coreml import _check_shapes, _quiet
from autoprune.errors import ConfigError, ExportError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
EVERYTHING = slice(0, None)


def coremltools() -> Any:
    return pytest.importorskip("coremltools")


def package(path: Path) -> Any:
    return coremltools().models.MLModel(str(path), skip_model_load=True)


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The weight and the bias of each operator, by its type; the nets here have one of each."""
    from coremltools.optimize.coreml import get_weights_metadata

    found = {}
    for weight in get_weights_metadata(package(path), weight_threshold=0).values():
        if weight.val.dtype != np.int32:
            kind = "bias" if weight.val.ndim == 1 else "weight"
            found[f"{weight.child_ops[0].op_type}.{kind}"] = weight.val
    return found


def convolution() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(16 * 36, 5))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    return model.eval()


def test_a_pruned_model_has_its_own_weights_with_the_norm_folded_in(tmp_path):
    coremltools()
    small = autoprune.prune_model(convolution(), X, 0.5).eval()
    conv, norm, linear = small[0], small[1], small[4]
    assert conv.out_channels == 8
    made = export_model(small, tmp_path / "net.mlpackage", X)
    found = weights(made.path)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    expected = {
        "conv.weight": conv.weight * scale[:, None, None, None],
        "conv.bias": norm.bias - norm.running_mean * scale,
        "linear.weight": linear.weight,
        "linear.bias": linear.bias,
    }
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], tensor.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert (made.exporter, made.ran) == ("coremltools, from torchscript", False)


def test_inputs_and_outputs_keep_their_order_and_have_names_of_their_place(tmp_path):
    ct = coremltools()
    made = export_model(TwoByName(), tmp_path / "net.mlpackage", INPUTS)
    description = package(made.path).get_spec().description
    array = ct.proto.FeatureTypes_pb2.ArrayFeatureType
    assert [
        (one.name, tuple(one.type.multiArrayType.shape), one.type.multiArrayType.dataType)
        for one in [*description.input, *description.output]
    ] == [
        ("args_0", (2, 1, 1), array.FLOAT32),
        ("args_1", (2, 3), array.INT32),
        ("output_0", (2, 3, 3), array.FLOAT32),
        ("output_1", (2, 3, 4), array.FLOAT32),
    ]


def test_scalars_unused_inputs_and_inputs_that_are_outputs(tmp_path):
    class Odd(nn.Module):
        def forward(self, x: Tensor, unused: Tensor) -> tuple[Tensor, ...]:
            return x * 2, x.sum(), x

    coremltools()
    made = export_model(Odd(), tmp_path / "net.mlpackage", (X, X))
    description = package(made.path).get_spec().description
    assert [one.name for one in description.input] == ["args_0", "args_1"]
    assert [one.name for one in description.output] == ["output_0", "output_1", "args_0"]


@pytest.mark.parametrize("route", ["torchscript", "torch.export"])
def test_a_free_batch_has_bounds_in_the_package(tmp_path, monkeypatch, route):
    coremltools()
    monkeypatch.setattr(
        "autoprune._export.coreml._ROUTES",
        {name: used for name, used in _routes().items() if name == route},
    )
    made = export_model(convolution(), tmp_path / "net.mlpackage", X, dynamic_batch=True)
    assert made.exporter == f"coremltools, from {route}"
    (given,) = package(made.path).get_spec().description.input
    ranges = given.type.multiArrayType.shapeRange.sizeRanges
    assert [(one.lowerBound, one.upperBound) for one in ranges] == [(1, 64), (3, 3), (8, 8), (8, 8)]


def _routes() -> dict[str, Any]:
    from autoprune._export.coreml import _ROUTES

    return dict(_ROUTES)


def test_where_torchscript_fails_torch_export_is_tried_and_both_reasons_are_given(
    tmp_path, monkeypatch
):
    coremltools()

    def fails(*given: object) -> None:
        raise ValueError("no such operator\nat line 7")

    monkeypatch.setattr("autoprune._export.coreml._ROUTES", {**_routes(), "torchscript": fails})
    made = export_model(convolution(), tmp_path / "net.mlpackage", X)
    assert made.exporter == "coremltools, from torch.export"
    monkeypatch.setattr("autoprune._export.coreml._ROUTES", dict.fromkeys(_routes(), fails))
    with pytest.raises(ExportError) as error:
        export_model(convolution(), tmp_path / "other.mlpackage", X)
    reason = "ValueError: no such operator"
    assert str(error.value) == (
        f"the model cannot be written for Core ML (torchscript: {reason} · torch.export: {reason}) "
        "· export it as onnx"
    )
    assert [one.name for one in tmp_path.iterdir()] == ["net.mlpackage"]


def test_a_recurrent_network_is_written(tmp_path):
    coremltools()
    exported = export_model(nn.GRU(4, 6, 2), tmp_path / "gru.mlpackage", torch.randn(5, 1, 4))
    assert exported.size_bytes > 4 * sum(each.numel() for each in nn.GRU(4, 6, 2).parameters())


def test_weights_in_float16_are_refused(tmp_path, monkeypatch):
    ct = coremltools()
    convert = ct.convert

    def half(program: Any, **options: Any) -> Any:
        return convert(program, **{**options, "compute_precision": ct.precision.FLOAT16})

    monkeypatch.setattr(ct, "convert", half)
    with pytest.raises(ExportError, match="must have weights in float32, got float16 for "):
        export_model(convolution(), tmp_path / "net.mlpackage", X)
    assert list(tmp_path.iterdir()) == []


def test_other_types_of_inputs_are_refused(tmp_path):
    coremltools()
    with pytest.raises(
        ExportError, match=r"takes inputs of float32, int64, int32, got torch\.float64"
    ):
        export_model(
            nn.Linear(2, 2).double(), tmp_path / "net.mlpackage", torch.zeros(1, 2).double()
        )


def test_a_program_that_computes_something_else_is_refused(tmp_path):
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    coremltools()
    with pytest.raises(ExportError, match="must agree with the model within"):
        export_model(Branches(), tmp_path / "net.mlpackage", torch.ones(1, 2) - 0.9)
    assert list(tmp_path.iterdir()) == []


def test_a_package_takes_the_place_of_an_older_one(tmp_path):
    coremltools()
    path = tmp_path / "net.mlpackage"
    export_model(convolution(), path, X)
    made = export_model(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), path, X)
    assert set(weights(made.path)) == {"linear.weight", "linear.bias"}
    assert [one.name for one in tmp_path.iterdir()] == ["net.mlpackage"]


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("net.mlpackage", True, "is a folder already, but no package"),
        ("net.mlpackage", False, "is a file already"),
        ("net.onnx", True, "is a folder already · "),
    ],
)
def test_what_is_no_export_is_not_replaced(tmp_path, name, folder, said):
    path = tmp_path / name
    kept = path / "thesis.txt" if folder else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("years of work")
    with pytest.raises(ConfigError, match=said):
        export_model(convolution(), path, X)
    assert kept.read_text() == "years of work"


def test_a_package_needs_its_ending(tmp_path):
    with pytest.raises(ConfigError, match=r"a folder of format coreml must end with \.mlpackage"):
        export_model(convolution(), tmp_path / "net.zip", X, format="coreml")


@pytest.mark.parametrize(
    ("shapes", "fixed", "same"),
    [
        ([(2, 3, 8, 8), (1,)], EVERYTHING, True),
        ([(2, 3, 8, 8), ()], EVERYTHING, True),
        ([(), ()], EVERYTHING, True),
        ([(1, 3, 8, 8), (1,)], EVERYTHING, False),
        ([(1, 3, 8, 8), (1,)], slice(1, None), True),
        ([(2, 3, 8, 9), (1,)], slice(1, None), False),
        ([(2, 3, 8, 8)], EVERYTHING, False),
        ([(2, 3, 8, 8), (1,), (1,)], EVERYTHING, False),
    ],
)
def test_a_package_of_other_tensors_is_refused(shapes, fixed, same):
    features = [
        SimpleNamespace(type=SimpleNamespace(multiArrayType=SimpleNamespace(shape=shape)))
        for shape in shapes
    ]
    wanted = [X, torch.tensor(1.0)]
    if same:
        _check_shapes("inputs", wanted, features, Path("net.mlpackage"), fixed)
    else:
        with pytest.raises(
            ExportError, match=r"net\.mlpackage must have inputs of shapes \[\(2, 3"
        ):
            _check_shapes("inputs", wanted, features, Path("net.mlpackage"), fixed)


def test_what_coremltools_and_torchao_log_when_they_are_imported_is_dropped(caplog):
    with _quiet():
        logging.getLogger("torchao").warning("Failed to load _C.so")
        logging.getLogger("torchao.kernel.intmm").warning("Detected no triton")
        logging.getLogger("coremltools").warning("Torch version was not tested")
        logging.getLogger("other").warning("kept")
    assert caplog.messages == ["kept"]
