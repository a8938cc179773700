"""Feature distillation: attention maps of layers that the dense and the smaller model share.

Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017. A map has no channels, so
that models of different widths can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.graph import PruningGraph

_MOVING = frozenset({"permute", "transpose", "t", "movedim"})  # other dimensions in another place
Features = Mapping[str, Sequence[Tensor]]  # module path -> its output at each call


def feature_layers(graph: PruningGraph) -> dict[str, int]:
    """The modules whose outputs are compared, by path, each with the dimension of its channels.

    Residual blocks, else layers with weights without the last one: its output is the model's. The
    dimension is the one that pruning narrows; of channels that are not prunable, that of the last
    convolution or linear layer inside. Modules of which neither tells are left out, and those
    whose outputs have no positions.
    """
    names = [block.name for block in graph.blocks]
    if not names:
        layers = (name.rpartition(".")[0] for op in graph.ops if op.macs for name in op.parameters)
        names = list(dict.fromkeys(layers))[:-1]
    found = {name: _channels(graph, name) for name in names}
    return {name: channels for name, channels in found.items() if channels is not None}


def _channels(graph: PruningGraph, path: str) -> int | None:
    """The dimension of the channels in a module's output; None where it is not known."""
    inside = [op for op in graph.ops if f"{op.layer}.".startswith(f"{path}.") and op.outputs]
    if not inside:
        return None
    dims = graph.tensors[inside[-1].outputs[0]].dims
    if len(dims) < 3:
        return None
    narrowed = [place for place, dim in enumerate(dims) if dim.per_unit]
    if narrowed:
        return narrowed[0] if len(narrowed) == 1 else None
    last = max((place for place, op in enumerate(inside) if op.macs), default=None)
    if last is None or any(op.name in _MOVING for op in inside[last:]):
        return None
    return 1 if "conv" in inside[last].name else len(dims) - 1


@contextmanager
def recorded(model: nn.Module, layers: Iterable[str]) -> Iterator[Features]:
    """Yields the outputs of the layers that the model has, as they come."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.is_floating_point():
                found[name].append(first)

        return hook

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(keep(name)) for name in layers if name in modules
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention_distance(student: Features, teacher: Features, channels: Mapping[str, int]) -> Tensor:
    """The mean squared distance of normalized attention maps, over layers and samples: 0 to 4.

    The map of an output is the sum of its squares over the channels, whose dimension `channels`
    has by module (see `feature_layers`). Outputs with fewer than three dimensions, or of another
    shape beyond that one, are left out. Raises TaskError where nothing is left.

    >>> x = torch.rand(2, 3, 4, 4)
    >>> student, teacher = {"conv": [x[:, :2]]}, {"conv": [x[:, :2] * 5]}
    >>> attention_distance(student, teacher, {"conv": 1}).item() < 1e-6
    True
    """
    found = [
        distance
        for name, outputs in student.items()
        for one, other in zip(outputs, teacher.get(name, ()), strict=False)
        if (distance := _distance(one, other, channels[name])) is not None
    ]
    if not found:
        raise TaskError(
            "recovery.features needs layers whose outputs have positions (three dimensions and "
            "more), and there are none · set it to 0"
        )
    return torch.stack(found).mean()


def _distance(student: Tensor, teacher: Tensor, channels: int) -> Tensor | None:
    if student.dim() != teacher.dim() or student.dim() < 3 or channels >= student.dim():
        return None
    differing = {at for at in range(student.dim()) if student.shape[at] != teacher.shape[at]}
    if not differing <= {channels}:
        return None
    one, other = (_map(x, channels) for x in (student, teacher))
    return (one - other).square().sum(1).mean()


def _map(x: Tensor, channels: int) -> Tensor:
    return F.normalize(x.float().square().sum(channels).flatten(1), dim=1)
