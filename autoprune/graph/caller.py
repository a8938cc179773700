"""What the model's own code calls, seen before it becomes operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from autoprune.graph.given import meet_norm, seen

if TYPE_CHECKING:
    from autoprune.graph.flow import Flow


class Caller(TorchFunctionMode):
    """Tells the flow which function the model's own code called."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function with its name known."""
        kwargs = kwargs or {}
        flow, name = self._flow, str(getattr(func, "__name__", ""))
        before = flow.caller, flow.arguments
        flow.caller, flow.arguments = name, (args, kwargs)
        try:
            result = seen(flow, func, args, func(*args, **kwargs))
            if name in ("layer_norm", "rms_norm") and isinstance(result, Tensor):
                meet_norm(flow, args, kwargs, flow.known_labels(result))
            return result
        finally:
            flow.caller, flow.arguments = before
