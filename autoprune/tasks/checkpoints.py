"""Weights on disk: safetensors, or a torch state dict read without running any code in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.errors import TaskError

_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
_SHOWN = 3  # keys named in an error


def load(model: nn.Module, path: Path, *, task: str) -> None:
    """Load `path` into `model`, strictly (BatchNorm's batch counters may be absent).

    A prefix `module.` (DataParallel) is removed. Raises TaskError that names what does not fit.
    """
    weights = _without_prefix(_read(path))
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in weights and key not in optional]
    unknown = [key for key in weights if key not in own]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    faults = [
        f"{kind}: {_listed(found, separator)}"
        for kind, found, separator in (
            ("missing in the file", missing, ", "),
            ("not in the model", unknown, ", "),
            ("other shape", shapes, "; "),
        )
        if found
    ]
    if faults:
        raise TaskError(
            f"checkpoint {path} does not fit {task}.build_model() · {' · '.join(faults)}"
        )
    model.load_state_dict(weights, strict=False)  # checked above


def save(model: nn.Module, path: Path) -> None:
    """Write the state dict of `model` as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # clone: tied tensors may not share memory in a safetensors file
    weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    draft = path.with_name(f".{path.name}.{torch.randint(2**62, ()).item():x}")
    save_file({key: value.contiguous() for key, value in weights.items()}, draft)
    draft.replace(path)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise TaskError(f"checkpoint {path} is no safetensors file: {error}") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise TaskError(
            f"checkpoint {path} cannot be read as a plain state dict · write it with "
            "torch.save(model.state_dict(), path), or better as safetensors"
        ) from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise TaskError(
            f"checkpoint {path} must hold a state dict (names and tensors), got "
            f"{type(content).__name__} · write it with torch.save(model.state_dict(), path)"
        )
    return dict(content)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def _listed(found: list[str], separator: str) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return separator.join(found[:_SHOWN]) + more
