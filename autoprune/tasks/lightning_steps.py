"""The steps of a LightningModule without a Trainer: its training loss, and what it logs.

Nothing of Lightning is imported; a module is known by its methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.outputs import tensors_in

_PACKAGES = ("lightning", "pytorch_lightning")


def own(holder: Any, name: str) -> Callable[..., Any] | None:
    """A method that the user's class has; None for that of Lightning's or torch's base class."""
    found = getattr(type(holder), name, None)
    is_base = found is None or found is getattr(nn.Module, name, None)
    if is_base or found.__module__.partition(".")[0] in _PACKAGES:
        return None
    method: Callable[..., Any] = getattr(holder, name)
    return method


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


_REDUCTIONS: Mapping[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "mean": _mean,
    "avg": _mean,
    "sum": lambda values, weights: sum(values),
    "min": lambda values, weights: min(values),
    "max": lambda values, weights: max(values),
}


class Log:
    """What a module logs in an epoch, reduced as a Trainer does: means by the size of the batch.

    A logged metric object, such as torchmetrics', is computed at the end and reset.
    """

    def __init__(self) -> None:
        self.size = 1  # of the batch that is computed
        self._values: dict[str, list[Any]] = {}
        self._weights: dict[str, list[float]] = {}
        self._reduced: dict[str, str] = {}
        self._metrics: dict[str, Any] = {}

    def log(
        self,
        name: str,
        value: Any,
        *_: Any,
        reduce_fx: Any = "mean",
        batch_size: int | None = None,
        **__: Any,
    ) -> None:
        """As `LightningModule.log`; where and when it is shown does not matter here."""
        if callable(getattr(value, "compute", None)):
            self._metrics[name] = value
            return
        held = value.detach() if isinstance(value, Tensor) else value
        self._values.setdefault(name, []).append(held)
        self._weights.setdefault(name, []).append(float(batch_size or self.size))
        self._reduced[name] = reduce_fx if isinstance(reduce_fx, str) else reduce_fx.__name__

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """As `LightningModule.log_dict`."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def reduced(self) -> dict[str, float]:
        """One number a name. Raises TaskError for an unknown `reduce_fx`."""
        found = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for name, values in self._values.items():
            kind = self._reduced[name]
            if kind not in _REDUCTIONS:
                known = ", ".join(_REDUCTIONS)
                raise TaskError(f"log({name!r}): reduce_fx must be one of {known}, got {kind}")
            found[name] = _REDUCTIONS[kind]([float(v) for v in values], self._weights[name])
        return found

    def reset(self) -> None:
        """Begin logged metric objects again."""
        for metric in self._metrics.values():
            metric.reset()


def training_loss(module: nn.Module, batch: Any) -> Any:
    """What `training_step` gives for a batch; what it logs is dropped."""
    with _logging(module) as log:
        answer = _step(module, "training_step", batch, 0)
    log.reset()
    return answer


class Validation:
    """The metrics that `validation_step` and the hooks around its epoch log.

    `build` gives a module with these steps. It stands in for a model without them, such as an int8
    file: its `forward` is then that model's.
    """

    build: Callable[[], nn.Module]

    def __call__(self, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        """Of a whole split. Raises TaskError where the step does not call the module."""
        # Metric objects keep tensors, which could not be changed outside of inference mode
        with torch.inference_mode(False), torch.no_grad():
            if own(model, "validation_step") is not None:
                return _validated(model, loader)
            return self._of_outputs(model, loader)

    def _of_outputs(self, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        calls = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return model(*args, **kwargs)

        shell = self.build().eval()
        vars(shell)["forward"] = forward
        found = _validated(shell, loader)
        if not calls:
            raise TaskError(
                f"{type(shell).__name__}.validation_step must call self(...) for an int8 file to "
                "be judged · call it instead of a part of the module, or give evaluate="
            )
        return found


def _validated(module: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
    with _logging(module) as log:
        _hook(module, "on_validation_epoch_start")
        for index, batch in enumerate(loader):
            log.size = _size(batch)
            _step(module, "validation_step", batch, index)
        log.size = 1
        _hook(module, "on_validation_epoch_end")
    found = log.reduced()
    log.reset()
    return found


@contextmanager
def _logging(module: nn.Module) -> Iterator[Log]:
    """Inside, the module's `log` and `log_dict` need no Trainer."""
    log, names = Log(), ("log", "log_dict")
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    vars(module).update(log=log.log, log_dict=log.log_dict)
    try:
        yield log
    finally:
        for name in names:
            del vars(module)[name]
        vars(module).update(before)


def _step(module: nn.Module, name: str, batch: Any, index: int) -> Any:
    """A step with the index of its batch, where it takes one."""
    step = getattr(module, name)
    parameters = inspect.signature(step).parameters.values()
    takes = sum(it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD) for it in parameters)
    has_more = takes > 1 or any(it.kind is it.VAR_POSITIONAL for it in parameters)
    return step(batch, index) if has_more else step(batch)


def _hook(module: nn.Module, name: str) -> None:
    hook = own(module, name)
    if hook is not None:
        hook()


def _size(batch: Any) -> int:
    """The first dimension of the first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)
