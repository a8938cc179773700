"""An unfinished run on disk: weights and optimizer state as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.errors import StoreError, TrainingError

_STATE, _WEIGHTS = "state.json", "weights.safetensors"
_AVERAGE = "average.safetensors"
_OPTIMIZER, _OPTIMIZER_TENSORS = "optimizer.json", "optimizer.safetensors"


def write(
    folder: Path,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    *,
    average: nn.Module | None = None,
) -> None:
    """Write a checkpoint; `state.json` comes last, so that a half-written one is not read.

    `average` is the model with averaged weights, where there is one. Raises TrainingError where the
    optimizer's state holds anything but tensors and numbers.
    """
    tensors, options = _packed(optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STATE).unlink(missing_ok=True)
    _save(model, folder / _WEIGHTS)
    if average is not None:
        _save(average, folder / _AVERAGE)
    save_file(tensors, folder / _OPTIMIZER_TENSORS)
    (folder / _OPTIMIZER).write_text(json.dumps(options))
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


def load(
    folder: Path, model: nn.Module, optimizer: Optimizer, *, average: nn.Module | None = None
) -> None:
    """Fill models of the checkpoint's shapes, and an optimizer made for them in the same way."""
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS), strict=True)
        if average is not None:
            average.load_state_dict(load_file(folder / _AVERAGE), strict=True)
        tensors = load_file(folder / _OPTIMIZER_TENSORS)
        options = json.loads((folder / _OPTIMIZER).read_text())
        if options["class"] != type(optimizer).__name__:
            raise ValueError(f"its optimizer is {options['class']}")
        _unpack(optimizer, tensors, options)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(f"{folder} does not hold this run's weights: {error}") from error


def packed_masks(masks: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Masks as JSON: shape and bits, in hexadecimal digits."""
    return {
        name: [list(mask.shape), np.packbits(mask.cpu().numpy()).tobytes().hex()]
        for name, mask in masks.items()
    }


def unpacked_masks(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inverse of `packed_masks`."""
    found = {}
    for name, (shape, digits) in packed.items():
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8))
        mask = torch.from_numpy(bits[: math.prod(shape)].astype(bool))
        found[name] = mask.reshape(shape)
    return found


def _save(model: nn.Module, path: Path) -> None:
    # copies: tied weights may not share memory in the file, and layouts are not kept there
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def _packed(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state's tensors by `<parameter's number>.<name>`, and its numbers and groups' options."""
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for number, values in packed["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().clone().contiguous()
            elif isinstance(value, int | float):
                numbers[f"{number}.{name}"] = value
            else:
                raise TrainingError(
                    f"the state of {type(optimizer).__name__} must be tensors and numbers to be "
                    f"saved, {name!r} is a {type(value).__name__}"
                )
    groups = [
        {name: value for name, value in group.items() if name != "params" and _is_plain(value)}
        for group in packed["param_groups"]
    ]
    return tensors, {"class": type(optimizer).__name__, "numbers": numbers, "groups": groups}


def _unpack(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **options["numbers"]}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, options["groups"], strict=True):
        for name, value in saved.items():
            group[name] = tuple(value) if isinstance(group.get(name), tuple) else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 1:
                same_layout = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                values[name] = same_layout.detach()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
