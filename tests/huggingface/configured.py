"""A model that is built from a configuration, as those of transformers are, and needs none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.blocks import Slot
from autoprune.pruning.depth import Removed


class Config:
    """A configuration like those of transformers: plain attributes and a `to_dict`."""

    def __init__(self, layers: int = 4, kinds: tuple[str, ...] = ("a", "b", "c", "d")) -> None:
        self.num_hidden_layers, self.layer_kinds, self.width = layers, kinds, 4

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        made = cls()
        vars(made).update(values)
        return made


class Block(nn.Module):
    def __init__(self, width: int, index: int) -> None:
        super().__init__()
        self.layer_idx, self.body, self.drop = index, nn.Linear(width, width), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.body(x))


class Net(nn.Module):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config.width, n) for n in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def save_pretrained(self, path: str) -> None:
        """As a model of transformers has it."""


def without(*places: int) -> Net:
    """A net of which the bodies of some layers were dropped."""
    torch.manual_seed(0)
    model = Net(Config()).eval()
    for place in places:
        body = model.layers[place].body
        model.layers[place].body = Removed(body, Slot())
    return model
