"""Packed files: the weights alone, compressed, without the zeros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from autoprune._export.exported import Exported
from autoprune.errors import ExportError
from autoprune.store import Recipe, read_packed, write_packed


def export_packed(path: Path, recipe: Recipe, state: Mapping[str, Tensor]) -> Exported:
    """Write a packed file, read it again and compare every tensor bit for bit."""
    size = write_packed(path, recipe, state)
    _, found = read_packed(path)
    for name, tensor in state.items():
        mine = found[name]
        alike = mine.shape == tensor.shape and mine.dtype == tensor.dtype
        if not alike or not torch.equal(_bits(mine), _bits(tensor)):
            raise ExportError(f"{path} does not hold the weights of the model: {name} differs")
    return Exported(path, "packed", "autoprune", 0.0, size)


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat
