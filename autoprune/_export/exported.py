"""What an export gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoprune.architecture import FLOAT32
from autoprune.store import QuantizationReport


@dataclass(frozen=True, slots=True)
class Exported:
    """A written file that was loaded again and agrees with the model.

    `weights` is the second file of a format that has two; `size_bytes` counts all. `difference` is
    the largest absolute difference between the outputs of file and model over the random inputs
    that were tried, relative to the largest output. Of an int8 file it is that on the example
    inputs, and `quantization` says how it compares with the float32 file. Where the file has not
    `ran`, as Core ML's do on macOS and iOS only, it is that of the program that was converted.
    `inputs` are the sizes of each input that the file takes, a name where a size is free (`batch`).
    `model` says which model of a run it is; empty for one outside of a run. `precision` is the one
    for which the model was searched.
    """

    path: Path
    format: str
    exporter: str
    difference: float
    size_bytes: int
    quantization: QuantizationReport | None = None
    weights: Path | None = None
    ran: bool = True
    inputs: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    model: str = ""
    precision: str = FLOAT32
