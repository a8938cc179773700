"""Dropping blocks from a model, in place.

The modules of a dropped branch are replaced by `Removed`, which computes nothing and returns
`Nothing`: an object that is neutral in sums and absorbs every other operation. In the model's own
code `x + branch(x)` is then just `x`: no zero is added, in PyTorch or in what is exported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from autoprune.graph import PruningGraph
from autoprune.graph.blocks import ADDITIONS, Slot
from autoprune.graph.mode import Mode, name_of
from autoprune.graph.outputs import answers_in
from autoprune.graph.replica import replica
from autoprune.graph.trace import Inputs, as_call, set_training, untouched, without_mkldnn
from autoprune.graph.types import Block, Structure
from autoprune.pruning.bisection import faults
from autoprune.pruning.comparison import gap
from autoprune.pruning.nothing import Nothing, nothing

TOLERANCE = 1e-4
"""How far outputs without a block may lie from those of the dense model around it, relative."""

_PLAIN = (bool, int, float, str, type(None))


class Removed(nn.Module):
    """In place of a module whose block was dropped: no parameters, no computation.

    Plain attributes (numbers, flags, names) are kept, since a model's code may ask for them; for
    the type and the device of its weights `nothing` stands, which follows `to`.
    """

    def __init__(self, module: nn.Module, structure: Structure) -> None:
        """`structure` is what `module` returned, with `Slot` for tensors."""
        super().__init__()
        for name, value in vars(module).items():
            if isinstance(value, _PLAIN) and name != "training":
                setattr(self, name, value)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                self.register_parameter(name, None)
            else:
                setattr(self, name, nothing(tensor.dim(), tensor.dtype, tensor.device))
        like = next((p for p in module.parameters() if p.is_floating_point()), _USUAL)
        self._result = _stands_in(structure, like)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing, in the structure of what was returned before."""
        return self._result

    def _apply(self, fn: Any, recurse: bool = True) -> Removed:
        """What `to`, `half` and `cuda` do."""
        for name, value in vars(self).items():
            if isinstance(value, Nothing):
                vars(self)[name] = _moved(value, fn)
        self._result = pytree.tree_map_only(Nothing, lambda x: _moved(x, fn), self._result)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


_USUAL = torch.empty(0)


def _stands_in(structure: Structure, like: Tensor) -> Any:
    """A module's output with `nothing` for tensors."""
    return pytree.tree_map_only(
        (Slot, Nothing), lambda x: nothing(x.ndim, like.dtype, like.device), structure
    )


def _moved(value: Nothing, fn: Any) -> Nothing:
    """It where `fn` would put a tensor."""
    tensor = fn(torch.empty(0, dtype=value.dtype, device=value.device))
    return nothing(value.ndim, tensor.dtype, tensor.device)


def drop(
    model: nn.Module,
    graph: PruningGraph,
    dropped: Iterable[str],
    *,
    optimizer: Optimizer | None = None,
) -> PruningGraph:
    """Remove the named blocks from `model`, in place; returns the graph of the result.

    Their parameters are removed from the `optimizer`, too. Raises GraphError for a block that the
    graph does not have.
    """
    names = tuple(dropped)
    smaller = graph.without(names)
    before = {id(parameter) for parameter in model.parameters()}
    for name in names:
        _remove(model, graph.block(name))
    _renumber(model)
    removed = before - {id(parameter) for parameter in model.parameters()}
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            if id(parameter) in removed and optimizer is not None:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) not in removed]
    return smaller


def _remove(model: nn.Module, block: Block) -> None:
    for path, structure in block.modules:
        parent, _, leaf = path.rpartition(".")
        home, module = _module_at(model, parent), _module_at(model, path)
        if home is not None and module is not None:  # else an outer block was removed before
            home._modules[leaf] = Removed(module, structure)
            if isinstance(home, nn.TransformerEncoderLayer):
                home.activation_relu_or_gelu = 0  # its fused kernel needs all weights
    for name in block.loose:
        parent, _, leaf = name.rpartition(".")
        home = _module_at(model, parent)
        if home is not None:
            tensor = getattr(home, leaf)
            for held in (home._parameters, home._buffers):
                held.pop(leaf, None)
            setattr(home, leaf, nothing(tensor.dim(), tensor.dtype, tensor.device))


