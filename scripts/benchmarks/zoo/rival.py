"""Torch-Pruning on the same models, called as its examples for such models call it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.outputs import answers_in
from scripts.benchmarks.zoo.entry import Entry
from scripts.benchmarks.zoo.questions import (
    RATIO,
    Answers,
    exported,
    said,
    shapes,
    size_of,
    trains,
)

NARROWER_HEADS: dict[str, Any] = {}
FEWER_HEADS = {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": RATIO}
_QUESTIONS = ("tp_forward", "tp_onnx", "tp_backward")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
_HEAD_SIZES = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
_WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "embed_dim", "hidden_size", "embedding_size")
_FUSED = ("qkv", "query_key_value")


def torch_pruning(entry: Entry, answers: Answers, folder: Path) -> None:
    """Half of every group by magnitude; in attention, the better of narrower and of fewer heads.

    It is told the layers that make the output, the numbers of heads (of keys and values, too), and
    which tensors the model returns. Sizes in attributes of attention modules are corrected
    afterwards, which it leaves to its users.
    """
    ways = [NARROWER_HEADS]
    if any(True for _ in _attentions(entry.model())):
        ways.append(FEWER_HEADS)
    found: list[dict[str, Any]] = []
    for place, way in enumerate(ways):
        here = folder / f"way-{place}"
        here.mkdir()
        found.append(_answers(entry, way, here))
        answers.put(**max(found, key=_right))


def _right(found: dict[str, Any]) -> int:
    return sum(found.get(name) not in (None, False) for name in _QUESTIONS)


def _answers(entry: Entry, way: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / "answers.json"
    answers = Answers(file)
    try:
        _prune_and_ask(entry, way, answers, folder)
    except Exception as error:  # noqa: BLE001  it is a result like any other
        answers.put(**{"torch-pruning_error": said(error)})
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _prune_and_ask(entry: Entry, way: dict[str, Any], answers: Answers, folder: Path) -> None:
    import torch_pruning as tp

    dense, example = entry.model(), entry.example()
    small = entry.model()
    heads = {layer: count for _, layer, count in _attentions(small)}
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=_makers_of_outputs(small, entry),
        num_heads=dict(heads),
        output_transform=_trained_tensors,
        **way,
    )
    before = {layer: layer.out_features for layer in heads}
    pruner.step()
    answers.put(tp_prune_s=time.perf_counter() - start, tp_drop=1 - size_of(small) / size_of(dense))
    for attention, layer, _ in _attentions(small):
        _correct(attention, layer, pruner.num_heads.get(layer, 0), before[layer])
    small.eval()
    answers.ask("tp_forward", lambda: shapes(small, example) == shapes(dense, example))
    answers.ask("tp_onnx", lambda: exported(small, dense, example, folder))
    answers.ask("tp_backward", lambda: trains(small, example))


def _trained_tensors(result: object) -> list[Tensor]:
    """What it can follow of an output: tensors that depend on parameters."""
    return [tensor for tensor in answers_in(result) if tensor.grad_fn is not None]


def _makers_of_outputs(model: nn.Module, entry: Entry) -> list[nn.Module]:
    frozen = trace(model, entry.example()).frozen
    names = {f.name for f in frozen if f.reason == "model output"}
    return [module for name, module in model.named_modules() if name in names]


def _attentions(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Linear, int]]:
    """Attention modules with each of their projections and its number of heads."""
    for module in model.modules():
        heads = _number(module, _HEADS)
        for name, child in module.named_children() if heads else ():
            if isinstance(child, nn.Linear) and name[0] in "qkv":
                is_key = name[0] in "kv" and name not in _FUSED
                yield module, child, (is_key and _number(module, _KEY_HEADS)) or heads


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    """A number that the module or its configuration holds under one of these names."""
    for holder in (module, getattr(module, "config", None)):
        counts = (getattr(holder, name, None) for name in names)
        if count := next((count for count in counts if isinstance(count, int)), 0):
            return count
    return 0


def _correct(attention: nn.Module, layer: nn.Linear, heads: int, before: int) -> None:
    """Sizes that the attention module holds, by a projection that was pruned."""
    name = next(name for name, child in attention.named_children() if child is layer)
    if not heads or (name[0] in "kv" and name not in _FUSED):
        return
    parts = 3 if name in _FUSED else 1
    width = layer.out_features // parts
    values = dict.fromkeys(_HEADS, heads) | dict.fromkeys(_HEAD_SIZES, width // heads)
    whole = {each: width for each in _WIDTHS if vars(attention).get(each) == before // parts}
    for attribute, value in {**values, **whole}.items():
        if isinstance(vars(attention).get(attribute), int):
            setattr(attention, attribute, value)
