"""Feature distillation: attention maps of layers that the dense and the smaller model share.

Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017. A map has no channels, so
that models of different widths can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.graph import PruningGraph

Features = Mapping[str, Sequence[Tensor]]  # module path -> its output at each call


def feature_layers(graph: PruningGraph) -> tuple[str, ...]:
    """Paths of the modules whose outputs are compared: residual blocks, else layers with weights.

    The last layer is left out: its output is the model's.
    """
    blocks = [block.name for block in graph.blocks]
    if blocks:
        return tuple(blocks)
    layers = (name.rpartition(".")[0] for op in graph.ops if op.macs for name in op.parameters)
    return tuple(dict.fromkeys(layers))[:-1]


@contextmanager
def recorded(model: nn.Module, layers: Sequence[str]) -> Iterator[Features]:
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


def attention_distance(student: Features, teacher: Features) -> Tensor:
    """The mean squared distance of normalized attention maps, over layers and samples: 0 to 4.

    The map of an output is the sum of its squares over the channels: the dimension whose size
    differs, or the first after the batch. Outputs with fewer than three dimensions, or of another
    shape beyond that, are left out. Raises TaskError where nothing is left.

    >>> x = torch.rand(2, 3, 4, 4)
    >>> attention_distance({"conv": [x[:, :2]]}, {"conv": [x[:, :2] * 5]}).item() < 1e-6
    True
    """
    found = [
        distance
        for name, outputs in student.items()
        for one, other in zip(outputs, teacher.get(name, ()), strict=False)
        if (distance := _distance(one, other)) is not None
    ]
    if not found:
        raise TaskError(
            "recovery.features needs layers whose outputs have positions (three dimensions and "
            "more), and there are none · set it to 0"
        )
    return torch.stack(found).mean()


def _distance(student: Tensor, teacher: Tensor) -> Tensor | None:
    if student.dim() != teacher.dim() or student.dim() < 3:
        return None
    differing = [at for at in range(student.dim()) if student.shape[at] != teacher.shape[at]]
    if len(differing) > 1 or 0 in differing:
        return None
    channels = differing[0] if differing else 1
    one, other = (_map(x, channels) for x in (student, teacher))
    return (one - other).square().sum(1).mean()


def _map(x: Tensor, channels: int) -> Tensor:
    return F.normalize(x.float().square().sum(channels).flatten(1), dim=1)
