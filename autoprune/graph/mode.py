"""Modes that see the operators of a running model, also those with code of its own in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

_Result = TypeVar("_Result")


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode under which nothing is compiled.

    Operators such as `torch.cond` and flex attention are called with code, which PyTorch compiles
    even in eager mode. Under a mode this fails, and fails again without one. They are handed to
    the mode as they are; what their code calls is not seen.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._entered: list[ExitStack] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The default wraps the mode so that its first use imports the compiler (seconds)."""
        return False

    def __enter__(self) -> Self:
        """Switch the mode on; the outermost time without the compiler."""
        stack = ExitStack()
        if not self._entered:
            stack.enter_context(uncompiled())
        self._entered.append(stack)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Switch the mode off."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._entered.pop().close()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run eagerly what would be compiled; where that loads the compiler first, reset it."""
    if is_loaded():
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    try:
        yield
    finally:
        if is_loaded():
            torch._dynamo.reset()


def again_uncompiled(run: Callable[[], _Result]) -> _Result:
    """The result of a run under a mode, repeated if it was the first to load the compiler."""
    if not is_loaded():
        try:
            result = run()
        except Exception:
            if not is_loaded():
                raise
        else:
            if not is_loaded():
                return result
    return run()


def is_loaded() -> bool:
    """Whether the compiler has been imported, which takes seconds."""
    return "torch._dynamo" in sys.modules


def is_program(func: Any) -> bool:
    """Whether an operator is called with code (`torch.cond`)."""
    return isinstance(func, HigherOrderOperator)


def name_of(func: Any) -> str:
    """The name of an operator, `aten::add` for example; one that is called with code has no room.

    >>> name_of(torch.ops.aten.add.Tensor), name_of(torch.ops.higher_order.cond)
    ('aten::add', 'cond')
    """
    return str(func.name() if is_program(func) else func._schema.name)
