"""The functions that the model's own code calls, before they become operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from autoprune.graph.flow import Flow
from autoprune.graph.given import meet_norm, seen, settle
from autoprune.graph.numbers import note_numbers
from autoprune.graph.sizes import COMPUTING, LISTENER, Held, Seen


@contextmanager
def following(flow: Flow) -> Iterator[None]:
    """Context: the flow also sees the functions and comparisons of the model's code."""

    def compared(held: Held, size: Seen) -> None:
        settle(flow, held, size.label, len(size.label), {})

    token, other = LISTENER.set(compared), COMPUTING.set(flow.compute_with)
    try:
        with flow.following(), Caller(flow):
            yield
    finally:
        LISTENER.reset(token)
        COMPUTING.reset(other)


class Caller(TorchFunctionMode):
    """Reports to the flow which function the model's code called."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, with its name known to the flow."""
        kwargs = kwargs or {}
        flow, name = self._flow, str(getattr(func, "__name__", ""))
        before = flow.caller, flow.arguments
        flow.caller, flow.arguments = name, (args, kwargs)
        try:
            result = seen(flow, func, args, func(*args, **kwargs))
            if name in ("layer_norm", "rms_norm") and isinstance(result, Tensor):
                meet_norm(flow, args, kwargs, flow.known_labels(result))
            note_numbers(flow, name, args, kwargs, result)
            return result
        finally:
            flow.caller, flow.arguments = before
