"""Files for calls of several sizes: what is free, and that they agree with the model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from autoprune.errors import ExportError
from autoprune.quantization.call_sizes import by_sizes, free_dimensions, written_for


class Mean(nn.Module):
    """A mean over the length: with `baked` the fast exporter takes the length for a constant."""

    def __init__(self, baked: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.baked, self.linear = baked, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        return self.linear(x.sum(1) / (int(length) if self.baked else length))


def call(batch: int, length: int) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(batch, length, 4, generator=generator).numpy()]


def test_free_are_the_sizes_that_differ_and_equal_ones_share_a_name() -> None:
    def shapes(*given: tuple[int, ...]) -> list[np.ndarray]:
        return [np.zeros(shape) for shape in given]

    calls = [
        shapes((1, 7, 5), (1, 7), (1, 3, 8, 8), (1,)),
        shapes((9, 7, 5), (9, 7), (9, 3, 8, 6), (9,)),
        shapes((9, 4, 5), (9, 4), (9, 3, 8, 6), (9,)),
    ]
    assert free_dimensions(calls) == ({1: "size_0"}, {1: "size_0"}, {3: "size_1"}, {})
    assert free_dimensions(calls[:1]) == ({}, {}, {}, {})


@pytest.mark.parametrize(("baked", "exporter"), [(False, "torchscript"), (True, "dynamo")])
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_file_for_several_sizes_agrees_with_the_model(
    baked: bool, exporter: str, dynamic_batch: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    model, rows = Mean(baked).eval(), 2 if dynamic_batch else 1
    traced = torch.from_numpy(call(rows, 5)[0])
    calls = [call(6, 5), call(6, 3), call(6, 8)]
    written = written_for(model, traced, calls, dynamic_batch=dynamic_batch)
    assert written.exporter == exporter
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(written.data)
    for batch in (1, 3) if dynamic_batch else (1,):
        for length in (3, 6, 8):
            (x,) = call(batch, length)
            (found,) = session.run(None, {"input": x})
            expected = model(torch.from_numpy(x)).detach().numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sizes_of_the_example_alone_stay_fixed() -> None:
    traced = torch.from_numpy(call(1, 5)[0])
    written = written_for(Mean(True).eval(), traced, [call(6, 5)], dynamic_batch=False)
    (found,) = onnxruntime.InferenceSession(written.data).get_inputs()
    assert found.shape == [1, 5, 4]


def test_several_sizes_that_no_exporter_can_write_are_one_line_with_the_remedy() -> None:
    pool = nn.AdaptiveAvgPool2d((1, 4)).eval()  # its window is a constant of the file
    with pytest.raises(ExportError, match=r"inputs have several sizes.* pad them to one") as caught:
        written_for(pool, torch.ones(1, 5, 4), [call(6, 4)], dynamic_batch=False)
    assert "\n" not in str(caught.value)


def test_feeds_are_grouped_by_shapes_the_most_frequent_first() -> None:
    short, long = {"x": np.zeros((1, 3))}, {"x": np.zeros((1, 5))}
    groups = by_sizes([short, long, long])
    assert [[feed["x"].shape for feed in group] for group in groups] == [[(1, 5)] * 2, [(1, 3)]]


class BakedBatch(nn.Module):
    """The TorchScript-based exporter keeps the batch size that it has seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), -1) * torch.ones(int(x.shape[0]), 1)


def test_a_free_batch_is_compared_at_other_sizes() -> None:
    calls = [[np.ones((4, 2, 3), dtype=np.float32)]]
    written = written_for(BakedBatch().eval(), torch.ones(2, 2, 3), calls, dynamic_batch=True)
    assert written.exporter == "dynamo"
    fixed = written_for(BakedBatch().eval(), torch.ones(2, 2, 3), calls, dynamic_batch=False)
    assert fixed.exporter == "torchscript"
