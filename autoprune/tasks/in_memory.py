"""A base class for tasks whose data fit in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from autoprune.tasks.base import Task
from autoprune.tasks.loaders import Augment, Prepare, TensorLoader

Splits = Mapping[str, tuple[Tensor, Tensor, Tensor]]


class InMemoryTask(Task):
    """A task whose splits are tensors: define `build_model` and `splits`.

    Attributes:
        batch_size: of training; batches are shuffled.
        evaluation_batch_size: of validation and test, which come in order.
        augment: `(batch, generator) -> batch` on stored training inputs; None for none.
        prepare: `batch -> batch`, stored inputs to what the model takes, for every split.
    """

    batch_size: int = 128
    augment: Augment | None = None
    prepare: Prepare | None = None
    evaluation_batch_size: int = 500

    @abstractmethod
    def splits(self) -> Splits:
        """`train`, `val` and `test` -> (all inputs, all targets, the rows of this split).

        Splits may share tensors; cache them, since every loader asks again.
        """

    def train_loader(self, seed: int) -> TensorLoader:
        """Shuffled and augmented."""
        inputs, targets, rows = self.splits()["train"]
        return TensorLoader(
            inputs,
            targets,
            rows=rows,
            batch_size=self.batch_size,
            seed=seed,
            augment=self.augment,
            prepare=self.prepare,
        )

    def val_loader(self) -> TensorLoader:
        """The validation samples in order."""
        return self._in_order("val")

    def test_loader(self) -> TensorLoader:
        """The test samples in order."""
        return self._in_order("test")

    def _in_order(self, split: str) -> TensorLoader:
        inputs, targets, rows = self.splits()[split]
        return TensorLoader(
            inputs, targets, rows=rows, batch_size=self.evaluation_batch_size, prepare=self.prepare
        )
