"""int8 files, compared with float32 ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import Pair, model_of
from timings import Clock

from autoprune._export import export_int8
from autoprune.errors import UsageError
from autoprune.store import QuantizationSettings, read_quantization

SETTINGS = QuantizationSettings("minmax", samples=12)


def test_the_file_and_what_is_known_of_it(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "model" / "small.onnx"
    made = export_int8(
        model_of(0), file, Pair(), tmp_path / "model", SETTINGS, threads=2, test=True, measure=clock
    )
    assert (made.path, made.format, made.weights) == (file, "onnx", None)
    assert made.size_bytes == file.stat().st_size
    assert made.inputs == {"input": (1, 4)}
    assert 0.0 <= made.difference < 0.5
    assert made.quantization == read_quantization(tmp_path / "model")
    assert made.quantization.float32.latency_ms == 1.0
    assert made.quantization.int8.latency_ms == 2.0
    assert made.quantization.int8.test.keys() == {"accuracy", "loss"}
    assert clock.where == [("onnxruntime", 2)]


def test_another_ending_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export_int8(model_of(0), tmp_path / "a.pt2", Pair(), tmp_path, SETTINGS)
    assert str(caught.value) == f"an int8 model is written as .onnx, got {tmp_path / 'a.pt2'}"
    assert list(tmp_path.iterdir()) == []
