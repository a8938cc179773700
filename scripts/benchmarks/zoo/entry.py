"""One model of the zoo: how it is built and what it is called with."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A model and its example inputs, drawn with a fixed seed.

    `floor` is the least share of the parameters that a pruning of half of all units must remove.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    floor: float = 0.25
    traits: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """Built and initialized anew, the same at every call, with random running statistics."""
        torch.manual_seed(0)
        return settled(self.build()).eval()

    def example(self) -> Inputs:
        """The same at every call."""
        torch.manual_seed(1)
        return self.inputs()


def settled(model: nn.Module) -> nn.Module:
    """Batch normalizations with statistics that differ by channel, as after some training."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model


def image(size: int, batch: int = 2) -> Callable[[], Tensor]:
    """Random images."""
    return lambda: torch.randn(batch, 3, size, size)


def allow_torchvision_without_operators() -> None:
    """Let torchvision be imported where its compiled operators do not fit this torch.

    Its models are Python; only the registration of shapes for those operators fails then.
    """
    name = "torchvision._meta_registrations"
    try:
        __import__(name)
    except ModuleNotFoundError:
        return
    except (RuntimeError, AttributeError):
        for found in [key for key in sys.modules if key.partition(".")[0] == "torchvision"]:
            del sys.modules[found]
        sys.modules[name] = types.ModuleType(name)
