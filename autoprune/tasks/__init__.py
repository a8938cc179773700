"""Tasks: the base class for a model with its data, and the built-in `digits`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.tasks.base import Batch, Split, Task
    from autoprune.tasks.folders import (
        cache_folder,
        cached_arrays,
        data_folders,
        find_file,
        read_npz,
    )
    from autoprune.tasks.in_memory import InMemoryTask
    from autoprune.tasks.load import BUILT_IN, load_dense, load_task, task_class
    from autoprune.tasks.loaders import Normalize, PadCropFlip, TensorLoader, stratified
    from autoprune.tasks.nested import device_of, to_device

_HOMES: dict[str, str] = {
    "BUILT_IN": "load",
    "Batch": "base",
    "InMemoryTask": "in_memory",
    "Normalize": "loaders",
    "PadCropFlip": "loaders",
    "Split": "base",
    "Task": "base",
    "TensorLoader": "loaders",
    "cache_folder": "folders",
    "cached_arrays": "folders",
    "data_folders": "folders",
    "device_of": "nested",
    "find_file": "folders",
    "load_dense": "load",
    "load_task": "load",
    "read_npz": "folders",
    "stratified": "loaders",
    "task_class": "load",
    "to_device": "nested",
}
__all__ = [
    "BUILT_IN",
    "Batch",
    "InMemoryTask",
    "Normalize",
    "PadCropFlip",
    "Split",
    "Task",
    "TensorLoader",
    "cache_folder",
    "cached_arrays",
    "data_folders",
    "device_of",
    "find_file",
    "load_dense",
    "load_task",
    "read_npz",
    "stratified",
    "task_class",
    "to_device",
]


def __getattr__(name: str) -> Any:
    """Import a name's module at its first use: torch loads only then."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
