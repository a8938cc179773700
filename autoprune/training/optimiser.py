"""The optimiser of recovery and its learning rate: SGD with Nesterov momentum, warm-up, cosine."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
_WARM_UP = 0.05  # share of all steps


def sgd(model: nn.Module) -> SGD:
    """SGD over the trainable parameters; scales, shifts and biases (1-D) do not decay.

    The learning rate is 0 until `learning_rate` is written into the parameter groups.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() > 1]
    vectors = [parameter for parameter in trainable if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return SGD([g for g in groups if g["params"]], lr=0.0, momentum=MOMENTUM, nesterov=True)


def learning_rate(peak: float, step: int, total: int) -> float:
    """The rate of optimisation step `step` in [0, total): linear over the first 5 %, cosine to 0.

    >>> [round(learning_rate(1.0, step, 40), 3) for step in (0, 1, 20, 39)]
    [0.5, 1.0, 0.52, 0.002]
    """
    warm = max(1, round(_WARM_UP * total))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step + 1 - warm) / (total + 1 - warm)))
