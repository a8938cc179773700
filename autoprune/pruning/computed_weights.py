"""Weights W that a layer computes from a tensor V that is trained: norms and masks.

Weight norm (Salimans & Kingma 2016, arXiv:1602.07868) has W = g V / |V|, with a length for each
slice of V, spectral norm (Miyato et al. 2018, arXiv:1802.05957) W = V / σ, where σ = uᵀ V v is an
estimate of V's largest singular value. A V that loses inputs is shorter, so that what stays of W
would grow. Instead g is made smaller, or v is scaled so that σ stays what it was, as PyTorch does
where it reads checkpoints without v. Spectral norm estimates u and v anew with each step of
training: from then on σ is the smaller V's own, and W has norm 1 again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_POWER_STEPS = 15  # as many as PyTorch takes for its first estimate


@dataclass(frozen=True, eq=False)
class ComputedWeight(ABC):
    """A layer's `name` (its weight), computed from the parameter `tensor` by `rule`.

    `rule` is a hook of the layer or, in `chain`, a parametrization.
    """

    layer: nn.Module
    name: str
    rule: Any
    chain: Any
    tensor: nn.Parameter

    @abstractmethod
    def scale(self) -> Tensor:
        """|V|, σ or M, float64 on the CPU."""

    @abstractmethod
    def keep(self, scale: Tensor) -> None:
        """Change g, or u and v, so that V as it is now is divided by this scale.

        A mask stays as it is.
        """

    @abstractmethod
    def divisor(self, scale: Tensor) -> Tensor:
        """V / W, where V has this scale; infinite where W is 0 whatever V is."""

    @abstractmethod
    def _computed(self) -> Tensor:
        """The weight that a hook computes before each forward pass."""

    def refresh(self) -> None:
        """Give the layer the weight of its next forward pass, where a hook leaves one with it."""
        if self.chain is None:
            with torch.no_grad():
                setattr(self.layer, self.name, self._computed())

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Inside, the layer computes with `tensor`, which holds the effective weight.

        If that was changed inside, the norm is made to give the new weight.
        """
        before, scale = self.tensor.data, self.scale()
        divisor = self.divisor(scale)
        weight = (_exact(before) / divisor).to(before)
        self.tensor.data = weight.clone()
        try:
            with self._without_rule():
                yield
        finally:
            after, self.tensor.data = self.tensor.data, before
            if not torch.equal(after, weight):
                exact = torch.where(divisor.isinf(), _exact(before), _exact(after) * divisor)
                with torch.no_grad():
                    self.tensor.copy_(exact)
                    self.keep(scale)
                self.refresh()

    @contextmanager
    def _without_rule(self) -> Iterator[None]:
        if self.chain is not None:
            self.chain.forward = lambda: self.tensor
            try:
                yield
            finally:
                del self.chain.forward
            return
        hooks, held = self.layer._forward_pre_hooks, vars(self.layer)
        before, computed = dict(hooks), held[self.name]
        for key in [key for key, hook in hooks.items() if hook is self.rule]:
            del hooks[key]
        held[self.name] = self.tensor
        try:
            yield
        finally:
            held[self.name] = computed
            hooks.clear()
            hooks.update(before)


@dataclass(frozen=True, eq=False)
class _WithLength(ComputedWeight):
    length: nn.Parameter

    def scale(self) -> Tensor:
        return torch.norm_except_dim(_exact(self.tensor), 2, self.rule.dim)

    def keep(self, scale: Tensor) -> None:
        now = self.scale()
        self.length.mul_((now / scale).to(self.length))
        self.tensor.masked_fill_((now == 0.0).to(self.tensor.device), 1.0)  # not 0 / 0

    def divisor(self, scale: Tensor) -> Tensor:
        return scale / _exact(self.length)

    def _computed(self) -> Tensor:
        weight: Tensor = self.rule.compute_weight(self.layer)
        return weight


