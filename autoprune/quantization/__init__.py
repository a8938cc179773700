"""Post-training static quantization: a finished model as an int8 file for ONNX Runtime."""

from __future__ import annotations

from autoprune.quantization.file_fit import fit_int8_file
from autoprune.quantization.front import quantize_front
from autoprune.quantization.runtime import int8_for_timing
from autoprune.quantization.static import Quantized, quantize
from autoprune.quantization.twins import Measure, Twin, compared, saved, timed, twin_of

__all__ = [
    "Measure",
    "Quantized",
    "Twin",
    "compared",
    "fit_int8_file",
    "int8_for_timing",
    "quantize",
    "quantize_front",
    "saved",
    "timed",
    "twin_of",
]
