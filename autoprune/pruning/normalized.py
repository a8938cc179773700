"""Weight norm and spectral norm: a layer's weight W is computed from a tensor V that is trained.

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
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_POWER_STEPS = 15  # as many as PyTorch takes for its first estimate


@dataclass(frozen=True, eq=False)
class Normalized(ABC):
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
        """|V| or σ, float64 on the CPU."""

    @abstractmethod
    def keep(self, scale: Tensor) -> None:
        """Change g, or u and v, so that V as it is now is divided by this scale."""

    @abstractmethod
    def divisor(self, scale: Tensor) -> Tensor:
        """V / W, where V has this scale."""

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
class _WithLength(Normalized):
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
class _WithSpectrum(Normalized):
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


def normalized(model: nn.Module) -> dict[str, Normalized]:
    """The layers with a weight norm or a spectral norm alone, by the `state_dict` key of V.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> sorted(normalized(nn.Sequential(layer)))
    ['0.parametrizations.weight.original1']
    """
    found: dict[str, Normalized] = {}
    for path, layer in model.named_modules():
        for key, norm in [*_hooked(layer), *_parametrized(layer)]:
            found[f"{path}.{key}" if path else key] = norm
    return found


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """Inside, parameters with a norm hold the weights that their layers compute with.

    Those that are changed inside are what the layers compute with afterwards, too.
    """
    with ExitStack() as stack:
        for norm in normalized(model).values():
            stack.enter_context(norm.plain())
        yield


def _hooked(layer: nn.Module) -> Iterator[tuple[str, Normalized]]:
    for hook in layer._forward_pre_hooks.values():
        if not isinstance(hook, WeightNorm | SpectralNorm):
            continue
        name = hook.name
        if isinstance(hook, WeightNorm):
            v, g = (getattr(layer, f"{name}_{part}") for part in "vg")
            yield f"{name}_v", _WithLength(layer, name, hook, None, v, g)
        else:
            tensor, u, v = (getattr(layer, f"{name}_{part}") for part in ("orig", "u", "v"))
            yield f"{name}_orig", _WithSpectrum(layer, name, hook, None, tensor, u, v)


def _parametrized(layer: nn.Module) -> Iterator[tuple[str, Normalized]]:
    chains: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
    for name, chain in chains.items():
        rule, key = chain[0], f"parametrizations.{name}.original"
        if len(chain) > 1:
            continue
        if isinstance(rule, _WeightNorm):
            g, v = chain.original0, chain.original1
            yield f"{key}1", _WithLength(layer, name, rule, chain, v, g)
        elif isinstance(rule, _SpectralNorm) and chain.original.dim() > 1:
            yield key, _WithSpectrum(layer, name, rule, chain, chain.original, rule._u, rule._v)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
