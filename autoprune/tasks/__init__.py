"""Tasks: what a user writes for a model and its data, and the built-in ones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.tasks.base import Batch, Split, Task
    from autoprune.tasks.folders import cache_folder
    from autoprune.tasks.load import BUILT_IN, load_dense, load_task, task_class
    from autoprune.tasks.loaders import Normalize, PadCropFlip, TensorLoader, stratified
    from autoprune.tasks.moving import device_of, to_device

_HOMES: dict[str, str] = {
    "BUILT_IN": "load",
    "Batch": "base",
    "Normalize": "loaders",
    "PadCropFlip": "loaders",
    "Split": "base",
    "Task": "base",
    "TensorLoader": "loaders",
    "cache_folder": "folders",
    "device_of": "moving",
    "load_dense": "load",
    "load_task": "load",
    "stratified": "loaders",
    "task_class": "load",
    "to_device": "moving",
}
__all__ = [
    "BUILT_IN",
    "Batch",
    "Normalize",
    "PadCropFlip",
    "Split",
    "Task",
    "TensorLoader",
    "cache_folder",
    "device_of",
    "load_dense",
    "load_task",
    "stratified",
    "task_class",
    "to_device",
]


def __getattr__(name: str) -> Any:
    """Import a name's module at its first use: torch loads only then."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