@dataclass(frozen=True, eq=False)
class _WithSpectrum(ComputedWeight):
    u: Tensor
    v: Tensor

    def scale(self) -> Tensor:
        return _exact(self.u) @ self._matrix() @ _exact(self.v)

    def keep(self, scale: Tensor) -> None:
        matrix, v = self._matrix(), _exact(self.v)
        for _ in range(_POWER_STEPS):
            u = normalize(matrix @ v, dim=0)
            v = normalize(matrix.T @ u, dim=0)
        self.u.copy_(u)
        self.v.copy_(v * scale / (u @ matrix @ v))

    def divisor(self, scale: Tensor) -> Tensor:
        return scale

    def _computed(self) -> Tensor:
        weight: Tensor = self.rule.compute_weight(self.layer, do_power_iteration=False)
        return weight

    def _matrix(self) -> Tensor:
        return _exact(self.tensor).movedim(self.rule.dim, 0).flatten(1)


@dataclass(frozen=True, eq=False)
class _WithMask(ComputedWeight):
    mask: Tensor

    def scale(self) -> Tensor:
        return _exact(self.mask)

    def keep(self, scale: Tensor) -> None:
        pass

    def divisor(self, scale: Tensor) -> Tensor:
        return 1.0 / scale

    def _computed(self) -> Tensor:
        weight: Tensor = self.rule.apply_mask(self.layer)
        return weight


def computed_weights(model: nn.Module) -> dict[str, ComputedWeight]:
    """The weights with one norm, or with masks, alone, by the `state_dict` key of V.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> sorted(computed_weights(nn.Sequential(layer)))
    ['0.parametrizations.weight.original1']
    """
    found: dict[str, ComputedWeight] = {}
    for path, layer in model.named_modules():
        for key, norm in [*_hooked(layer), *_parametrized(layer)]:
            found[f"{path}.{key}" if path else key] = norm
    return found


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, the tensors V hold the weights W that their layers compute with.

    Those that are changed inside are what the layers compute with afterwards, too, except for the
    elements that a mask hides. Gives where these are (True), on the CPU, by the `state_dict` key.
    """
    weights = computed_weights(model)
    masks = {name: w.scale() for name, w in weights.items() if isinstance(w, _WithMask)}
    with ExitStack() as stack:
        for weight in weights.values():
            stack.enter_context(weight.plain())
        yield {name: mask == 0.0 for name, mask in masks.items()}


def _hooked(layer: nn.Module) -> Iterator[tuple[str, ComputedWeight]]:
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
            tensor, mask = (getattr(layer, f"{name}_{part}") for part in ("orig", "mask"))
            yield f"{name}_orig", _WithMask(layer, name, hook, None, tensor, mask)
        elif isinstance(hook, WeightNorm):
            name = hook.name
            v, g = (getattr(layer, f"{name}_{part}") for part in "vg")
            yield f"{name}_v", _WithLength(layer, name, hook, None, v, g)
        elif isinstance(hook, SpectralNorm):
            name = hook.name
            tensor, u, v = (getattr(layer, f"{name}_{part}") for part in ("orig", "u", "v"))
            yield f"{name}_orig", _WithSpectrum(layer, name, hook, None, tensor, u, v)


def _parametrized(layer: nn.Module) -> Iterator[tuple[str, ComputedWeight]]:
    chains: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
    for name, chain in chains.items():
        rule, key = chain[0], f"parametrizations.{name}.original"
        if len(chain) == 1 and isinstance(rule, _WeightNorm):
            g, v = chain.original0, chain.original1
            yield f"{key}1", _WithLength(layer, name, rule, chain, v, g)
        elif len(chain) == 1 and isinstance(rule, _SpectralNorm) and chain.original.dim() > 1:
            yield key, _WithSpectrum(layer, name, rule, chain, chain.original, rule._u, rule._v)
        elif (mask := _mask_of(chain)) is not None:
            yield key, _WithMask(layer, name, rule, chain, chain.original, mask)


def _mask_of(chain: Any) -> Tensor | None:
    """What parametrizations multiply their one tensor with; None where they do anything else."""
    tensor = getattr(chain, "original", None)
    if not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
        return None
    before, modes = tensor.data, [(module, module.training) for module in chain.modules()]
    try:
        with torch.no_grad():
            weight = chain.eval()()
            tensor.data = torch.ones_like(before)
            mask: Tensor = chain()
    except RuntimeError:  # ones are no weight for it
        return None
    finally:
        tensor.data = before
        for module, mode in modes:
            module.training = mode
    is_mask = weight.shape == mask.shape == before.shape and torch.equal(weight, before * mask)
    return mask.clone() if is_mask else None


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
