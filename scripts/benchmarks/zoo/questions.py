"""What is asked of every model after half of its units were pruned."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune._export import export_model
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import AutopruneError, ExportError
from autoprune.graph import PruningGraph
from autoprune.graph.outputs import answers_in
from autoprune.graph.trace import as_call
from autoprune.huggingface import save_hf
from autoprune.loading import load
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.pruning.configuration import is_configured
from autoprune.pruning.masks import masked
from autoprune.pruning.verification import prunable
from autoprune.space import kept_units
from autoprune.store.models import recipe_of, save_model
from autoprune.tasks.base import Task
from scripts.benchmarks.zoo.entry import Entry, Inputs

RATIO = 0.5


class Answers:
    """Answers so far, written to a file after each, so that a killed process leaves them."""

    def __init__(self, file: Path) -> None:
        self._file, self._held = file, {}

    def put(self, **values: object) -> None:
        self._held.update(values)
        self._file.write_text(json.dumps(self._held))

    def ask(self, name: str, question: Callable[[], object]) -> None:
        """The answer; where it fails, the error as `<name>_error`."""
        try:
            self.put(**{name: question()})
        except Exception as error:  # noqa: BLE001  whatever goes wrong is the answer
            self.put(**{name: None, f"{name}_error": said(error)})


def said(error: Exception) -> str:
    """The kind of an error, and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def ours(entry: Entry, answers: Answers, folder: Path) -> None:
    """Every question, of a model pruned by this package."""
    dense, example = entry.model(), entry.example()
    start = time.perf_counter()
    graph = prunable(dense, example)
    answers.put(trace_s=time.perf_counter() - start, **_counts(graph))
    start = time.perf_counter()
    widths = {name: kept_units(size, RATIO, 1) for name, size in graph.sizes().items()}
    scores = importance.scores(dense, graph, "l2")
    built = build(dense, graph, Architecture(widths), scores=scores)
    small = built.model.eval()
    answers.put(prune_s=time.perf_counter() - start)
    answers.put(drop=1 - size_of(small) / size_of(dense))
    answers.ask("forward", lambda: shapes(small, example) == shapes(dense, example))
    answers.ask("equal", lambda: _difference_to_masked(dense, graph, built.kept_indices, example))
    saved = folder / "model"
    candidate = Candidate(Architecture(widths))
    recipe = recipe_of(candidate, built.kept_indices | _whole(graph, widths), task="zoo")

    def loaded() -> float:
        save_model(saved, small, recipe)
        again = load(saved, task=_ZooTask(entry))
        return difference(outputs(again, example), outputs(small, example))

    answers.ask("loaded", loaded)
    if is_configured(small):
        answers.ask("saved_hf", lambda: _saved_hf(small, example, folder))
    answers.ask("onnx", lambda: exported(small, dense, example, folder))
    answers.ask("backward", lambda: trains(small, example))


def _saved_hf(small: nn.Module, example: Inputs, folder: Path) -> str:
    """Whether `from_pretrained` reads the model, or only `load_hf`; either was compared."""
    return "config" if save_hf(small, folder / "hf", example).has_config else "recipe"


def _whole(graph: PruningGraph, widths: dict[str, int]) -> dict[str, tuple[int, ...]]:
    sizes = graph.sizes()
    return {name: tuple(range(n)) for name, n in sizes.items() if widths[name] == n}


def _counts(graph: PruningGraph) -> dict[str, object]:
    reasons: Counter[str] = Counter()
    for frozen in graph.frozen:
        if frozen.reason != "model output":
            reasons[f"{frozen.name}: {frozen.reason}"] += frozen.size
    most = "; ".join(reason for reason, _ in reasons.most_common(2))
    return {"groups": len(graph.groups), "blocks": len(graph.blocks), "frozen": most[:300]}


def outputs(model: nn.Module, example: Inputs) -> list[Tensor]:
    """What the model answers in eval mode."""
    args, kwargs = as_call(example)
    torch.manual_seed(0)
    with torch.no_grad():
        return answers_in(model(*args, **kwargs))


def shapes(model: nn.Module, example: Inputs) -> list[tuple[int, ...]]:
    """The shapes of the answers."""
    return [tuple(tensor.shape) for tensor in outputs(model, example)]


def size_of(model: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def difference(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """The largest difference over the largest output; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.is_floating_point() and a.numel():
            finite = torch.isfinite(a) & torch.isfinite(b)
            spread = float(b[finite].abs().max()) if bool(finite.any()) else 0.0
            gap = float((a - b)[finite].abs().max()) if bool(finite.any()) else 0.0
            worst = max(worst, gap / max(spread, 1e-12))
    return worst


def _difference_to_masked(
    dense: nn.Module, graph: PruningGraph, kept: dict[str, tuple[int, ...]], example: Inputs
) -> float:
    """In float64, so that only real differences are left.

    In float32 where the dense model has an operator without float64 (`grouped_mm`).
    """
    small = build(
        dense,
        graph,
        Architecture({name: len(units) for name, units in kept.items()}),
        kept_indices=kept,
    ).model
    same = masked(dense, graph, kept)
    if not _runs_in_float64(dense, example):
        return difference(outputs(small, example), outputs(same, example))
    wide = _double(example)
    return difference(outputs(small.double(), wide), outputs(same.double(), wide))


def _runs_in_float64(dense: nn.Module, example: Inputs) -> bool:
    try:
        outputs(copy.deepcopy(dense).double(), _double(example))
    except RuntimeError as error:
        if "float64" in str(error) or "double" in str(error).lower():
            return False
        raise
    return True


def _double(example: Inputs) -> Inputs:
    def wide(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.double() if is_float else value

    if isinstance(example, dict):
        return {name: wide(value) for name, value in example.items()}
    return tuple(map(wide, example)) if isinstance(example, tuple) else wide(example)


DENSE_TOO = "not even the dense model can be exported"


def exported(small: nn.Module, dense: nn.Module, example: Inputs, folder: Path) -> float:
    """The difference in ONNX Runtime; ExportError that says so where the dense model fails too."""
    try:
        return export_model(small, folder / "small.onnx", example).difference
    except AutopruneError as error:
        try:
            export_model(dense, folder / "dense.onnx", example)
        except AutopruneError as other:
            raise ExportError(DENSE_TOO) from other
        raise error from error.__cause__


def trains(model: nn.Module, example: Inputs) -> bool:
    """A backward pass in training mode gives finite gradients."""
    args, kwargs = as_call(example)
    model.train()
    floats = [t for t in answers_in(model(*args, **kwargs)) if t.is_floating_point()]
    sum(tensor.square().mean() for tensor in floats).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(found) and all(bool(torch.isfinite(gradient).all()) for gradient in found)


class _ZooTask(Task):
    """What `load` needs to know of a model."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def build_model(self) -> nn.Module:
        return self._entry.model()

    def example_input(self) -> Inputs:
        return self._entry.example()

    def train_loader(self, seed: int) -> list[object]:
        return []

    def val_loader(self) -> list[object]:
        return []

    def test_loader(self) -> list[object]:
        return []
