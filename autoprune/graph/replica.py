"""Copies of a model for inspection: the original is not changed, parameters included."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoprune.errors import GraphError
from autoprune.graph.mode import is_loaded
from autoprune.graph.outputs import tensors_in

_CONTAINERS = frozenset({dict, list, set, OrderedDict})
_OF_ANY_MODULE = frozenset(vars(nn.Module())) - {"_parameters", "_buffers"}


def replica(model: nn.Module, *, shared: bool = False) -> nn.Module:
    """A deep copy, also of a model that holds results of a forward pass.

    Non-leaf tensors (stored activations, weights computed by hooks) are copied detached, and sparse
    buffers in any layout; `copy.deepcopy` refuses them. With `shared` the parameters and buffers
    are those of the model: for a copy whose modules change, and no values.

    Raises GraphError for lazy layers whose sizes are not known yet.

    >>> net = nn.Linear(2, 2)
    >>> net.kept = net(torch.zeros(1, 2))
    >>> replica(net).kept.requires_grad
    False
    """
    memo: dict[int, Any] = {}
    held = [*model.parameters(), *model.buffers()]
    if any(map(is_lazy, held)):
        raise GraphError(_unsized(model))
    sparse = [buffer for buffer in model.buffers() if buffer.layout is not torch.strided]
    memo.update((id(buffer), buffer.detach().clone()) for buffer in sparse)
    if shared:
        memo.update((id(tensor), tensor) for tensor in held)
    seen: dict[int, Any] = {}  # a configuration is held by many modules
    for module in model.modules():
        memo.update(_empty_copies(module))
        for name, value in vars(module).items():
            if name in _OF_ANY_MODULE or seen.setdefault(id(value), module) is not module:
                continue
            for tensor in tensors_in(value):
                if not tensor.is_leaf and id(tensor) not in memo:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def _unsized(model: nn.Module) -> str:
    named = (*model.named_parameters(), *model.named_buffers())
    name = next(name for name, tensor in named if is_lazy(tensor))
    return (
        f"a model must know its sizes, got {type(model).__name__} whose {name} has none yet · call "
        "the model once on an example before"
    )


def check_module(model: object) -> None:
    """Raise GraphError for what is no `nn.Module` in Python: a program, or a function."""
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise GraphError(
            f"a model must be an nn.Module in Python, got a {type(model).__name__} · give the "
            "module from before torch.jit.script, torch.jit.trace or torch.export"
        )


def plain(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`. Raises GraphError for a program (see `check_module`)."""
    check_module(model)
    return plain(model._modules["_orig_mod"]) if _is_compiled(model) else model  # type: ignore[arg-type]


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def _empty_copies(module: nn.Module) -> dict[int, Any]:
    """A new container for each empty one, such as hooks, by its id.

    A module has a dozen of them: `copy.deepcopy` takes most of its time for them.
    """
    return {
        id(value): type(value)()
        for value in vars(module).values()
        if type(value) in _CONTAINERS and not value
    }


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Run compiled parts of the model eagerly, and all if the compiler is loaded."""
    compiled = is_loaded() or any(
        _is_compiled(module) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def same_embeddings(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving, what reading did to embeddings with `max_norm`: it scales the rows down."""
    limited = (nn.Embedding, nn.EmbeddingBag)
    found = [m for m in model.modules() if isinstance(m, limited) and m.max_norm is not None]
    before = [(module.weight, module.weight.detach().clone()) for module in found]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, rows in before:
                if not torch.equal(weight, rows):
                    weight.copy_(rows)


def plain_tensor(tensor: Tensor) -> Tensor:
    """The detached data of a tensor as a plain `torch.Tensor`."""
    found = tensor.detach()
    return found if type(found) is Tensor else found.as_subclass(Tensor)
