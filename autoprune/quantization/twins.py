"""A model's float32 and int8 files side by side: metrics, bytes and latency in ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from autoprune.budget import Cost
from autoprune.cost.inputs import Inputs, as_call, tensors
from autoprune.cost.latency import Latency, measured_or_flagged
from autoprune.cost.onnx_module import OnnxModule
from autoprune.cost.targets import int8_instructions
from autoprune.quantization.call_sizes import Call
from autoprune.quantization.static import quantize
from autoprune.store import (
    INT8_REPORT,
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
    write_bytes,
    write_quantization,
)
from autoprune.tasks.base import Task
from autoprune.tasks.metrics import evaluated

Measure = Callable[[Sequence[nn.Module], Inputs, str, int], Sequence[Latency]]
"""Latencies of modules that take turns on these inputs, in a runtime with so many threads."""

_TOGETHER = 4  # models in both precisions that take turns with the first one


@dataclass(frozen=True, slots=True)
class Twin:
    """One model in both precisions, as modules that run in ONNX Runtime with `threads` threads."""

    original: nn.Module
    example_inputs: Inputs
    float32: OnnxModule
    int8: OnnxModule
    threads: int

    @property
    def difference(self) -> float:
        """Largest difference of int8's outputs from the model's, relative to the largest output.

        On the example inputs.
        """
        args, kwargs = as_call(self.example_inputs)
        with torch.no_grad():
            expected = tensors(self.original(*args, **kwargs))
            found = tensors(self.int8(*args, **kwargs))
        pairs = [(a.double(), b.double()) for a, b in zip(expected, found, strict=True)]
        return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)


def twin_of(model: nn.Module, task: Task, settings: QuantizationSettings, threads: int) -> Twin:
    """Write the model in both precisions and open both; raises what `quantize` raises.

    Where one is called with sizes that neither the example input nor the training samples have,
    both are written again, so that they take those too.
    """
    made, also = quantize(model, task, settings), list[Call]()
    original, inputs = made.original, made.example_inputs
    float32, int8 = (
        OnnxModule(each, original, inputs, threads) for each in (made.float32, made.int8)
    )

    def rewrite(call: Call) -> None:
        also.append(call)
        wider = quantize(model, task, settings, also)
        float32.reopen(wider.float32)
        int8.reopen(wider.int8)

    float32.rewrite = int8.rewrite = rewrite
    return Twin(original, inputs, float32, int8, threads)


def compared(
    twin: Twin, task: Task, settings: QuantizationSettings, *, test: bool = False
) -> QuantizationReport:
    """Both precisions on the validation split; with `test` on the test split too. No latency."""

    def report(module: OnnxModule) -> PrecisionReport:
        return PrecisionReport(
            validation=evaluated(task, module, "val"),
            test=evaluated(task, module, "test") if test else {},
            file_bytes=len(module.written.data),
        )

    return QuantizationReport(
        file="",
        sha256="",
        metric=task.metric,
        direction=task.direction,
        settings=settings,
        float32=report(twin.float32),
        int8=report(twin.int8),
        int8_instructions=int8_instructions(),
    )


def timed(
    twins: Sequence[Twin],
    reports: Sequence[QuantizationReport],
    measure: Measure | None = None,
) -> list[QuantizationReport]:
    """The reports with latencies: all take turns with the first twin's float32 model, in groups."""
    measure = measure or measured_or_flagged
    first, found = twins[0], [reports[0]]
    for start in range(0, max(1, len(twins) - 1), _TOGETHER):
        group = range(1 + start, min(1 + start + _TOGETHER, len(twins)))
        costs = _costs([first, *(twins[n] for n in group)], measure)
        found[0] = _with(reports[0], costs[0]) if start == 0 else found[0]
        found += [_with(reports[n], pair) for n, pair in zip(group, costs[1:], strict=True)]
    return found


def _costs(twins: Sequence[Twin], measure: Measure) -> list[tuple[Cost, Cost]]:
    modules = [module for twin in twins for module in (twin.float32, twin.int8)]
    first = twins[0]
    inputs = first.example_inputs
    latencies = measure(modules, inputs, "onnxruntime", first.threads)
    costs = [each.added_to(Cost()) for each in latencies]
    return list(zip(costs[::2], costs[1::2], strict=True))


def _with(report: QuantizationReport, costs: tuple[Cost, Cost]) -> QuantizationReport:
    parts = zip((report.float32, report.int8), costs, strict=True)
    float32, int8 = (replace(part, measured=cost) for part, cost in parts)
    return replace(report, float32=float32, int8=int8)


def saved(
    twin: Twin, report: QuantizationReport, file: Path, folder: Path, name: str = INT8_REPORT
) -> QuantizationReport:
    """Write the int8 file, and what is known of it as `folder/name`; returns that."""
    data = twin.int8.written.data
    write_bytes(file, data)
    inside = file.resolve().parent == folder.resolve()
    done = replace(
        report,
        file=file.name if inside else str(file.resolve()),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    write_quantization(folder, done, name)
    return done
