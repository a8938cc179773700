"""int8 beside float32 in words."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from autoprune.budget import Confidence, Cost, Device
from autoprune.report.int8 import front_table, lines, warnings
from autoprune.store import (
    FrontQuantization,
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
)


def precision(accuracy: float, size: int, ms: float, ratio: float) -> PrecisionReport:
    sure = Confidence((ms, ms), ratio, (ratio, ratio))
    cost = Cost(
        latency_ms=ms, device=Device("board", "onnxruntime"), confidence=sure, source="measured"
    )
    return PrecisionReport({"accuracy": accuracy}, size, measured=cost)


def report(*parts: PrecisionReport, known: bool | None = None) -> QuantizationReport:
    settings = QuantizationSettings(samples=100)
    return QuantizationReport("f", "0", "accuracy", "maximize", settings, *parts, known)


DENSE = report(precision(0.9, 4000, 2.0, 1.0), precision(0.899, 1200, 3.0, 1.5))
SMALL = report(precision(0.88, 2000, 1.0, 0.5), precision(0.84, 700, 0.8, 0.4))


def test_both_precisions_have_a_line() -> None:
    found = list(lines(SMALL))
    assert found[0] == "float32  val accuracy 88.00 %, 2.00 kB, 1.00 ms"
    assert found[1] == "int8     val accuracy 84.00 %, 700 B, 0.800 ms"
    assert "board" in found[2]
    tested = replace(SMALL, int8=replace(SMALL.int8, test={"accuracy": 0.81}))
    assert "test 81.00 %" in list(lines(tested))[1]


def test_slower_is_said_and_the_reason_only_where_it_is_known() -> None:
    assert list(warnings(DENSE, 0.01)) == ["int8 is slower here: 1.50 x the time of float32"]
    known = replace(DENSE, int8_instructions=False)
    reason = ": this processor has no int8 instructions"
    assert next(iter(warnings(known, 0.01))).endswith(reason)
    has_them = list(warnings(replace(DENSE, int8_instructions=True), 0.01))
    assert has_them == ["int8 is slower here: 1.50 x the time of float32"]


def test_a_metric_that_falls_too_far_is_said_with_what_to_do() -> None:
    assert list(warnings(SMALL, 0.05)) == []
    (line,) = warnings(SMALL, 0.01)
    assert line.startswith("accuracy is 4.5% worse as int8, more than 1.0% · ")
    assert "--calibration-samples 400, or keep the float file" in line


def test_table_tells_pruned_and_quantized_apart() -> None:
    console = Console(width=100, record=True, file=None, quiet=True)
    found = FrontQuantization(DENSE, {7: SMALL}, {9: "no saved model"})
    with console.capture() as capture:
        console.quiet = False
        console.print(front_table(found))
    rows = [line.split() for line in capture.get().splitlines()]
    assert ["dense", "float32", "90.00", "%", "4.00", "kB", "2.00", "1.00×"] in rows
    assert ["int8", "89.90", "%", "1.20", "kB", "3.00", "0.67×"] in rows
    assert ["trial", "7", "float32", "88.00", "%", "2.00", "kB", "1.00", "2.00×"] in rows
    assert ["int8", "84.00", "%", "700", "B", "0.800", "2.50×"] in rows
    assert ["trial", "9", "skipped:", "no", "saved", "model"] in rows


def test_table_says_which_members_were_retrained() -> None:
    found = FrontQuantization(DENSE, {7: SMALL, 8: SMALL}, retrained={8: 2})
    console = Console(width=80)
    with console.capture() as capture:
        console.print(front_table(found))
    rows = [line.split() for line in capture.get().splitlines() if line.strip()]
    first = next(k for k, row in enumerate(rows) if row[:2] == ["trial", "7"])
    assert [" ".join(row[:3]) for row in rows[first : first + 5]] == [
        "trial 7 float32",
        "int8 84.00 %",
        "trial 8, float32",
        "retrained seed 2",
        "int8 84.00 %",
    ]
