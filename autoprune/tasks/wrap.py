"""A task made from a model and its loaders by one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.replica import plain, replica
from autoprune.tasks.base import Batch, Split, Task
from autoprune.tasks.failures import name_of, named
from autoprune.tasks.losses import loss_in
from autoprune.tasks.nested import device_of, to_device, without_workers

if TYPE_CHECKING:
    from autoprune.graph.types import Group

_END = object()

Loss = Callable[[Any, Any], Tensor]
BatchLoss = Callable[[Any, Any], Tensor | Mapping[str, Tensor]]
Inputs = Callable[[Any], Any]
Evaluate = Callable[..., float | Mapping[str, float]]


def wrap(
    model: nn.Module,
    train_loader: Iterable[Batch] | Callable[[int], Iterable[Batch]],
    val_loader: Iterable[Batch],
    loss: Loss | None = None,
    *,
    batch_loss: BatchLoss | None = None,
    inputs: Inputs | None = None,
    test_loader: Iterable[Batch] | None = None,
    evaluate: Evaluate | None = None,
    metric: str = "accuracy",
    direction: Literal["maximize", "minimize"] = "maximize",
    example_input: Any = None,
    ignored_layers: tuple[str, ...] = (),
    num_heads: Mapping[str, int] | None = None,
    steps_per_epoch: int | None = None,
    importance: Callable[[Group, Any], Tensor] | None = None,
    weight_importance: Callable[[Any], Tensor] | None = None,
    sparsity_score: Callable[[Tensor], Tensor] | None = None,
    removed_share: Callable[[float], float] | None = None,
    regularize: Callable[[nn.Module, Mapping[str, list[int]], float], None] | None = None,
) -> Task:
    """A task of a trained model and its loaders; the model is copied and never changed.

    Args:
        model: the trained dense model.
        train_loader: batches `(inputs, targets)`, or mappings with `labels`, with `len`; or a
            function of a seed that gives them. A loader's shuffling and augmentation follow the
            seed where they draw from torch; a list of batches is read in an order drawn from it.
        val_loader: by which the search selects.
        loss: `loss(outputs, targets)`; by default cross-entropy.
        batch_loss: `batch_loss(model, batch)` instead of `loss`, for a loss that needs the whole
            batch, as with detectors: a scalar, or a mapping of losses, which are added up unless
            one is called `loss`. It is called in training and in eval mode, and must call the
            model with its inputs for distillation.
        inputs: `inputs(batch)`, what the model is called with (sequences and mappings are
            unpacked), for batches of another form; needs `batch_loss` and `evaluate`.
        test_loader: read once per finished model; `retrain` needs one, a search does not.
        evaluate: `evaluate(model, loader)`, a number or a mapping that holds `metric`; by default
            accuracy. It is called under inference mode with the model in eval mode.
        metric: the name of the metric that the search optimizes.
        direction: "maximize" or "minimize" that metric.
        example_input: one input; by default the first of the first validation batch.
        ignored_layers: module paths whose outputs are not pruned.
        num_heads: attention module path -> number of heads.
        steps_per_epoch: training batches of one epoch, for a `train_loader` without a length (an
            iterable data set); each epoch begins the loader again.
        importance: for `importance: task`, as the method of that name of a `Task`; likewise the
            following ones.
        weight_importance: for `importance: task`, of the elements of a weight with a pattern.
        sparsity_score: for `patterns.score: task`.
        removed_share: for `schedule.kind: task`.
        regularize: for `recovery.penalty: task`.

    Raises TaskError when an argument does not fit.

    >>> x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    >>> task = wrap(nn.Sequential(nn.Linear(4, 2)), [(x, y)], [(x, y)])
    >>> task.example_input().shape
    torch.Size([1, 4])
    """
    if not isinstance(model, nn.Module):
        raise TaskError(f"wrap: model must be an nn.Module, got {type(model).__name__}")
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise TaskError(f"wrap: steps_per_epoch must be at least 1, got {steps_per_epoch}")
    if steps_per_epoch is None and not _is_function(train_loader):
        _check_length(train_loader)
    if steps_per_epoch is not None and _is_iterator(train_loader):
        raise TaskError("wrap: train_loader must be iterable repeatedly, got an iterator")
    for name, loader in (("val_loader", val_loader), ("test_loader", test_loader)):
        if loader is not None and iter(loader) is loader:
            raise TaskError(
                f"wrap: {name} must be iterable repeatedly, got a {type(loader).__name__} that "
                "can be read once · give a DataLoader or a list of batches"
            )
    if metric != "accuracy" and evaluate is None:
        raise TaskError(
            f"wrap: metric {metric!r} needs evaluate=function(model, loader); the default one "
            "gives 'accuracy'"
        )
    if loss is not None and batch_loss is not None:
        raise TaskError("wrap takes loss(outputs, targets) or batch_loss(model, batch), got both")
    if inputs is not None and (batch_loss is None or evaluate is None):
        raise TaskError(
            "wrap: inputs needs batch_loss=function(model, batch) and evaluate=function(model, "
            "loader), since only they know the targets"
        )
    if direction not in ("maximize", "minimize"):
        raise TaskError(f"wrap: direction must be 'maximize' or 'minimize', got {direction!r}")
    task = WrappedTask(model, train_loader, val_loader, test_loader, loss, evaluate)
    task.batch_loss, task.inputs = batch_loss, inputs
    task.metric, task.direction = metric, direction
    task.ignored_layers, task.num_heads = ignored_layers, num_heads
    task.steps_per_epoch = steps_per_epoch
    methods = {
        "importance": importance,
        "weight_importance": weight_importance,
        "sparsity_score": sparsity_score,
        "removed_share": removed_share,
        "regularize": regularize,
    }
    for name, given in methods.items():
        if given is not None:
            setattr(task, name, given)
    task.set_example(example_input)
    return task


class WrappedTask(Task):
    """What `wrap` returns: a task of the given objects."""

    dense_epochs = 0  # the model is trained

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Batch] | Callable[[int], Iterable[Batch]],
        val_loader: Iterable[Batch],
        test_loader: Iterable[Batch] | None,
        loss: Loss | None,
        evaluate: Evaluate | None,
    ) -> None:
        self._model = replica(plain(model)).cpu()
        self._train, self._val, self._test = train_loader, val_loader, test_loader
        self._loss, self._evaluate = loss, evaluate
        self._example: Any = None
        self.batch_loss: BatchLoss | None = None
        self.inputs: Inputs | None = None
        self.steps_per_epoch: int | None = None

    @property
    def shown_name(self) -> str:
        """The model's class, by which messages and reports call the task."""
        return type(self._model).__name__

    def build_model(self) -> nn.Module:
        """A copy of the given model with its trained weights."""
        return replica(self._model)

    def example_input(self) -> Any:
        """The given example, or the first input of the first validation batch."""
        return self._example

    def set_example(self, example: Any) -> None:
        """Take `example`, or cut one out of the validation data when it is None."""
        self._example = super().example_input() if example is None else to_device(example, "cpu")

    def train_loader(self, seed: int) -> Iterable[Batch]:
        """The given loader read under `seed`, or what the given function returns for it."""
        given: Any = self._train
        if isinstance(given, list | tuple) and self.steps_per_epoch is None:
            return given  # its order is drawn from the seed
        loader = given(seed) if _is_function(given) else _Seeded(given, seed)
        return loader if self.steps_per_epoch is None else _Steps(loader, self.steps_per_epoch)

    def val_loader(self) -> Iterable[Batch]:
        """The given validation loader."""
        return self._val

    def test_loader(self) -> Iterable[Batch]:
        """The given test loader. Raises TaskError when there is none."""
        if self._test is None:
            raise TaskError("this task has no test split · pass test_loader= to autoprune.wrap")
        return self._test

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The given function of model and batch, or of outputs and targets, or cross-entropy."""
        if self.batch_loss is not None:
            return loss_in(f"{name_of(self)}: batch_loss", self.batch_loss(model, batch))
        if self._loss is None:
            return super().loss(model, batch)
        return self._loss(self.outputs(model, batch), self._pair(batch)[1])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The given function of model and loader, or accuracy."""
        if self._evaluate is None:
            return super().evaluate(model, split)
        loader = _OnDevice(self.split_loader(split), device_of(model))
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.inference_mode():
                answer = self._evaluate(model, loader)
        finally:
            for module, training in modes:
                module.training = training
        return _metrics(answer, self.metric)

    def _pair(self, batch: Batch) -> tuple[Any, Any]:
        if self.inputs is None:
            return super()._pair(batch)
        with named(f"{name_of(self)}: inputs", "on a batch"):
            return self.inputs(batch), None


