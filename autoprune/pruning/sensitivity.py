"""How much the score rises when one group is pruned, at several ratios, or a block is dropped.

Each group is pruned alone, with repair. A block of a deep network hardly matters alone, and sums of
such increases say nothing of many blocks together; so the blocks are dropped one after another, and
the k-th to go gets the k-th smallest increase of one block alone: the order of the former on the
scale of the widths (`results/depth/order.md`).
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architecture import BLOCK, Architecture
from autoprune.candidate import Nearest
from autoprune.errors import TrainingError, UsageError
from autoprune.graph import PruningGraph
from autoprune.graph.outputs import tensors_in
from autoprune.pruning.build import build
from autoprune.pruning.calibration import Calibration, Forward, evaluating, run
from autoprune.pruning.compensate import obs_scores, reestimate_batchnorm

Score = Callable[[nn.Module], float]

RATIOS: tuple[float, ...] = (0.25, 0.5, 0.7, 0.85, 0.95)
BUILDS_PER_BLOCK = 4  # at most: once alone, and again after others are gone


@dataclass(frozen=True)
class Sensitivity:
    """The increase of the score (0 = none) when a group is pruned, by its width.

    `counts[group]` are the measured widths, ascending, the last one the unpruned group (increase
    0); `increases[group]` never rise with the width: they are made monotone from the unpruned group
    downwards, since a better result at a smaller width is noise. A block counts as 0 or 1 units.
    `dense` is the score of the dense model. What blocks count beside groups is their increase times
    `block_factor`, None as long as that is not settled: then it is 1.
    """

    dense: float
    counts: Mapping[str, tuple[int, ...]]
    increases: Mapping[str, tuple[float, ...]]
    block_factor: float | None = None

    def __post_init__(self) -> None:
        for name, counts in self.counts.items():
            values = self.increases[name]
            falling = all(a >= b for a, b in itertools.pairwise(values))
            if len(values) != len(counts) or not falling or values[-1] != 0.0:
                raise ValueError(
                    f"increases[{name!r}] must fall to 0 over {len(counts)} counts, got {values}"
                )
            if list(counts) != sorted(set(counts)):
                raise ValueError(f"counts[{name!r}] must be ascending, got {counts}")

    def at(self, group: str, count: int) -> float:
        """The increase at any width, linear between the measured ones and below the smallest.

        >>> table = Sensitivity(0.5, {"conv1": (2, 4, 8)}, {"conv1": (0.9, 0.2, 0.0)})
        >>> [round(table.at("conv1", count), 3) for count in (8, 6, 3, 1)]
        [0.0, 0.1, 0.55, 1.25]
        """
        counts, values = self.counts[group], self.increases[group]
        least = min(1, counts[0])
        if not least <= count <= counts[-1]:
            raise UsageError(
                f"count must lie in {least} to {counts[-1]} for group {group!r}, got {count}"
            )
        if len(counts) == 1:
            return 0.0
        right = max(1, bisect.bisect_left(counts, count))
        low, high = counts[right - 1], counts[right]
        share = (count - low) / (high - low)
        rise = values[right - 1] + share * (values[right] - values[right - 1])
        return rise * (self.block_factor or 1.0) if group.startswith(BLOCK) else rise

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            "dense": self.dense,
            "kept": {name: list(counts) for name, counts in self.counts.items()},
            "damage": {name: list(values) for name, values in self.increases.items()},
            "block_factor": self.block_factor,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sensitivity:
        """Inverse of `to_dict`. An earlier version multiplied the increases by their factor."""
        return Sensitivity(
            data["dense"],
            {name: tuple(counts) for name, counts in data["kept"].items()},
            {name: tuple(values) for name, values in data["damage"].items()},
            data.get("block_factor", 1.0),
        )


def measure(
    model: nn.Module,
    graph: PruningGraph,
    calibration: Calibration,
    score: Score,
    *,
    ratios: Sequence[float] = RATIOS,
    scores: Mapping[str, Tensor] | None = None,
    nearest: Nearest | None = None,
    blocks: Sequence[str] = (),
    statistics: Sequence[Any] = (),
    forward: Forward | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Prune each group alone at each ratio, repair, and measure the increase of `score`.

    `score(model)` is a loss, less is better: `divergence(model, batches)` makes one that needs no
    targets. `scores` are the units' importance (by default the Optimal-Brain-Surgeon order),
    `nearest` rounds the widths that are tried. Means that pruning shifts are corrected by the
    repair, so the statistics of batch normalizations are unchanged. The `blocks` are dropped
    alone and one after another (`drop_order`), with batch normalizations re-estimated on the
    `statistics` batches. `progress` is called with how many models of at most how many are scored.
    Raises TrainingError where a score is not finite.
    """
    for ratio in ratios:
        if not 0.0 < ratio < 1.0:
            raise UsageError(f"ratios must lie in (0, 1), got {ratio}")
    scores = obs_scores(model, graph, calibration) if scores is None else scores
    dense = _finite(score(model), "the dense model")
    widths = len(graph.groups) * len(ratios)
    every = widths + BUILDS_PER_BLOCK * len(blocks)
    places = itertools.count(widths)
    tell = progress or (lambda done, every: None)
    counts: dict[str, tuple[int, ...]] = {}
    increases: dict[str, tuple[float, ...]] = {}

    def narrowed(group: str, count: int) -> float:
        small = build(
            model,
            graph,
            Architecture({group: count}),
            scores=scores,
            calibration=calibration,
            predict_statistics=False,
        ).model
        return _finite(score(small), f"group {group!r} with {count} units") - dense

    def without(dropped: Sequence[str]) -> float:
        tell(next(places), every)
        small = build(model, graph, Architecture(dropped=dropped)).model
        reestimate_batchnorm(small, statistics, forward=forward)
        return _finite(score(small), f"the model without {', '.join(dropped)}") - dense

    for done, (name, size) in enumerate(graph.sizes().items()):
        tell(done * len(ratios), every)
        wanted = [size * (1.0 - ratio) for ratio in ratios]
        tried = {nearest(name, w) if nearest else max(1, round(w)) for w in wanted} - {size}
        rises = {size: 0.0} | {count: narrowed(name, count) for count in sorted(tried)}
        counts[name] = tuple(sorted(rises))
        increases[name] = _monotone([rises[count] for count in counts[name]])
    alone = {name: without([name]) for name in blocks}
    values = sorted(max(0.0, rise) for rise in alone.values())
    for name, value in zip(drop_order(alone, without), values, strict=True):
        counts[f"{BLOCK}{name}"], increases[f"{BLOCK}{name}"] = (0, 1), (value, 0.0)
    return Sensitivity(dense, counts, increases)


