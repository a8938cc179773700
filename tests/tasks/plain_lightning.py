"""A module with the methods of a LightningModule, and data with those of a LightningDataModule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Right:
    """A metric object as those of torchmetrics: it adds up, is computed, and begins again."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right, self.total = torch.zeros(()), torch.zeros(())

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.right += (logits.argmax(1) == target).sum()
        self.total += len(target)

    def compute(self) -> Tensor:
        return self.right / self.total


class Classifier(nn.Module):
    """Logs in all the ways: numbers, mappings, a metric object, at the end of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        self.head = nn.Linear(12, 2)
        self.right, self.seen = Right(), []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss, "targets": y}

    def on_validation_epoch_start(self) -> None:
        self.seen.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.right.update(logits, y)
        self.log("val_acc", self.right)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "last": float(batch_idx)})
        self.log("most", len(y), reduce_fx=max)
        self.seen.append(len(y))

    def on_validation_epoch_end(self) -> None:
        self.log("images", sum(self.seen))


class Data:
    """The hooks of a LightningDataModule."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str) -> None:
        self.calls.append(stage)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(X[:20], Y[:20]), batch_size=16)

    def test_dataloader(self) -> Any:
        return [DataLoader(TensorDataset(X[20:], Y[20:]), batch_size=16)]


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier()
