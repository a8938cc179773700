"""Example inputs as call arguments, and models in eval mode for measuring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.errors import DeviceError
from autoprune.graph.calls import parts_of
from autoprune.graph.replica import replica, same_embeddings

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def as_call(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: a tensor is one argument, a mapping is keywords.

    >>> as_call({"x": 1})
    ((), {'x': 1})
    """
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def tensors(tree: Any) -> list[torch.Tensor]:
    """Every tensor in nested containers, in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def parts(found: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The same tensors, in place of a sparse one its indices and values."""
    return [part for tensor in found for part in parts_of(tensor)]


def bytes_of(found: Iterable[torch.Tensor]) -> int:
    """What these tensors take, shared memory once.

    >>> bytes_of([torch.zeros(3), torch.eye(4).to_sparse()])
    92
    """
    unique = {(t.untyped_storage()._cdata, t.storage_offset(), t.shape): t for t in parts(found)}
    return sum(tensor.nbytes for tensor in unique.values())


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """The values as ONNX Runtime takes them.

    Raises DeviceError for bfloat16, which NumPy and most of the runtime's kernels lack.

    >>> array_of(torch.tensor([2], dtype=torch.int32)).dtype.name
    'int32'
    """
    if tensor.dtype == torch.bfloat16:
        raise DeviceError(
            "ONNX Runtime takes no bfloat16, which the model's inputs have · build the model in "
            "float32 (arithmetic: bfloat16 trains it in both), or measure with device: "
            "{runtime: torch}"
        )
    found: NDArray[Any] = tensor.detach().cpu().numpy()
    return found


def batch_size(example_inputs: Inputs) -> int:
    """The first dimension of the first tensor; 1 where there is none."""
    found = [tensor for tensor in tensors(as_call(example_inputs)) if tensor.dim() > 0]
    return int(found[0].shape[0]) if found else 1


def batched(example_inputs: Inputs, batch: int) -> Inputs:
    """The same inputs, repeated along the first dimension of each tensor until they hold `batch`.

    Raises DeviceError where `batch` is no multiple of what the example holds.

    >>> batched(torch.zeros(1, 3), 4).shape
    torch.Size([4, 3])
    """
    have = batch_size(example_inputs)
    if batch % have:
        raise DeviceError(
            f"device.batch must be a multiple of the example input's batch ({have}), got {batch}"
        )

    def repeat(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != have:
            return leaf
        return leaf.repeat(batch // have, *([1] * (leaf.dim() - 1)))

    result: Inputs = pytree.tree_map(repeat, example_inputs)
    return result


def dtype_of(model: nn.Module) -> str:
    """The name of the model's first floating-point parameter's type, `float32` without any."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def moved(example_inputs: Inputs, device: torch.device | str) -> Inputs:
    """The same inputs on `device`, detached; other values are unchanged."""

    def move(leaf: Any) -> Any:
        return leaf.detach().to(device) if isinstance(leaf, torch.Tensor) else leaf

    result: Inputs = pytree.tree_map(move, example_inputs)
    return result


def frozen_copy(model: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """A copy of the model in eval mode on `device` that needs no gradients."""
    return replica(model).to(device).eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; each module's own mode and embeddings are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with same_embeddings(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
