"""Models as ONNX: which exporter writes them."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import nn

from autoprune.cost.onnx_export import OnnxModel, to_onnx
from autoprune.errors import ExportError


def test_an_encoder_of_torch_is_written_by_the_fast_exporter(
    capfd: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2)).eval()
    x = torch.randn(3, 5, 4)
    written = to_onnx(model, x)
    assert written.exporter == "torchscript"
    assert capfd.readouterr() == ("", "")
    assert torch.backends.mha.get_fastpath_enabled()
    session = onnxruntime.InferenceSession(written.data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, written.feed(x))
    assert torch.allclose(torch.from_numpy(found), model(x), atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_named_dimensions_are_free_and_a_failed_check_tries_the_next_exporter(
    exporter: str,
) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    def check(written: OnnxModel) -> None:
        if written.exporter != exporter:
            raise ValueError("not this one")

    example = (torch.ones(1, 3, 4), torch.ones(1, 1, 4))
    written = to_onnx(Scaled(), example, free=[{1: "length"}, {}], check=check)
    assert written.exporter == exporter
    first, second = onnxruntime.InferenceSession(written.data).get_inputs()
    assert (first.shape, second.shape) == ([1, "length", 4], [1, 1, 4])


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(x)


def test_a_model_without_an_onnx_form_is_an_error_and_no_printed_graph(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        to_onnx(Bessel(), torch.rand(1, 2))
    assert capfd.readouterr() == ("", "")


class Several(nn.Module):
    """Two answers with the batch first, and one where it is folded into another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layer(x)
        return {"all": found, "mean": found.mean(1), "rows": found.flatten(0, 1)}


def _outputs(written: OnnxModel) -> list[tuple[str, object]]:
    found = onnxruntime.InferenceSession(written.data).get_outputs()
    return [(each.name, each.shape[0]) for each in found]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_outputs_are_named_and_their_free_batch_is_the_inputs(exporter: str) -> None:
    one = to_onnx(nn.Linear(4, 3), torch.zeros(2, 4), exporters=[exporter])
    assert _outputs(one) == [("output", 2)]
    example = torch.zeros(2, 5, 4)
    free = to_onnx(Several(), example, dynamic_batch=True, exporters=[exporter])
    first, second, (name, rows) = _outputs(free)
    assert (first, second) == (("output_0", "batch"), ("output_1", "batch"))
    assert name == "output_2"
    assert rows != "batch"


def test_a_batch_that_was_reshaped_is_still_named() -> None:
    """The exporter loses the size behind a reshape, and would call it by a node."""

    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.view(x.shape[0], -1)[:, :6])

    free = to_onnx(Reshaped(), torch.zeros(2, 2, 4), dynamic_batch=True, exporters=["torchscript"])
    assert _outputs(free) == [("output", "batch")]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_input_that_is_called_output_keeps_its_name(exporter: str) -> None:
    class Named(nn.Module):
        def forward(self, output: torch.Tensor) -> torch.Tensor:
            return output + 1

    written = to_onnx(Named(), {"output": torch.zeros(1, 2)}, exporters=[exporter])
    assert written.inputs == ("output",)
    assert _outputs(written)[0][0] != "output"


def test_inputs_of_other_sizes_and_models_of_one_batch_are_written_as_before() -> None:
    """A broadcast input grows with the batch; a model that takes one batch only has no free one."""

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    example = (torch.ones(2, 3), torch.ones(1, 3))
    free = to_onnx(Scaled(), example, dynamic_batch=True, exporters=["torchscript"])
    assert _outputs(free) == [("output", "batch")]

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(2, 3) + 1

    fixed = to_onnx(Fixed(), torch.ones(2, 3), dynamic_batch=True, exporters=["torchscript"])
    assert _outputs(fixed) == [("output", 2)]
