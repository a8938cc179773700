"""Mixup: each sample is blended with another of its batch, and so are their losses.

Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributions import Beta

from autoprune.errors import TaskError
from autoprune.graph.outputs import tensors_in
from autoprune.tasks.base import Batch
from autoprune.tasks.batch_forms import LABELS, inputs_and_targets
from autoprune.tasks.nested import mapped
from autoprune.training.precision import Call


@dataclass(frozen=True)
class Mixed:
    """Blended inputs, once with the targets of each part; `share` is the first one's."""

    share: float
    first: Batch
    second: Batch


def mixed(batch: Batch, alpha: float, owner: str) -> Mixed:
    """The batch blended with its samples in another order, in a share from Beta(alpha, alpha).

    Draws from torch's generator. Raises TaskError, which names `owner`, where an input is no
    floating-point tensor, or a target does not belong to one sample.

    >>> x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    >>> found = mixed((x, y), 1.0, "Example")
    >>> found.first[0] is found.second[0], sorted(found.second[1].tolist())
    (True, [0, 1])
    """
    inputs, targets = inputs_and_targets(owner, batch)
    values, labels = tensors_in(inputs), tensors_in(targets)
    if not values or not all(x.is_floating_point() for x in values):
        raise TaskError(
            f"recovery.mixup blends floating-point inputs, those of {owner} are others · set it "
            "to 0"
        )
    size = len(values[0])
    if any(x.dim() == 0 or len(x) != size for x in (*values, *labels)):
        raise TaskError(
            f"recovery.mixup needs inputs and targets with one entry for each of the {size} "
            f"samples, {owner} has others · set it to 0"
        )
    share = float(Beta(alpha, alpha).sample())
    order = torch.randperm(size).to(values[0].device)
    blend = mapped(lambda x: share * x + (1.0 - share) * x[order], inputs)
    others = mapped(lambda y: y[order], targets)
    return Mixed(share, _batch(batch, blend, targets), _batch(batch, blend, others))


@contextmanager
def repeated(model: nn.Module, calls: Sequence[Call]) -> Iterator[None]:
    """Inside, the model answers with the outputs of these calls and does not compute.

    It does compute where it was given labels: its output may hold their loss.
    """
    if any(LABELS in call.kwargs for call in calls):
        yield
        return
    outputs = iter([call.output for call in calls])
    own = model.__dict__.get("forward")
    model.__dict__["forward"] = lambda *args, **kwargs: next(outputs)
    try:
        yield
    finally:
        del model.__dict__["forward"]
        if own is not None:
            model.__dict__["forward"] = own


def _batch(like: Batch, inputs: Any, targets: Any) -> Batch:
    if isinstance(like, Mapping):
        return {**inputs, LABELS: targets} if LABELS in like else inputs
    return inputs, targets
