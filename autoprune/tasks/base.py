"""The interface of a user's task: the model, its data, its loss and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from copyreg import __newobj__  # type: ignore[attr-defined]  # what object.__reduce_ex__ names
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autoprune.errors import TaskError
from autoprune.tasks.batch_forms import call, inputs_and_targets, logits_of, part, takes_labels
from autoprune.tasks.dense import OnEpoch, train_from_scratch
from autoprune.tasks.failures import name_of, named
from autoprune.tasks.nested import attributes, device_of, first_sample, to_device, without_workers
from autoprune.tasks.origin import origin_of, revive

if TYPE_CHECKING:
    from autoprune.graph.types import Group

Batch = Any
Split = Literal["val", "test"]
_TEMPERATURE = 4.0  # Hinton, Vinyals & Dean 2015 use 2.5 to 20; 4 is usual on small image sets


class Task(ABC):
    """What a model is trained for. Write one small subclass with the four abstract methods.

    The defaults fit a classifier whose batches are `(inputs, targets)`, or mappings that are spread
    over the model's call and hold their targets under `labels`; the logits are the output itself
    or its `logits` (attribute or key), and a `loss` that the model computes from labels is the
    training loss, as with models of Hugging Face's transformers. Constructing a task must
    be cheap (load data when a loader is asked for): it is constructed again in every worker.

    Attributes:
        metric: the key of `evaluate` that the search optimizes.
        direction: "maximize" or "minimize".
        checkpoint: trained weights of the dense model, .safetensors or a torch state dict; a
            relative path is looked up beside the task's file, then beside the configuration.
        dense_epochs: without a checkpoint, the epochs of `train_dense`; 0 says that `build_model`
            returns trained weights already; None that a checkpoint is needed.
        dense_lr: the peak learning rate of the default `train_dense`.
        ignored_layers: module paths whose outputs are not pruned.
        num_heads: attention module path -> number of heads, where the model does not define it.

    >>> class Parity(Task):
    ...     dense_epochs = 2
    ...     def build_model(self):
    ...         return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    ...     def example_input(self):
    ...         return torch.zeros(1, 4)
    ...     def train_loader(self, seed):
    ...         x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    ...         return [(x, (x.sum(1) > 0).long())]
    ...     def val_loader(self):
    ...         return self.train_loader(1)
    ...     def test_loader(self):
    ...         return self.train_loader(2)
    >>> task = Parity()
    >>> sorted(task.evaluate(task.build_model(), "val"))
    ['accuracy', 'loss']
    """

    metric: str = "accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    checkpoint: str | Path | None = None
    dense_epochs: int | None = None
    dense_lr: float = 2e-3
    ignored_layers: tuple[str, ...] = ()
    num_heads: Mapping[str, int] | None = None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The dense architecture, freshly initialized; the same structure at every call."""

    def example_input(self) -> Any:
        """One input (batch 1): a tensor, a tuple of positional or a dict of keyword arguments.

        By default the first input of the first validation batch. Raises TaskError when there is
        none.
        """
        with named(f"{name_of(self)}.val_loader"):
            batch = next(iter(self.val_loader()), None)
        if batch is None:
            raise TaskError(f"{name_of(self)}: val_loader must hold at least one batch")
        return first_sample(self._pair(batch)[0])

    @abstractmethod
    def train_loader(self, seed: int) -> Iterable[Batch]:
        """Training batches, with `len`; another order and augmentation for each seed.

        A list of batches is read in an order drawn from the seed.
        """

    @abstractmethod
    def val_loader(self) -> Iterable[Batch]:
        """Validation batches, by which the search selects."""

    @abstractmethod
    def test_loader(self) -> Iterable[Batch]:
        """Test batches: read once per finished model, never used for selection."""

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """The output of `model` for the batch's inputs; lists and mappings are unpacked."""
        return call(model, self._pair(batch)[0])

    def importance(self, group: Group, weights: Any) -> Tensor:
        """The score of each unit of a group, `(size,)`; lowest first pruned: `importance: task`.

        `weights` are those of `pruning.importance.Weights`: parameters by `state_dict` name,
        gradients and scales of norms. Raises TaskError unless it is overridden.
        """
        raise TaskError(
            f"importance 'task' needs {name_of(self)}.importance(group, weights), which is "
            "not defined · define it, or use another importance"
        )

    def weight_importance(self, weight: Any) -> Tensor:
        """The score of each element of a weight, lowest first zero: `importance: task`, patterns.

        `weight` is a `pruning.weight_importance.SingleWeight`: the matrix `(outputs, inputs)` under
        `weight`, and what is known of its inputs. By default the magnitude.
        """
        found: Tensor = weight.weight.abs()
        return found

    def sparsity_score(self, weight: Tensor) -> Tensor:
        """Scores of a weight's elements, of its shape: `patterns.score: task`.

        Compared between weights: those with many low scores get the larger share of a sparsity.
        Raises TaskError unless it is overridden.
        """
        raise TaskError(
            f"patterns.score 'task' needs {name_of(self)}.sparsity_score(weight), which is "
            "not defined · define it, or use another score"
        )

    def removed_share(self, t: float) -> float:
        """The share of a gradual removal done at `t` of the way, in (0, 1]: `schedule.kind: task`.

        It never falls and is 1 at 1. Raises TaskError unless it is overridden.
        """
        raise TaskError(
            f"schedule.kind 'task' needs {name_of(self)}.removed_share(t), which is not defined "
            "· define it, or use another kind"
        )

    def regularize(
        self, model: nn.Module, pruned_units: Mapping[str, list[int]], share: float
    ) -> None:
        """Change weights in place after an optimization step: `recovery.penalty: task`.

        Called before a removal, without gradients. `pruned_units` are the units, by group, that
        are pruned next; the `share` of all calls until then adds up to `recovery.regularizer`.
        Raises TaskError unless it is overridden.
        """
        raise TaskError(
            f"recovery.penalty 'task' needs {name_of(self)}.regularize(model, pruned_units, "
            "share), which is not defined · define it, or use another penalty"
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar training loss; by default the cross-entropy of `(N, C, ...)` logits.

        Where the batch is a mapping and the model's output holds a `loss`, that one.
        """
        if isinstance(batch, Mapping) and takes_labels(model):
            output = model(**batch)
            own = part(output, "loss")
            if own is not None:
                return own
        else:
            output = self.outputs(model, batch)
        logits, targets = logits_of(output), self._pair(batch)[1]
        if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
            raise TaskError(
                f"{name_of(self)}: the default loss needs logits and targets, got "
                f"{_shape(logits)} and {_shape(targets)} · override loss(model, batch)"
            )
        return F.cross_entropy(logits, targets)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics over a whole split; by default accuracy in [0, 1] and the mean cross-entropy.

        Batches move to the model's device; the model's train or eval mode is left as it was. NaN
        outputs give a NaN loss, never an exception.
        """
        loader = self.split_loader(split)
        device = device_of(model)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.inference_mode():
                return self._accuracy(model, loader, device)
        finally:
            for module, training in modes:
                module.training = training

    def split_loader(self, split: Split) -> Iterable[Batch]:
        """`val_loader()` or `test_loader()`. Raises TaskError for another name."""
        if split not in ("val", "test"):
            raise TaskError(f"split must be 'val' or 'test', got {split!r}")
        return self.val_loader() if split == "val" else self.test_loader()

    def distillation_loss(self, student_out: Any, teacher_out: Any) -> Tensor:
        """How far the student's outputs are from the dense model's; 0 where they agree.

        `(N, C)` logits: T² KL(teacher ‖ student) at temperature T = 4 (Hinton, Vinyals & Dean
        2015), a mean over N. Other tensors: mean squared error. Nests (see `mapped`): the mean over
        their parts; of outputs with `logits`, these alone. Where one answers in parts and the other
        with a tensor (heads that are there in training only), the first part counts; other parts
        count where both have them. Raises TaskError where they have nothing in common.
        """
        common = _common(logits_of(student_out), logits_of(teacher_out))
        found = [_distance(student, teacher) for student, teacher in common]
        if not found:
            raise TaskError(
                f"{name_of(self)}: outputs in training and those of the dense model have "
                "nothing in common · override distillation_loss, or set recovery.distillation to 0"
            )
        return torch.stack(found).mean()

    def configure_optimizers(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> Optimizer | None:
        """The optimizer of recovery training; None (the default) for a built-in one.

        Any torch optimizer over parameters of `model` whose state is tensors and numbers, with
        parameter groups if wanted; the peak learning rate is what it is given here. With
        `recovery.optimizer: sgd` or `adamw` it is not called.
        """
        return None

    def configure_schedule(
        self, optimizer: Optimizer, steps: int, warmup: float
    ) -> LRScheduler | None:
        """The learning-rate schedule; None (the default) for a linear warm-up and a cosine to 0.

        It is stepped after each of the `steps` optimization steps, and must depend on their number
        alone: a resumed run replays it. `warmup` is the share of the steps that
        `recovery.warmup` asks for.
        """
        return None

    def train_dense(self, model: nn.Module, seed: int) -> None:
        """Train a fresh dense model in place: AdamW, short warm-up, cosine to 0, `dense_epochs`.

        Called once when there is no checkpoint; the result is cached. Override it for another
        recipe.
        """
        default_recipe(self, model, seed)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle by origin when the class came from a file, so that workers find it again.

        Loaders are sent without their own worker processes.
        """
        reduced: Any = super().__reduce_ex__(protocol)
        if len(reduced) > 2 and isinstance(reduced[2], dict):
            state = {name: without_workers(value) for name, value in reduced[2].items()}
            reduced = (*reduced[:2], state, *reduced[3:])
        cls, origin = type(self), origin_of(type(self))
        if origin is None or reduced[0] is not __newobj__:
            return reduced
        return revive, (origin, cls.__qualname__), *reduced[2:]

    def _pair(self, batch: Batch) -> tuple[Any, Any]:
        return inputs_and_targets(name_of(self), batch)

    def _accuracy(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device
    ) -> dict[str, float]:
        right, loss, items, samples = 0, 0.0, 0, 0
        for batch in loader:
            moved = to_device(batch, device)
            logits, target = logits_of(self.outputs(model, moved)), self._pair(moved)[1]
            if not _is_classified(logits, target):
                raise TaskError(
                    f"{name_of(self)}: the default evaluate needs (N, C, ...) logits and "
                    f"(N, ...) class targets, got {_shape(logits)} and {_shape(target)} · override "
                    "evaluate(model, split)"
                )
            right += int((logits.argmax(1) == target).sum())
            loss += float(F.cross_entropy(logits.float(), target)) * len(target)
            items, samples = items + target.numel(), samples + len(target)
        if samples == 0:
            raise TaskError(f"{name_of(self)}: a split must hold at least one batch, got 0")
        return {"accuracy": right / items, "loss": loss / samples}


def _is_classified(logits: Any, target: Any) -> bool:
    return (
        isinstance(logits, Tensor)
        and isinstance(target, Tensor)
        and logits.ndim >= 2
        and target.dtype == torch.int64
        and logits.shape[:1] + logits.shape[2:] == target.shape
    )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _common(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    """Pairs of floating-point tensors of the same place and shape."""
    one, other = _parts(student), _parts(teacher)
    if one is None and other is None:
        both = isinstance(student, Tensor) and isinstance(teacher, Tensor)
        fit = both and student.is_floating_point() and student.shape == teacher.shape
        return [(student, teacher)] if fit else []
    if one is None or other is None:
        parts = one if one is not None else other
        first = next(iter(parts.values()), None) if parts else None
        return _common(first, teacher) if other is None else _common(student, first)
    return [pair for key in one if key in other for pair in _common(one[key], other[key])]


def _parts(value: Any) -> dict[Any, Any] | None:
    """The items of a nested value, by key, index or name; None for a leaf."""
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, tuple | list) else attributes(value)


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    if student.ndim != 2 or student.shape[1] < 2:
        return F.mse_loss(student, teacher)
    log_p = F.log_softmax(student / _TEMPERATURE, dim=1)
    log_q = F.log_softmax(teacher / _TEMPERATURE, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * _TEMPERATURE**2


def default_recipe(
    task: Task, model: nn.Module, seed: int, on_epoch: OnEpoch | None = None
) -> None:
    """What `Task.train_dense` does; `on_epoch` is called after each epoch."""
    train_from_scratch(
        model,
        task.train_loader,
        task.loss,
        epochs=task.dense_epochs or 0,
        lr=task.dense_lr,
        seed=seed,
        name=name_of(task),
        on_epoch=on_epoch,
    )
