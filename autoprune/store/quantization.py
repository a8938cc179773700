"""`int8.json`: what quantizing a saved model gave, beside its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from autoprune.budget import Cost
from autoprune.errors import UsageError
from autoprune.store.files import read, write_json

Method = Literal["minmax", "percentile"]
INT8_REPORT, INT8_FILE = "int8.json", "model.int8.onnx"


def _now(method: object) -> object:
    """What a method in a file is called now: `entropy` found the ranges of `minmax`."""
    return "minmax" if method == "entropy" else method


@dataclass(frozen=True)
class QuantizationSettings:
    """How a model is quantized: post-training, static, weights symmetric per output channel.

    `method` says how the range of an activation is found on `samples` training samples, drawn with
    `seed`. With 7 `weight_bits` the int8 weights stay within ±64: processors without dot-product
    instructions for int8 add two products in 16 bits, where full weights saturate.
    """

    method: Annotated[Method, BeforeValidator(_now)] = "percentile"
    samples: int = 512
    seed: int = 0
    weight_bits: int = 7
    dynamic_batch: bool = False

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise UsageError(f"calibration method must be one of {known}, got {self.method!r}")
        if self.samples < 1:
            raise UsageError(f"calibration samples must be at least 1, got {self.samples}")
        if self.weight_bits not in (7, 8):
            raise UsageError(f"weight bits must be 7 or 8, got {self.weight_bits}")


@dataclass(frozen=True)
class PrecisionReport:
    """One file in ONNX Runtime: its metrics by split, its size, its measured latency."""

    validation: Mapping[str, float]
    file_bytes: int
    test: Mapping[str, float] = field(default_factory=dict)
    measured: Cost | None = None

    @property
    def latency_ms(self) -> float | None:
        """The measured median, None where it was not measured."""
        return self.measured.latency_ms if self.measured else None


@dataclass(frozen=True)
class QuantizationReport:
    """A model as float32 and as int8, both measured in the same runtime.

    `file` is the int8 file, by its name where it lies beside the model; `sha256` is its checksum.
    Latencies were measured in turns; each `ratio` in them is relative to the first model of that
    measurement. `int8_instructions` says whether the processor has dot products of int8, None where
    that is not known.
    """

    file: str
    sha256: str
    metric: str
    direction: Literal["maximize", "minimize"]
    settings: QuantizationSettings
    float32: PrecisionReport
    int8: PrecisionReport
    int8_instructions: bool | None = None

    @property
    def drop(self) -> float:
        """By how much the validation metric is worse than float32's, relative to that; 0.01 is 1 %.

        Below 0 where int8 is better.
        """
        before, after = (each.validation[self.metric] for each in (self.float32, self.int8))
        worse = before - after if self.direction == "maximize" else after - before
        return worse / (abs(before) or 1.0)

    @property
    def speedup(self) -> float | None:
        """How many times as fast int8 is as float32; None where latency was not measured."""
        before, after = self.float32.latency_ms, self.int8.latency_ms
        return before / after if before and after else None


@dataclass(frozen=True)
class FrontQuantization:
    """A run's dense model and the members of its front, by number, as float32 and int8.

    All latencies are relative to the dense float32 model. `skipped` says why a member is missing,
    `retrained` of which seed's retraining a member's model is.
    """

    dense: QuantizationReport
    members: Mapping[int, QuantizationReport]
    skipped: Mapping[int, str] = field(default_factory=dict)
    retrained: Mapping[int, int] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """Which model a member's report is of."""
        return model_name(number, self.retrained.get(number))


def model_name(number: int, seed: int | None = None) -> str:
    """What the model of a trial is called, or the one of its retraining with a seed.

    >>> model_name(3), model_name(3, 0)
    ('trial 3', 'trial 3, retrained seed 0')
    """
    return f"trial {number}" + ("" if seed is None else f", retrained seed {seed}")


def read_quantization(folder: str | Path, name: str = INT8_REPORT) -> QuantizationReport | None:
    """What was written beside a model; None where it was not quantized.

    Raises StoreError where the file is damaged.
    """
    file = Path(folder) / name
    return read(file, QuantizationReport) if file.is_file() else None


def write_quantization(
    folder: str | Path, report: QuantizationReport, name: str = INT8_REPORT
) -> Path:
    """Write it beside the model."""
    return write_json(Path(folder) / name, report)
