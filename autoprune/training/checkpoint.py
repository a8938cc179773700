"""A run in the middle, on disk: weights and momentum as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.errors import StoreError

_STATE, _WEIGHTS, _MOMENTUM = "state.json", "weights.safetensors", "momentum.safetensors"


def write(
    folder: Path,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
) -> None:
    """Write a checkpoint; `state.json` comes last, so that a half-written one is not taken up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STATE).unlink(missing_ok=True)
    # copies: tied weights may not share memory in the file, and layouts are not kept there
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / _WEIGHTS)
    save_file(_momentum(model, optimizer), folder / _MOMENTUM)
    fresh = folder / f"{_STATE}.part"
    fresh.write_text(json.dumps({"run": identity, **state}))
    fresh.replace(folder / _STATE)


def exists(folder: Path) -> bool:
    """Whether the folder holds a whole checkpoint."""
    return (folder / _STATE).is_file()


def read(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `write` was given. Raises StoreError when it is missing or another run's."""
    path = folder / _STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        run = state.pop("run")
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path} is not a checkpoint of a training run: {error}") from error
    other = [key for key, value in identity.items() if run.get(key) != value]
    if other:
        key = other[0]
        raise StoreError(
            f"{path} belongs to another run: {key} is {run.get(key)!r} there, "
            f"{identity[key]!r} here"
        )
    return state


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Fill a model and an optimiser of the checkpoint's shapes."""
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS), strict=True)
        momentum = load_file(folder / _MOMENTUM)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{folder} does not hold this run's weights: {error}") from error
    for name, parameter in model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


def _momentum(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            found[name] = buffer.contiguous()
    return found