def drop_order(alone: Mapping[str, float], rise: Callable[[Sequence[str]], float]) -> list[str]:
    """The blocks in the order in which they go, always the one that adds least to those gone.

    `alone` is the increase with each block dropped alone, `rise(dropped)` that with several. Lazy
    greedy selection (Minoux, "Accelerated Greedy Algorithms for Maximizing Submodular Set
    Functions", 1978): what a block adds mostly grows as others go, so that only those whose last
    value is least are measured again. At most BUILDS_PER_BLOCK - 1 models a block are measured
    here; the rest goes by the last values.

    >>> rise = lambda gone: len(gone) ** 2.0 + ("a" in gone)
    >>> drop_order({"a": 2.0, "b": 1.0, "c": 1.0}, rise)
    ['b', 'c', 'a']
    """
    waiting = [(value, 0, place) for place, value in enumerate(alone.values())]
    heapq.heapify(waiting)
    names, order = list(alone), list[str]()
    level, left = 0.0, (BUILDS_PER_BLOCK - 1) * len(names)
    while waiting:
        added, when, place = heapq.heappop(waiting)
        if when == len(order) or not left:
            order.append(names[place])
            level += added
        else:
            left -= 1
            now = rise([*order, names[place]]) - level
            heapq.heappush(waiting, (now, len(order), place))
    return order


def divergence(
    model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None
) -> Score:
    """A score: how far another model's outputs are from those of `model` on the same batches.

    For outputs of shape (N, C) the mean Kullback-Leibler divergence of their softmax in nats, for
    other tensors the mean squared difference over the variance of the model's output, and for a
    single value (a loss, say) the squared difference over the sum of both squares: at most 2. They
    are summed over the outputs, and averaged over the batches by their samples. Floating-point
    tensors count, wherever the outputs hold them: in sequences, mappings and attributes. One that
    gets another shape is left out. The outputs of `model` are computed once. Raises UsageError when
    there is no batch, or nothing to compare.
    """
    batches = list(batches)
    if not batches:
        raise UsageError("divergence needs at least one batch, got none")
    wanted = [_outputs(model, batch, forward) for batch in batches]
    if not any(b.numel() for target in wanted for b in target):
        raise UsageError("the model's outputs must hold a floating-point tensor, got none")
    sizes = [_samples(batch, target) for batch, target in zip(batches, wanted, strict=True)]

    def score(other: nn.Module) -> float:
        total, pairs = torch.zeros((), dtype=torch.float64), 0
        for batch, target, size in zip(batches, wanted, sizes, strict=True):
            for a, b in zip(_outputs(other, batch, forward), target, strict=False):
                if a.shape == b.shape and b.numel():
                    total += size * _distance(a, b)
                    pairs += 1
        if not pairs:
            raise UsageError("an output of the smaller model must keep its shape, got others only")
        return float(total) / sum(sizes)

    return score


def _outputs(model: nn.Module, batch: Any, forward: Forward | None) -> list[Tensor]:
    with evaluating(model), torch.no_grad():
        found = tensors_in(run(model, batch, forward))
    return [x.detach() for x in found if x.is_floating_point()]


def _samples(batch: Any, outputs: Sequence[Tensor]) -> int:
    """The first size in the batch; in the outputs where the batch holds no tensor."""
    return next((len(x) for x in (*tensors_in(batch), *outputs) if x.dim()), 1)


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean distance of the samples, float64 on the CPU."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        logs = F.log_softmax(found, 1), F.log_softmax(wanted, 1)
        return F.kl_div(*logs, reduction="batchmean", log_target=True)
    single = wanted.numel() == 1
    spread = found.square() + wanted.square() if single else wanted.var(correction=0)
    return ((found - wanted).square() / spread.clamp_min(1e-30)).mean()


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise TrainingError(f"the score of {what} must be finite, got {value}")
    return float(value)


def _monotone(rises: list[float]) -> tuple[float, ...]:
    """Non-increasing values: the running maximum from the unpruned group downwards."""
    highest, values = 0.0, []
    for rise in reversed(rises):
        highest = max(highest, rise)
        values.append(highest)
    return tuple(reversed(values))
