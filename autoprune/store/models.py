"""Saved models: a folder with a recipe and the weights that its checksum names."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.store.files import check_regular, checked, plain, read_json, write_text
from autoprune.store.quantization import INT8_FILE, INT8_REPORT
from autoprune.store.values import CandidateValue

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 2
RECIPE, WEIGHTS = "candidate.json", "weights.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How a saved model is made again: the task's dense architecture, cut, with these weights.

    `kept_indices` are the units of each group that the model has; `sha256` is that of the file of
    weights, `shapes` those of the tensors in it, and `tied` says which other tensors share memory
    with one of them. The last three are filled in by `save_model`. `inputs` describes an example
    input (None where it cannot be), so that the model can be built without the task.
    """

    task: str
    task_args: Mapping[str, Any]
    candidate: CandidateValue
    kept_indices: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    format: int = FORMAT
    inputs: Any = None
    ignored_layers: tuple[str, ...] = ()
    num_heads: Mapping[str, int] | None = None

    def example_input(self) -> Any:
        """An input of the dense model like the one it was traced with; None where none is known.

        Floating-point values are zeros. Raises StoreError where the description is damaged.
        """
        from autoprune.store.example_inputs import made

        return None if self.inputs is None else made(self.inputs)


def is_model(path: str | Path) -> bool:
    """Whether the folder holds a saved model."""
    return (Path(path) / RECIPE).is_file()


def recipe_of(
    candidate: Candidate,
    kept_indices: Mapping[str, Sequence[int]],
    *,
    task: str,
    task_args: Mapping[str, Any] | None = None,
    example: Any = None,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> Recipe:
    """How a saved model is built again from the task's dense one: what is built, of which units.

    `example` is the input with which that was traced, if others shall load it without the task.
    """
    from autoprune.store.example_inputs import described

    kept = {
        name: tuple(int(index) for index in kept_indices[name])
        for name in candidate.architecture.widths
    }
    return Recipe(
        task,
        dict(task_args or {}),
        candidate,
        kept,
        inputs=None if example is None else described(example),
        ignored_layers=tuple(ignored_layers),
        num_heads=dict(num_heads) if num_heads else None,
    )


def save_model(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write a model's recipe and weights as a folder that appears whole or not at all.

    Tensors that share memory are written once.
    """
    from safetensors.torch import save_file

    tensors, tied = untied(model.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        save_file(tensors, beside / WEIGHTS)
        (beside / WEIGHTS).chmod(0o644)
        whole = replace(
            recipe,
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            tied=tied,
            sha256=_sha256(beside / WEIGHTS),
        )
        write_text(beside / RECIPE, json.dumps(plain(whole), allow_nan=False) + "\n")
        beside.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def receive_model(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a model that was saved elsewhere by the names of its files, whole or not at all.

    Raises StoreError for other files than recipe, weights and what an int8 model has besides.
    """
    if not {RECIPE, WEIGHTS} <= set(files) <= {RECIPE, WEIGHTS, INT8_FILE, INT8_REPORT}:
        raise StoreError(f"a model holds {RECIPE} and {WEIGHTS}, got {', '.join(sorted(files))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            (beside / name).write_bytes(content)
        beside.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def read_model(path: str | Path) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """A saved model's recipe and its full state dict.

    Raises StoreError where it is missing, damaged, or the weights are not those of the recipe.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    recipe = _recipe(folder)
    weights = folder / WEIGHTS
    check_regular(weights)
    try:
        if _sha256(weights) != recipe.sha256:
            raise StoreError(
                f"{weights} is not what {RECIPE} was written with (its sha256 differs) · the file "
                "was damaged or replaced: restore both"
            )
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{weights} cannot be read: {error}") from error
    unknown = [name for name in recipe.tied.values() if name not in tensors]
    if unknown:
        raise StoreError(f"{folder / RECIPE} is damaged: tied: {WEIGHTS} holds no {unknown[0]!r}")
    return recipe, {**tensors, **{alias: tensors[name] for alias, name in recipe.tied.items()}}


def _recipe(folder: Path) -> Recipe:
    file = folder / RECIPE
    if not is_model(folder):
        raise StoreError(f"{folder} holds no saved model (no {RECIPE})")
    content = read_json(file)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise StoreError(
            f"{file} must have format {FORMAT}, got {found!r} · it was written by another version "
            "of autoprune: save the model again with this one"
        )
    return checked(content, Recipe, str(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def untied(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors on the CPU, each memory once; and which others share it: name → theirs."""
    seen: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            tied[name] = seen[key]
        else:
            seen[key] = name
            tensors[name] = tensor.detach().to("cpu").clone().contiguous()
    return tensors, tied
