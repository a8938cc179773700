"""What two models answer to the same inputs, and whether it is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.graph.mode import Mode
from autoprune.graph.outputs import answers_in, tensors_in
from autoprune.graph.replica import replica
from autoprune.graph.trace import Inputs, as_call, set_training, untouched

TOLERANCE = 1e-5
"""How far answers may lie apart in double precision, of the largest one."""

_ROUNDED = 1e-3
"""The same for models that only run in their own precision."""

_MOST_ELEMENTS = 1 << 28
"""The largest model that is converted to double precision (2 GiB)."""

_TINY = 1e-12

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Comparison:
    """Answers of copies of one model to its example, and to random numbers in place of a constant.

    Zeros or ones may hide a difference, such as one in the scale of attention. Of a model that
    only answers with integers, what these were decided by is compared, too.
    """

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        self._calls = [as_call(example_inputs)]
        self._decides = False
        if (drawn := _drawn(self._calls[0])) is not None and _is_sound(model, drawn):
            self._calls.append(drawn)

    def answers(self, model: nn.Module, *, double: bool = False) -> list[Tensor]:
        """All answers of a model; in double precision without a change of the model."""
        calls = self._calls
        if double:
            model, calls = replica(model).double(), [_doubled(call) for call in calls]
        found = [tensor for call in calls for tensor in _run(model, call)]
        if any(map(_has_fraction, found)):
            return found
        self._decides, decisions = True, _Decisions()
        with decisions:
            found = [tensor for call in calls for tensor in _run(model, call)]
        return found + decisions.read

    def differ(
        self, small: nn.Module, masked: nn.Module, got: list[Tensor], wanted: list[Tensor]
    ) -> bool:
        """Whether two models that gave these answers are different, in double precision if needed.

        In their own precision the difference may be one of rounding, or hide in it.
        """
        apart = self._gap(got, wanted)
        if apart <= TOLERANCE:
            return False
        if sum(parameter.numel() for parameter in masked.parameters()) > _MOST_ELEMENTS:
            return apart > _ROUNDED
        try:
            answers = [self.answers(model, double=True) for model in (small, masked)]
        except Exception:  # noqa: BLE001  code that asks for a precision may fail in any way
            return apart > _ROUNDED
        return self._gap(*answers) > TOLERANCE

    def _gap(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        if not self._decides:
            return gap(got, wanted)
        shapes = [[t.shape for t in held if not _has_fraction(t)] for held in (got, wanted)]
        if shapes[0] != shapes[1]:
            return math.inf
        pairs = zip(got, wanted, strict=False)  # what has pruned channels differs in shape
        alike = [(one, other) for one, other in pairs if one.shape == other.shape]
        return gap([one for one, _ in alike], [other for _, other in alike])


class _Decisions(Mode):  # type: ignore[no-untyped-call]
    """Copies of the numbers that calls with integer or Boolean results read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the call."""
        read = [t for t in tensors_in((args, kwargs)) if _has_fraction(t)]
        before = [tensor.clone() for tensor in read]
        result = func(*args, **(kwargs or {}))
        made = tensors_in(result)
        if made and not any(map(_has_fraction, made)):
            self.read += before
        return result


def gap(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference, of the largest wanted number of its tensor; integers do not count.

    Infinite where shapes differ, or where a wanted number is finite and the other is not.

    >>> gap([torch.tensor([1.0, 2.5])], [torch.tensor([1.0, 2.0])])
    0.25
    """
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in wanted]:
        return math.inf
    return max((_apart(one, other) for one, other in zip(got, wanted, strict=True)), default=0.0)


def _apart(got: Tensor, wanted: Tensor) -> float:
    if not _has_fraction(wanted) or not _has_fraction(got):
        return 0.0
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (got, wanted))
    a, b = a.double(), b.double()
    finite = torch.isfinite(b)
    if not bool(finite.any()):
        return 0.0
    most = float((a - b).abs()[finite].max())
    if math.isnan(most):
        return math.inf
    return 0.0 if most <= _TINY else most / max(float(b[finite].abs().max()), _TINY)


def _has_fraction(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def run(model: nn.Module, example_inputs: Inputs, *, training: bool = False) -> list[Tensor]:
    """The answers of a model, whose mode and state are restored."""
    return _run(model, as_call(example_inputs), training=training)


def _run(model: nn.Module, call: Arguments, *, training: bool = False) -> list[Tensor]:
    args, kwargs = call
    with untouched(model):
        if training:
            set_training(model)
        else:
            model.eval()
        return answers_in(model(*args, **kwargs))


def _is_sound(model: nn.Module, call: Arguments) -> bool:
    """Whether a model runs on these inputs, with finite answers."""
    try:
        return all(bool(torch.isfinite(tensor).all()) for tensor in _run(model, call))
    except Exception:  # noqa: BLE001  code may refuse random inputs in any way
        return False


def _drawn(call: Arguments) -> Arguments | None:
    """The inputs with random numbers in place of constant ones; None where none is constant."""
    generator = torch.Generator().manual_seed(0)
    replaced = []

    def random(tensor: Tensor) -> Tensor:
        dense = tensor.layout is torch.strided and not tensor.is_nested
        if not dense or not tensor.is_floating_point() or tensor.numel() < 2:
            return tensor
        if int((tensor == tensor.flatten().median()).sum()) * 2 <= tensor.numel():
            return tensor
        replaced.append(tensor)
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    result: Arguments = pytree.tree_map_only(Tensor, random, call)
    return result if replaced else None


def _doubled(call: Arguments) -> Arguments:
    result: Arguments = pytree.tree_map_only(
        Tensor, lambda x: x.double() if x.is_floating_point() else x, call
    )
    return result
