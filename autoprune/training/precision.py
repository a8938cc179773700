"""The arithmetic of training: float32 or bfloat16 autocast, channels last or not, timed once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from autoprune.config.sections import Arithmetic
from autoprune.errors import DeviceError
from autoprune.graph.replica import replica
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.nested import mapped, to_device
from autoprune.tasks.on_batches import loss_of
from autoprune.training.batches import sample
from autoprune.training.rng import preserved, seed_all

_LOG = logging.getLogger(__name__)
_SPEEDUP = 1.15  # a lower precision, or another layout, has to be this much faster
_AGAIN = 2  # comparisons more
_TOO_SLOW = 3.0  # what is this much slower than float32 is not timed further
_VECTOR = 16  # the widest block of channels in oneDNN's kernels: AVX-512, float32


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model is trained: weights stay float32; `bf16` runs the forward pass under autocast.

    >>> Precision()
    Precision(bf16=False, channels_last=False)
    """

    bf16: bool = False
    channels_last: bool = False

    def suited(self, model: nn.Module, device: torch.device | str) -> Precision:
        """This arithmetic, without channels last where training `model` so is not safe.

        On a CPU, oneDNN's gradient of the weight of a strided 1x1 convolution writes past its
        workspace in that layout when there are fewer input channels than a vector holds
        (uxlfoundation/oneDNN issue 6035: crashes and wrong gradients). Pruning makes such layers.
        """
        if not self.channels_last or torch.device(device).type != "cpu":
            return self
        return replace(self, channels_last=not any(map(_is_unsafe, model.modules())))

    def place(self, model: nn.Module, device: torch.device | str) -> nn.Module:
        """Move `model` in place to the device and the memory layout, and return it."""
        model.to(device)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=layout)
        return model

    def batch(self, batch: Batch, device: torch.device | str) -> Batch:
        """The batch on the device, images (4-D tensors) in the memory layout."""
        moved = to_device(batch, device)
        return _channels_last(moved) if self.channels_last else moved

    def autocast(self, device: torch.device | str) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@dataclass(slots=True)
class Call:
    """One call of the watched model: what went in and what came out, in float32."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@contextmanager
def watched(
    model: nn.Module, precision: Precision, device: torch.device | str
) -> Iterator[list[Call]]:
    """Run every call of `model` inside under `precision`; yields the calls as they happen.

    Only the model's own forward is under autocast: a loss that is computed from its outputs
    sees float32.
    """
    calls: list[Call] = []
    contexts: list[AbstractContextManager[Any]] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        contexts.append(precision.autocast(device))
        contexts[-1].__enter__()

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        contexts.pop().__exit__(None, None, None)
        result = as_float32(output) if precision.bf16 else output
        calls.append(Call(args, kwargs, result))
        return result

    handles = (
        model.register_forward_pre_hook(enter),
        model.register_forward_hook(leave, with_kwargs=True, always_call=True),
    )
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def as_float32(value: Any) -> Any:
    """The same nest with every bfloat16 tensor as float32."""
    return mapped(lambda x: x.float() if x.dtype == torch.bfloat16 else x, value)


def choose(
    task: Task, model: nn.Module, device: torch.device | str = "cpu", *, steps: int = 3
) -> Precision:
    """Time a few real training steps in each arithmetic and take the fastest.

    Copies of `model` are trained for `steps` steps on one real batch (after one step to warm up).
    Plain float32 is given up only for what runs, is at least 15 % faster, again so in each of
    `_AGAIN` later comparisons (the first to be timed also warms up the machine, and other work may
    disturb any), and gives a finite loss. The answer is a plain value: choose once, hand it to
    every worker.
    """
    batch = sample(task, 0, samples=1, least=1)[0]

    def timed(option: Precision, limit: float = float("inf")) -> float:
        return _time(task, model, batch, option, torch.device(device), steps, limit)

    options = [Precision(False, False), Precision(False, True)]
    if _has_bf16(device):
        options += [Precision(True, False), Precision(True, True)]
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        options = [option for option in options if not option.channels_last]
    options = [option for option in options if option.suited(model, device) == option]
    best, fastest, plain = options[0], float("inf"), float("inf")
    for option in options:
        limit = _TOO_SLOW * plain
        try:
            seconds = timed(option, limit)
        except Exception as error:
            if option == options[0]:
                raise
            _LOG.info("training with %s fails: %s", option, error)
            continue
        _LOG.info("a training step with %s: %.2f ms", option, seconds * 1e3)
        plain = min(plain, seconds) if option == options[0] else plain
        if seconds < fastest and (option == options[0] or seconds * _SPEEDUP < plain):
            best, fastest = option, seconds
    if best == options[0]:
        return best
    holds = all(timed(best) * _SPEEDUP < timed(options[0]) for _ in range(_AGAIN))
    return best if holds else options[0]


def training_precision(
    arithmetic: Arithmetic, task: Task, model: nn.Module, device: torch.device | str = "cpu"
) -> Precision:
    """The arithmetic that a configuration asks for; `auto` times what is faster (`choose`).

    The others are the same on every machine: `float32` or `bfloat16`, in torch's usual layout.
    Raises DeviceError for `bfloat16` on a GPU without it.
    """
    if arithmetic == "auto":
        return choose(task, model, device)
    if arithmetic == "bfloat16" and not _has_bf16(device):
        raise DeviceError(
            "arithmetic: bfloat16, but this GPU has none · write arithmetic: float32 or auto"
        )
    return Precision(bf16=arithmetic == "bfloat16")


def training_device(train_on: str) -> str:
    """`cpu` or `cuda` for the configuration's `train_on`: `cpu`, `cuda` or `auto`.

    Raises DeviceError for `cuda` where there is none.
    """
    if train_on == "cuda" and not torch.cuda.is_available():
        raise DeviceError("train_on: cuda, but torch sees no CUDA device · write train_on: cpu")
    return "cuda" if train_on != "cpu" and torch.cuda.is_available() else "cpu"


def _time(
    task: Task,
    model: nn.Module,
    batch: Batch,
    option: Precision,
    device: torch.device,
    steps: int,
    limit: float,
) -> float:
    """Least seconds of a step; infinite where the loss is not finite or a step is too slow."""
    trained = option.place(replica(model), device).train()
    moved = option.batch(batch, device)
    optimizer = SGD(trained.parameters(), lr=0.0, momentum=0.9)
    seconds: list[float] = []
    with preserved():
        seed_all(0)
        for step in range(steps + 1):
            start = time.perf_counter()
            with watched(trained, option, device):
                loss = loss_of(task, trained, moved)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            finite = bool(torch.isfinite(loss))  # waits for the device
            taken = time.perf_counter() - start
            if not finite or taken > (limit if step else 2.0 * limit):  # the first one warms up
                return float("inf")
            if step:
                seconds.append(taken)
    return min(seconds)


def _is_unsafe(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < _VECTOR
    )


def _has_bf16(device: torch.device | str) -> bool:
    kind = torch.device(device).type
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_bf16_supported())


def _channels_last(value: Any) -> Any:
    layout = torch.channels_last
    return mapped(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x, value)
