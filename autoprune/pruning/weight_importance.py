"""Importance scores of single elements of a weight, for sparsity patterns.

A method is one function from a `SingleWeight` to scores of the weight's shape; `METHODS` is the
visible table, to which a method can be added. Scores are compared inside one weight only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.errors import UsageError
from autoprune.patterns import unstructured
from autoprune.pruning.calibration import Moment
from autoprune.pruning.obs import second

_RIDGE = 1e-3  # λ over the mean of the inputs' variances


@dataclass(frozen=True, eq=False)
class SingleWeight:
    """The inputs of a method, as matrices (outputs, inputs).

    `weight` are the present values, `gradient` the loss's mean gradient on some batches, `moment`
    what is known of the inputs; the last two are None where they were not determined.
    """

    weight: Tensor
    gradient: Tensor | None = None
    moment: Moment | None = None

    def by_input(self, values: Sequence[Tensor]) -> Tensor:
        """One number an input, for each block of outputs that share their inputs, for every row."""
        each = len(self.weight) // len(values)
        return torch.cat([block.expand(each, -1) for block in values])


WeightMethod = Callable[[SingleWeight], Tensor]


def magnitude(given: SingleWeight) -> Tensor:
    """|w|."""
    return given.weight.abs()


def wanda(given: SingleWeight) -> Tensor:
    """|w| times the root mean square of its input (Sun et al. 2024, arXiv:2306.11695)."""
    if given.moment is None:
        return magnitude(given)
    squares = given.moment.covariance.diagonal(dim1=1, dim2=2) + given.moment.mean.square()
    return magnitude(given) * given.by_input(list(squares.clamp_min(0.0).sqrt()))


def obs(given: SingleWeight) -> Tensor:
    """The error of removing w with the rest of its row re-fitted: w² / [C⁻¹] (Hassibi & Stork)."""
    if given.moment is None:
        return magnitude(given)
    blocks = range(len(given.moment.covariance))
    inverses = [_inverse_diagonal(second(given.moment, block)) for block in blocks]
    return given.weight.square() / given.by_input(inverses)


def taylor(given: SingleWeight) -> Tensor:
    """|w x gradient|: the first-order change of the loss (Molchanov et al. 2019)."""
    if given.gradient is None:
        raise UsageError("importance 'taylor' needs gradients of the weights")
    return (given.weight * given.gradient).abs()


def movement(given: SingleWeight) -> Tensor:
    """-w x gradient: large where a step down the gradient lets |w| grow (Sanh et al. 2020)."""
    if given.gradient is None:
        raise UsageError("importance 'movement' needs gradients of the weights")
    return -given.weight * given.gradient


METHODS: dict[str, WeightMethod] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "obs": obs,
    "taylor": taylor,
    "movement": movement,
}


def method_for(importance: object, of_task: WeightMethod | None = None) -> WeightMethod:
    """The method of that name, or for `task` its own; magnitude where there is none for weights.

    >>> method_for("wanda").__name__, method_for("fpgm").__name__
    ('wanda', 'magnitude')
    """
    if importance == "task" and of_task is not None:
        return of_task
    return METHODS.get(importance, magnitude) if isinstance(importance, str) else magnitude


def lamp(weight: Tensor) -> Tensor:
    """w² over the sum of the squares that are not smaller, which is comparable between layers.

    Layer-adaptive magnitudes (Lee et al. 2021, arXiv:2010.07611); the order is that of |w|.

    >>> lamp(torch.tensor([1.0, 2.0, 1.0])).tolist()
    [0.16666666666666666, 1.0, 0.2]
    """
    squares, order = weight.detach().double().flatten().square().sort(stable=True)
    rest = squares.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    scores = torch.empty_like(squares)
    scores[order] = squares / rest
    return scores.view(weight.shape)


Score = Callable[[Tensor], Tensor]
SCORES: dict[str, Score] = {"lamp": lamp, "magnitude": torch.abs}
"""By what a sparsity is spread over weights; scores of elements are compared between them."""


def curves(
    weights: Mapping[str, Tensor],
    points: int,
    score: Score = lamp,
) -> dict[str, tuple[float, ...]]:
    """Each weight's sparsity where those of lowest `score` over all weights are zero.

    At overall sparsities k / (`points` - 1), the last one being 1. Raises UsageError where a score
    is not finite or not of the weight's shape.

    >>> curves({"a": torch.ones(2), "b": torch.full((2,), 9.0)}, 3, torch.abs)
    {'a': (0.0, 1.0, 1.0), 'b': (0.0, 0.0, 1.0)}
    """
    owners = _owners(weights, score)
    found = [_shares(weights, owners, point / (points - 1)) for point in range(points)]
    return {name: tuple(shares[name] for shares in found) for name in weights}


def spread(weights: Mapping[str, Tensor], sparsity: float, score: Score = lamp) -> dict[str, str]:
    """The patterns of weights where those of lowest `score` over all of them are zero.

    `sparsity` is that of all elements together. Weights that stay dense have no pattern. Raises
    UsageError as `curves`.

    >>> spread({"a": torch.ones(2), "b": torch.full((2,), 9.0)}, 0.25, torch.abs)
    {'a': '0.5'}
    """
    shares = _shares(weights, _owners(weights, score), sparsity) if weights else {}
    return {name: pattern for name, share in shares.items() if (pattern := unstructured(share))}


def _owners(weights: Mapping[str, Tensor], score: Score) -> Tensor:
    """Which weight each element is of, by ascending scores."""
    places = [torch.full((weight.numel(),), i) for i, weight in enumerate(weights.values())]
    scores = [_scored(name, weight.detach().cpu(), score) for name, weight in weights.items()]
    return torch.cat(places)[torch.cat(scores).sort(stable=True).indices]


def _shares(weights: Mapping[str, Tensor], owners: Tensor, sparsity: float) -> dict[str, float]:
    """Each weight's share of zeros at an overall sparsity."""
    zeros = torch.bincount(owners[: round(len(owners) * sparsity)], minlength=len(weights))
    each = zip(weights.items(), zeros.tolist(), strict=True)
    return {name: count / weight.numel() for (name, weight), count in each}


def _scored(name: str, weight: Tensor, score: Score) -> Tensor:
    found = score(weight)
    if found.shape != weight.shape or not bool(torch.isfinite(found).all()):
        raise UsageError(
            f"scores that spread a sparsity must be finite and of shape {tuple(weight.shape)}, got "
            f"{tuple(found.shape)} for {name}"
        )
    return found.detach().flatten().double()


def _inverse_diagonal(moment: Tensor) -> Tensor:
    """The diagonal of (C + λ I)⁻¹."""
    scale = float(moment.diagonal().mean())
    damping = _RIDGE * scale if scale > 0.0 else 1.0
    damped = moment + damping * torch.eye(len(moment), dtype=moment.dtype)
    factor, failed = torch.linalg.cholesky_ex(damped)
    inverse = torch.linalg.inv(damped) if bool(failed) else torch.cholesky_inverse(factor)
    return inverse.diagonal().clamp_min(torch.finfo(moment.dtype).tiny)
