"""The weights that a layer really computes with, where they are made of several tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from autoprune.graph.replica import replica

_HOOKS = (prune.BasePruningMethod, SpectralNorm, WeightNorm)


def effective(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, each with its effective values.

    Masked weights (`torch.nn.utils.prune`) and normalized ones (weight norm, spectral norm, any
    parametrization of the same shape) are under the name of the parameter that has their shape;
    the other tensors they are made of are left out.

    >>> layer = nn.Linear(2, 1)
    >>> _ = prune.custom_from_mask(layer, "weight", torch.tensor([[0.0, 1.0]]))
    >>> effective(layer)["weight_orig"][0, 0].item() == 0
    True
    """
    found = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    if not any(_is_made(module) for module in model.modules()):
        return found
    with torch.no_grad():
        for path, module in replica(model).eval().named_modules():
            prefix = f"{path}." if path else ""
            for parts, weight in _made(module):
                names = [prefix + part for part in parts if prefix + part in found]
                alike = [name for name in names if found[name].shape == weight.shape]
                if alike:
                    for name in names:
                        del found[name]
                    found[alike[-1]] = weight
    return found


def _is_made(module: nn.Module) -> bool:
    hooked = any(isinstance(hook, _HOOKS) for hook in module._forward_pre_hooks.values())
    return hooked or parametrize.is_parametrized(module)


def _made(module: nn.Module) -> Iterator[tuple[list[str], Tensor]]:
    """The names of the parameters of each computed weight, and its value."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            yield [f"{hook._tensor_name}_orig"], hook.apply_mask(module).detach()  # type: ignore[no-untyped-call]
        elif isinstance(hook, SpectralNorm):
            weight = hook.compute_weight(module, do_power_iteration=False)
            yield [f"{hook.name}_orig"], weight.detach()
        elif isinstance(hook, WeightNorm):
            parts = [f"{hook.name}_g", f"{hook.name}_v"]
            yield parts, hook.compute_weight(module).detach()
    if parametrize.is_parametrized(module):
        chains: Any = module.parametrizations
        for name, chain in chains.items():
            parts = [f"parametrizations.{name}.{part}" for part, _ in chain.named_parameters()]
            yield parts, getattr(module, name).detach()