class _Seeded:
    """A loader whose order and augmentation depend on a seed, as far as they draw from torch.

    PyTorch's random state is swapped in for each batch and put back after it; a generator that
    the loader or its sampler owns is seeded at the start of a pass. Each pass has workers of its
    own: those that a DataLoader with `persistent_workers` keeps can serve one pass at a time.
    """

    def __init__(self, loader: Iterable[Batch], seed: int) -> None:
        self._loader, self._seed = loader, seed

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        for owner in (self._loader, getattr(self._loader, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(self._seed)
        state, batches = torch.Generator().manual_seed(self._seed).get_state(), None
        while True:
            with torch.random.fork_rng(devices=()):
                torch.set_rng_state(state)
                batches = iter(without_workers(self._loader)) if batches is None else batches
                batch = next(batches, _END)
                state = torch.get_rng_state()
            if batch is _END:
                return
            yield batch


class _Steps:
    """The first batches of a loader, as an epoch of that length."""

    def __init__(self, loader: Iterable[Batch], steps: int) -> None:
        self._loader, self._steps = loader, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._loader, self._steps)


def _is_iterator(loader: object) -> bool:
    """Whether it can be read only once."""
    return not _is_function(loader) and isinstance(loader, Iterator)


def _is_function(loader: object) -> bool:
    return callable(loader) and not hasattr(loader, "__iter__")


def _check_length(loader: Any) -> None:
    try:
        len(loader)
    except TypeError as error:
        raise TaskError(
            f"wrap: train_loader must have a length, got a {type(loader).__name__} without one · "
            "say steps_per_epoch=, or give a list of batches, a function seed -> loader with a "
            "length, or a DataLoader of a dataset with __len__"
        ) from error


class _OnDevice:
    """A loader whose batches are transferred to one device."""

    def __init__(self, loader: Iterable[Batch], device: torch.device) -> None:
        self._loader, self._device = loader, device

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        return (to_device(batch, self._device) for batch in self._loader)


def _metrics(answer: Any, metric: str) -> dict[str, float]:
    found = dict(answer) if isinstance(answer, Mapping) else {metric: answer}
    if metric not in found:
        keys = ", ".join(map(str, found)) or "nothing"
        raise TaskError(f"wrap: evaluate must return the metric {metric!r}, got {keys}")
    return {key: float(value) for key, value in found.items()}
