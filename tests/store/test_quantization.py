"""`int8.json`: read back as it was written; damage is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.budget import Confidence, Cost, Device
from autoprune.errors import StoreError, UsageError
from autoprune.store import (
    INT8_REPORT,
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
    read_quantization,
    write_quantization,
)


def precision(accuracy: float, size: int, ms: float | None) -> PrecisionReport:
    cost = Cost(
        latency_ms=ms,
        latency_p95_ms=ms,
        source="measured",
        device=Device("a board", "onnxruntime", "int8"),
        confidence=Confidence((0.9, 1.1), 0.5, (0.45, 0.55), 0.02, None),
    )
    metrics = {"accuracy": accuracy, "loss": 1.0 - accuracy}
    return PrecisionReport(metrics, size, {}, cost if ms else None)


REPORT = QuantizationReport(
    "model.int8.onnx",
    "ab" * 32,
    "accuracy",
    "maximize",
    QuantizationSettings("minmax", 64, 3, 8, True),
    precision(0.8, 4000, 2.0),
    precision(0.76, 1500, 1.0),
    int8_instructions=True,
)


def test_round_trip(tmp_path: Path) -> None:
    assert read_quantization(tmp_path) is None
    write_quantization(tmp_path, REPORT)
    assert read_quantization(tmp_path) == REPORT
    unmeasured = replace(REPORT, int8=precision(0.7, 10, None), int8_instructions=None)
    write_quantization(tmp_path, unmeasured)
    assert read_quantization(tmp_path) == unmeasured


def test_drop_is_relative_and_knows_the_direction() -> None:
    assert REPORT.drop == pytest.approx(0.05)
    assert REPORT.speedup == 2.0
    less = replace(REPORT, metric="loss", direction="minimize")
    assert less.drop == pytest.approx((0.24 - 0.2) / 0.2)
    assert replace(REPORT, int8=precision(0.84, 1, None)).drop == pytest.approx(-0.05)
    assert replace(REPORT, int8=precision(0.84, 1, None)).speedup is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sha256", None, "sha256"),
        ("direction", "sideways", "direction"),
        ("settings", {"weight_bits": 4}, "weight bits must be 7 or 8, got 4"),
        ("settings", {"method": "mean"}, "method: must be 'minmax' or 'percentile', got 'mean'"),
        ("int8", {"file_bytes": 3}, "int8.validation is missing"),
    ],
)
def test_damage_names_file_and_key(tmp_path: Path, key: str, value: object, message: str) -> None:
    file = write_quantization(tmp_path, REPORT)
    content = json.loads(file.read_text())
    del content["crc32"]
    file.write_text(json.dumps({**content, key: value}))
    with pytest.raises(StoreError, match=message) as caught:
        read_quantization(tmp_path)
    assert INT8_REPORT in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_names_entropy_has_the_ranges_of_minmax(tmp_path: Path) -> None:
    file = write_quantization(tmp_path, REPORT)
    content = json.loads(file.read_text())
    del content["crc32"]
    content["settings"]["method"] = "entropy"
    file.write_text(json.dumps(content))
    found = read_quantization(tmp_path)
    assert found is not None
    assert found.settings == replace(REPORT.settings, method="minmax")
    with pytest.raises(UsageError, match="got 'entropy'"):
        replace(REPORT.settings, method="entropy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mean"}, "calibration method must be one of minmax, percentile, got 'mean'"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"weight_bits": 16}, "weight bits must be 7 or 8, got 16"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        QuantizationSettings(**settings)