def _module_at(model: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = model
    for name in path.split(".") if path else ():
        children = found._modules if found is not None else {}
        found = children[name] if name in children else None  # noqa: SIM401  of torch.jit: no get
    return found


def _renumber(model: nn.Module) -> None:
    """Places in a decoder's cache (`layer_idx`) without gaps, where layers that had one are gone.

    The length of what a cache holds is asked of its first place. Kinds of layers that share the
    places among them (each has some) keep theirs.
    """
    kinds: dict[str, list[tuple[int, nn.Module]]] = defaultdict(list)
    for path, module in model.named_modules():
        index = vars(module).get("layer_idx")
        if type(index) is int:
            kinds[re.sub(r"\d+", "#", path)].append((index, module))
    for held in kinds.values():
        if sorted(index for index, _ in held) == list(range(len(held))):
            left = sorted((n for n in held if not isinstance(n[1], Removed)), key=lambda n: n[0])
            for now, (_, module) in enumerate(left):
                module.layer_idx = now  # type: ignore[assignment]


def verify_blocks(model: nn.Module, graph: PruningGraph, example: Inputs) -> PruningGraph:
    """The graph with only those blocks that can be dropped with correct outputs.

    Dropped together, then kind by kind where that fails (see `faults`), the outputs must be those
    of the dense model with the same additions left out, and the model must still run in training
    mode if it did. The model itself is not changed.
    """
    if not graph.blocks:
        return graph
    model = replica(model)
    trains = _runs_in_training(model, example)
    good: list[str] = []

    def accept(names: list[str]) -> str:
        if not _is_right(model, graph, [*good, *names], example, trains=trains):
            return "the model does not run as it should without it"
        good.extend(names)
        return ""

    faults([block.name for block in graph.blocks], accept)
    return replace(graph, blocks=tuple(b for b in graph.blocks if b.name in good))


def _is_right(
    model: nn.Module, graph: PruningGraph, names: Sequence[str], example: Inputs, *, trains: bool
) -> bool:
    small = replica(model, shared=True)
    additions = {graph.block(name).addition: graph.block(name) for name in names}
    try:
        drop(small, graph, names)
        got = _outputs(small, example)
        with _Skipping(graph, additions):
            wanted = _outputs(model, example)
    except Exception:  # noqa: BLE001  a model may do anything with a missing branch
        return False
    if gap(got, wanted) > TOLERANCE:
        return False
    return not trains or _runs_in_training(small, example)


class _Skipping(Mode):  # type: ignore[no-untyped-call]
    """Runs the dense model with some of its additions left out.

    The operand that remains is copied to where the sum would be: with other strides PyTorch might
    choose other calls for what follows, and additions are known by their place among the calls.
    """

    def __init__(self, graph: PruningGraph, additions: Mapping[int, Block]) -> None:
        super().__init__()
        sums = [call for call, op in enumerate(graph.ops) if op.name in ADDITIONS]
        self._places = {place: additions[c] for place, c in enumerate(sums) if c in additions}
        self._graph, self._count = graph, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the call; of a skipped sum, the operand that remains."""
        name = name_of(func).removeprefix("aten::")
        if name not in ADDITIONS:
            return func(*args, **(kwargs or {}))
        block = self._places.get(self._count)
        self._count += 1
        if block is None:
            return func(*args, **(kwargs or {}))
        left = args[self._graph.ops[block.addition].inputs.index(block.left)]
        out = args[0] if name.endswith("_") else func(*args, **(kwargs or {}))
        return out.copy_(left)


def _outputs(model: nn.Module, example: Inputs) -> list[Tensor]:
    args, kwargs = as_call(example)
    with untouched(model), without_mkldnn():
        model.eval()
        return [tensor.clone() for tensor in answers_in(model(*args, **kwargs))]


def _runs_in_training(model: nn.Module, example: Inputs) -> bool:
    args, kwargs = as_call(example)
    with untouched(model):
        set_training(model)
        try:
            model(*args, **kwargs)
        except Exception:  # noqa: BLE001  as above
            return False
    return True
