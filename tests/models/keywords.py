"""A net with two inputs by keyword and two outputs by name, for exports and runtimes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUTS = {"scale": torch.rand(2, 1, 1), "tokens": torch.tensor([[0, 6, 2], [3, 1, 1]])}


class TwoByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(tokens) * scale
        return {"logits": self.head(hidden), "hidden": hidden}
