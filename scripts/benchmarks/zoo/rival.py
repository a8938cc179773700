"""Torch-Pruning on the same models, as its documentation uses it."""

from __future__ import annotations

import time
from pathlib import Path

from torch import nn

from autoprune.graph import trace
from scripts.benchmarks.zoo.entry import Entry
from scripts.benchmarks.zoo.questions import (
    RATIO,
    Answers,
    exported,
    shapes,
    size_of,
    trains,
)

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")


def torch_pruning(entry: Entry, answers: Answers, folder: Path) -> None:
    """Half of every group by magnitude; layers that make the output are named to it, and heads."""
    import torch_pruning as tp

    dense, example = entry.model(), entry.example()
    small = entry.model()
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=_makers_of_outputs(small, entry),
        num_heads=_heads(small),
    )
    pruner.step()
    answers.put(tp_prune_s=time.perf_counter() - start, tp_drop=1 - size_of(small) / size_of(dense))
    small.eval()
    answers.ask("tp_forward", lambda: shapes(small, example) == shapes(dense, example))
    answers.ask("tp_onnx", lambda: exported(small, dense, example, folder))
    answers.ask("tp_backward", lambda: trains(small, example))


def _makers_of_outputs(model: nn.Module, entry: Entry) -> list[nn.Module]:
    frozen = trace(model, entry.example()).frozen
    names = {f.name for f in frozen if f.reason == "model output"}
    return [module for name, module in model.named_modules() if name in names]


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        counts = (getattr(module, name, None) for name in _HEADS)
        heads = next((count for count in counts if isinstance(count, int)), None)
        for name, child in module.named_children() if heads else ():
            if isinstance(child, nn.Linear) and name[0] in "qkv":
                found[child] = heads
    return found
