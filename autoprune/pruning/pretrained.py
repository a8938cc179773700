"""The `config` of a pruned model, and a warning where one of transformers cannot have the sizes."""

from __future__ import annotations

import logging

from torch import nn

from autoprune.graph.trace import Inputs
from autoprune.pruning.configuration import dense_twin, has_config, is_configured, mend

_log = logging.getLogger(__name__)


def configure(model: nn.Module, example_inputs: Inputs) -> None:
    """Set the entries of `model.config` to the model's sizes, where some give them.

    Else the configuration stays that of the dense model. In transformers `from_pretrained` cannot
    read what `save_pretrained` writes then, and a warning is logged. Models without a configuration
    are left alone.
    """
    if not has_config(model) or mend(model, example_inputs) or not is_configured(model):
        return
    dense = dense_twin(model)
    if dense is None or _shapes(dense) != _shapes(model):
        _log.warning(
            "no configuration of %s gives the sizes of the pruned model, so from_pretrained cannot "
            "read what save_pretrained writes · save it with autoprune.save_hf(model, folder, "
            "example_inputs)",
            type(model).__name__,
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
