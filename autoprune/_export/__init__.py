"""A model as a file for another runtime, accepted only when it computes the same."""

from autoprune._export.exported import Exported
from autoprune._export.formats import FORMATS, Format, format_of
from autoprune._export.int8 import export_int8
from autoprune._export.model import export_model
from autoprune._export.packed import export_packed

__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "export_int8",
    "export_model",
    "export_packed",
    "format_of",
]
