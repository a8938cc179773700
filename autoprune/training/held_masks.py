"""Zeros that stay zero in training."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.pruning.sparsity import Masks


class HeldMasks:
    """Keeps elements of a model's weights exactly zero, whatever the optimizer does."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        """Bind the masks to the model's parameters as they are now."""
        parameters = dict(model.named_parameters())
        self._pairs = [
            (parameters[name], mask.to(parameters[name].device)) for name, mask in masks.items()
        ]

    def clear_gradients(self) -> None:
        """Before the optimizer's step (and before gradients are clipped): no pull on the zeros."""
        for parameter, mask in self._pairs:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    def clear_weights(self) -> None:
        """After the optimizer's step: weight decay and momentum have moved nothing."""
        with torch.no_grad():
            for parameter, mask in self._pairs:
                parameter.masked_fill_(mask, 0.0)
