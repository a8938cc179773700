"""int8 beside float32, for the terminal: one model in lines, a front as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.report import text
from autoprune.store import FrontQuantization, PrecisionReport, QuantizationReport


def lines(report: QuantizationReport) -> Iterator[str]:
    """float32 and int8 in a line each, then what the latencies hold for."""
    for name, each in (("float32", report.float32), ("int8", report.int8)):
        metrics = [f"val {report.metric} {text.metric(report.metric, _metric(report, each))}"]
        if each.test:
            value = each.test.get(report.metric)
            metrics.append(f"test {text.metric(report.metric, value)}")
        size = text.cost("weight_bytes", each.file_bytes)
        yield f"{name:<8} {', '.join(metrics)}, {size}, {text.cost('latency_ms', each.latency_ms)}"
    measured = report.int8.measured
    if measured is not None and measured.device is not None:
        noise = text.noise(measured)
        yield f"measured in turns on {measured.device}" + (f" · {noise}" if noise else "")


def warnings(report: QuantizationReport, max_drop: float) -> Iterator[str]:
    """What speaks against the int8 file: slower here, or a metric that falls by too much."""
    speedup = report.speedup
    if speedup is not None and speedup < 1.0:
        known = report.int8_instructions is False
        why = ": this processor has no int8 instructions" if known else ""
        yield f"int8 is slower here: {1.0 / speedup:.2f} x the time of float32{why}"
    if report.drop > max_drop:
        yield (
            f"{report.metric} is {report.drop:.1%} worse as int8, more than {max_drop:.1%} · "
            f"calibrate on more samples: --calibration-samples {4 * report.settings.samples}, or "
            "keep the float file"
        )


def front_table(found: FrontQuantization) -> RenderableType:
    """The dense model and every member, each as float32 and as int8."""
    metric = found.dense.metric
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in ("model", "precision"):
        table.add_column(column, no_wrap=True)
    has_test = bool(found.dense.int8.test)
    tests = [f"test\n{metric}"] if has_test else []
    for column in (f"val\n{metric}", *tests, "file", "ms", "speed-up\nto dense"):
        table.add_column(Text(column), justify="right", no_wrap=True)
    dense_ms = found.dense.float32.latency_ms
    models = {"dense": found.dense, **{found.name(n): r for n, r in found.members.items()}}
    for name, report in models.items():
        for precision, each in (("float32", report.float32), ("int8", report.int8)):
            last = precision == "int8"
            first = "" if last else name.replace(", ", ",\n")
            cells = _cells(report, each, has_test, dense_ms)
            table.add_row(first, precision, *cells, end_section=last and name == "dense")
    notes = [f"trial {number} skipped: {why}" for number, why in found.skipped.items()]
    measured = found.dense.int8.measured
    where = f"measured in turns on {measured.device}" if measured and measured.device else ""
    return Group(table, Text(where, "dim"), *(Text(note, "yellow") for note in notes))


def _cells(
    report: QuantizationReport, each: PrecisionReport, has_test: bool, dense_ms: float | None
) -> list[str]:
    tests = [text.metric(report.metric, each.test.get(report.metric))] if has_test else []
    return [
        text.metric(report.metric, _metric(report, each)),
        *tests,
        text.cost("weight_bytes", each.file_bytes),
        ("~" if text.noise(each.measured) else "") + _ms(each.latency_ms),
        _speedup(each, dense_ms),
    ]


def _metric(report: QuantizationReport, each: PrecisionReport) -> float | None:
    return each.validation.get(report.metric)


def _ms(value: float | None) -> str:
    return text.NONE if value is None else text.three_digits(value)


def _speedup(each: PrecisionReport, dense_ms: float | None) -> str:
    sure = each.measured.confidence if each.measured else None
    if sure is not None:
        return f"{1.0 / sure.ratio:.2f}×"
    return f"{dense_ms / each.latency_ms:.2f}×" if dense_ms and each.latency_ms else text.NONE
