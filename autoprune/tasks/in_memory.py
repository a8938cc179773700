"""What the built-in tasks share: splits that lie in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from autoprune.tasks.base import Task
from autoprune.tasks.loaders import Augment, Prepare, TensorLoader

Splits = Mapping[str, tuple[Tensor, Tensor, Tensor]]


class InMemoryTask(Task):
    """A task of tensors: `splits`, and how a batch of them becomes the model's inputs.

    Training batches of `batch_size` are shuffled and augmented; the others come in order.
    """

    batch_size: int
    augment: Augment
    prepare: Prepare | None = None
    evaluated_at_once: int = 500

    @abstractmethod
    def splits(self) -> Splits:
        """Split -> (all inputs, all targets, the rows of this split); one copy in a process."""

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
            inputs, targets, rows=rows, batch_size=self.evaluated_at_once, prepare=self.prepare
        )
