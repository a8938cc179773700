"""A task from a LightningModule and its data in one call; Lightning itself is not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import nn
from torch.utils.data import DataLoader

from autoprune.errors import TaskError
from autoprune.graph.replica import plain
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.failures import named
from autoprune.tasks.lightning_steps import Validation, own, training_loss
from autoprune.tasks.nested import first_sample
from autoprune.tasks.wrap import Evaluate, Inputs, wrap

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def wrap_lightning(
    module: nn.Module,
    data: Any = None,
    *,
    metric: str,
    direction: Literal["maximize", "minimize"] = "maximize",
    evaluate: Evaluate | None = None,
    inputs: Inputs | None = None,
    example_input: Any = None,
    ignored_layers: tuple[str, ...] = (),
    num_heads: Mapping[str, int] | None = None,
) -> Task:
    """A task of a trained LightningModule, or of a module with such methods.

    The loss is that of `training_step(batch, batch_idx)`, a scalar or a mapping with `loss`;
    metrics are what `validation_step` and `on_validation_epoch_start` and `_end` log, on the test
    split too. No Trainer runs: steps that need one fail, and no other hook is called. The latency
    is that of `forward`, which must use all layers that a smaller model shall share with the steps.

    Args:
        module: the trained module; it is copied and never changed.
        data: a LightningDataModule, of which `prepare_data` and `setup` are called; or
            `(train_loader, val_loader)`, and a test loader as third; by default the module's own
            `train_dataloader()`, `val_dataloader()` and `test_dataloader()`.
        metric: the name under which the metric is logged that the search optimizes.
        direction: "maximize" or "minimize" that metric.
        evaluate: `evaluate(model, loader)` instead of `validation_step`, as for `wrap`.
        inputs: `inputs(batch)`, what `forward` is called with; by default the first of a pair, or a
            mapping without its `labels`.
        example_input: one input; by default the first of `module.example_input_array`, or of the
            first validation batch.
        ignored_layers: module paths whose outputs are not pruned.
        num_heads: attention module path -> number of heads.

    Raises TaskError where a method or a loader is missing, or an argument does not fit.
    """
    module = _checked(module, evaluate)
    train, val, test = _loaders(module, data)
    given = getattr(module, "example_input_array", None)
    if example_input is None and given is not None:
        example_input = first_sample(given)
    steps = Validation()
    task = wrap(
        module,
        train,
        val,
        test_loader=test,
        batch_loss=training_loss,
        inputs=inputs,
        evaluate=evaluate or steps,
        metric=metric,
        direction=direction,
        example_input=example_input,
        ignored_layers=ignored_layers,
        num_heads=num_heads,
    )
    steps.build = task.build_model
    return task


def _checked(module: Any, evaluate: Evaluate | None) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise TaskError(f"wrap_lightning: module must be an nn.Module, got {type(module).__name__}")
    found: nn.Module = plain(module)
    wanted = ["forward", "training_step", *([] if evaluate else ["validation_step"])]
    missing = [name for name in wanted if own(found, name) is None]
    if missing:
        hint = " · or give evaluate=" if missing == ["validation_step"] else ""
        raise TaskError(
            f"wrap_lightning: {type(found).__name__} must define {', '.join(missing)}{hint}"
        )
    if not getattr(found, "automatic_optimization", True):
        raise TaskError(
            f"wrap_lightning: {type(found).__name__} optimizes by itself (automatic_optimization "
            "is False) · let training_step return the loss"
        )
    return found


def _loaders(module: nn.Module, data: Any) -> tuple[Any, Any, Any]:
    """Loaders of training, validation and test; None where there is no test split."""
    if isinstance(data, tuple | list):
        if len(data) not in (2, 3):
            raise TaskError(
                f"wrap_lightning: data must be (train_loader, val_loader) or have a test loader as "
                f"third, got {len(data)} of them"
            )
        return data[0], data[1], data[2] if len(data) == 3 else None
    holder = module if data is None else data
    hooks = [own(holder, name) for name in _LOADERS]
    if hooks[0] is None or hooks[1] is None:
        raise TaskError(
            "wrap_lightning: data must be a LightningDataModule or (train_loader, val_loader), got "
            f"{'none, and the module has no loaders' if data is None else type(data).__name__}"
        )
    if data is not None:
        _set_up(data, with_test=hooks[2] is not None)
    train, val, test = (
        None if hook is None else _one(hook, name)
        for hook, name in zip(hooks, _LOADERS, strict=True)
    )
    return train, val, test


def _set_up(holder: Any, *, with_test: bool) -> None:
    name = type(holder).__name__
    if prepare := own(holder, "prepare_data"):
        with named(f"{name}.prepare_data"):
            prepare()
    if setup := own(holder, "setup"):
        for stage in ("fit", *(["test"] if with_test else [])):
            with named(f"{name}.setup", f"for {stage!r}"):
                setup(stage)


def _one(hook: Callable[[], Any], name: str) -> Iterable[Batch]:
    """The loader that a hook gives. Raises TaskError for several."""
    with named(name):
        found = hook()
    if isinstance(found, list | tuple) and found and isinstance(found[0], DataLoader):
        if len(found) > 1:
            raise TaskError(
                f"wrap_lightning: {name} gives {len(found)} loaders · give data=(train_loader, "
                "val_loader) with the one that counts"
            )
        return found[0]
    return found  # type: ignore[no-any-return]
