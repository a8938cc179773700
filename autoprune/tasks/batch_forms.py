"""Two forms of a batch: `(inputs, targets)`, and a mapping of keyword arguments.

A mapping holds its targets under `labels`, as the batches of Hugging Face's data collators do.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autoprune.errors import TaskError

LABELS = "labels"


def inputs_and_targets(owner: str, batch: Any) -> tuple[Any, Any]:
    """A batch's inputs and targets; the targets of a mapping without labels are None.

    `owner` is the class that the TaskError about any other batch names.
    """
    if isinstance(batch, Mapping):
        inputs = {name: value for name, value in batch.items() if name != LABELS}
        return inputs, batch.get(LABELS)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TaskError(
            f"{owner}: the defaults need batches (inputs, targets), or mappings with {LABELS!r}, "
            f"got {type(batch).__name__} · override example_input, outputs, loss and evaluate"
        )
    return batch[0], batch[1]


def call(model: nn.Module, inputs: Any) -> Any:
    """`model` of a batch's inputs; sequences and mappings are unpacked."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def takes_labels(model: nn.Module) -> bool:
    """Whether the model's `forward` has a parameter `labels`, or takes any keyword."""
    parameters = inspect.signature(model.forward).parameters
    return LABELS in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def part(output: Any, name: str) -> Tensor | None:
    """The tensor that an output holds under a key or attribute; None where there is none."""
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    return found if isinstance(found, Tensor) else None


def logits_of(output: Any) -> Any:
    """The `logits` of an output; the output itself without them."""
    found = None if isinstance(output, Tensor) else part(output, "logits")
    return output if found is None else found
