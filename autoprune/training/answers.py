"""Outputs of the teacher that are computed once and used by all trainings that see the same batch.

Trainings with one seed see the same batches in the same order, augmentation included, so all trials
of a search ask the teacher the same. For a small student its forward pass is about half of a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.tasks.nested import attributes, mapped
from autoprune.training.precision import Call, Precision

LIMIT = 256 * 2**20  # bytes of one process: 10 classes, 6 million images


class Answers:
    """A bounded cache of what one teacher answers, keyed by the content of its inputs.

    Only inputs on a CPU that consist of tensors and plain values are looked up; everything else is
    computed each time, and so is an answer that was written into. When `limit` bytes are full
    nothing is added: the first batches are what every training begins with.

    >>> answers, call = Answers(), Call((torch.ones(2, 3),), {}, None)
    >>> answers.of(call, Precision(), lambda: torch.zeros(2))
    tensor([0., 0.])
    >>> answers.of(call, Precision(), lambda: torch.ones(2))
    tensor([0., 0.])
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._left = limit
        self._known: dict[bytes, tuple[Any, list[int]]] = {}  # with the tensors' versions

    def of(self, call: Call, precision: Precision, compute: Callable[[], Any]) -> Any:
        """The answer to the inputs of `call`, computed in `precision` where it is not known."""
        key = _digest((call.args, call.kwargs), precision)
        if key is None:
            return compute()
        known, versions = self._known.get(key, (None, [-1]))
        if versions == _versions(known):
            return known
        answer = compute()
        size = 0 if key in self._known else _bytes_of(answer)
        if size <= self._left:
            self._known[key], self._left = (answer, _versions(answer)), self._left - size
        return answer


class _UnknownError(Exception):
    """A value whose content cannot be told."""


def _digest(inputs: Any, precision: Precision) -> bytes | None:
    """A hash of the content of a nest; None where it holds more than tensors and plain values."""
    found = hashlib.blake2b(repr(precision).encode(), digest_size=16)
    try:
        _add(found.update, inputs)
    except _UnknownError:
        return None
    return found.digest()


def _add(update: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        if type(value) is not Tensor or value.device.type != "cpu" or value.layout != torch.strided:
            raise _UnknownError
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, Mapping):
        update(f"{type(value).__name__}{{{list(value)!r}".encode())
        _each(update, value.values())
    elif isinstance(value, tuple | list):
        update(f"{type(value).__name__}[{len(value)}".encode())
        _each(update, value)
    elif (named := attributes(value)) is not None:
        _add(update, {"": type(value).__qualname__, **named})
    else:
        raise _UnknownError


def _each(update: Callable[[Any], None], values: Any) -> None:
    for value in values:
        _add(update, value)


def _tensors(answer: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(add, answer)
    return found


def _versions(answer: Any) -> list[int]:
    """How often each tensor was changed: a loss may write into what it is given."""
    return [tensor._version for tensor in _tensors(answer)]


def _bytes_of(answer: Any) -> int:
    """What an answer keeps in memory."""
    return sum(tensor.untyped_storage().nbytes() for tensor in _tensors(answer))
