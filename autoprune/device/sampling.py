"""Which prunings to measure for a latency prediction, and measuring them."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.cost.inputs import Inputs
from autoprune.cost.latency import Latency, measure_latency, measure_together
from autoprune.cost.sizes import Floats
from autoprune.device import fitting
from autoprune.device.features import LatencyFeatures
from autoprune.errors import DeviceLostError
from autoprune.graph import PruningGraph
from autoprune.pruning.build import build
from autoprune.space import kept_units

_log = logging.getLogger(__name__)

_FIRST = 24  # prunings drawn at random before the fit chooses the next ones
_LEAST = 20  # fewest prunings for a fit, if time is over or the device was lost
_TOGETHER = (6, 24)  # prunings measured interleaved with the dense model
_ROOM = 1e9  # bytes: the most for the weights of one batch of models
_UNSURE = 2 / 3  # share chosen by the variance of the fit; the others are drawn at random
_POOL = 8  # times as many prunings to choose from
_AGAIN = 1.5  # growth of the samples until the fit's penalty is chosen anew, which takes seconds
_REPEATS = (5, 300)  # at least and at most, by how long the dense model takes
_TIMED_MS = 250.0  # about the time for one pruning
_WARMUP_S = 0.05
_DROPPED = 0.95
_WIDTHS, _BOTH, _BLOCKS = range(3)  # what is pruned, in turn

Convert = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured pruning: its count of each of the graph's columns, and its latency.

    `ratio` is relative to the dense model that was measured with it.
    """

    counts: Mapping[str, int]
    median_ms: float
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {"kept": dict(self.counts), "median_ms": self.median_ms, "ratio": self.ratio}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sample:
        """Inverse of `to_dict`."""
        return Sample(data["kept"], data["median_ms"], data["ratio"])


@dataclass(frozen=True, slots=True)
class Until:
    """When measuring ends: after `samples` prunings or `seconds`, or once the fit is good enough.

    The time limit applies from the 20th pruning on; no pruning is started that would end after it.
    Good enough is a mean absolute relative error of at most `error` in cross-validation.
    """

    samples: int = 100
    seconds: float = 60.0
    error: float = 0.03


@dataclass
class Measured:
    """Measurements: the prunings, and the dense model with each batch of them."""

    samples: list[Sample] = field(default_factory=list)
    dense: list[Latency] = field(default_factory=list)
    pruned: list[Latency] = field(default_factory=list)

    @property
    def device(self) -> Device:
        """The device that was measured."""
        return self.dense[0].device

    @property
    def pruned_device(self) -> Device:
        """The same, with the precision of the prunings."""
        return self.pruned[0].device

    @property
    def dense_ms(self) -> float:
        """The dense model's median over all batches."""
        return statistics.median(it.median_ms for it in self.dense)

    @property
    def p95_factor(self) -> float:
        """How far the 95th percentile usually lies above the median."""
        return statistics.median(it.p95_ms / it.median_ms for it in (*self.dense, *self.pruned))


ENOUGH = Until()


class Sampler:
    """Measures prunings of a model in batches, interleaved with the dense model."""

    def __init__(
        self,
        model: nn.Module,
        graph: PruningGraph,
        example_inputs: Inputs,
        *,
        runtime: str,
        threads: int,
        seed: int,
        convert: Convert | None = None,
        room: float = _ROOM,
    ) -> None:
        """`convert` makes of each pruning what is measured instead; the dense model stays as is.

        The weights of one batch of models take at most `room` bytes, or are those of six.
        """
        self._model, self._graph, self._inputs = model, graph, example_inputs
        self._convert = convert or (lambda model: model)
        self._runtime, self._threads, self._seed = runtime, threads, seed
        self._features = LatencyFeatures(graph)
        fewest, most = _TOGETHER
        bytes_ = sum(it.numel() * it.element_size() for it in model.state_dict().values())
        self._together = int(np.clip(room / max(bytes_, 1), fewest, most))
        self._penalty: fitting.Penalty | None = None
        self._chosen_at = 0

    def measure(self, until: Until) -> Measured:
        """First random prunings; then batches of those where the fit has the largest variance.

        Raises DeviceLostError where a remote device is lost before 20 prunings were measured.
        """
        repeats = self._repeats()
        first = random_architectures(self._graph, min(_FIRST, until.samples), self._seed)
        pool = random_architectures(self._graph, _POOL * until.samples, self._seed + 1)
        found, began, pace = Measured(), time.monotonic(), 0.0
        while first:
            batch, first = first[: self._together], first[self._together :]
            start = time.monotonic()
            try:
                self._batch(batch, repeats, found)
            except DeviceLostError as error:
                _check_enough(len(found.samples), until.samples, error)
                break
            pace = max(pace, (time.monotonic() - start) / len(batch))
            if len(found.samples) >= _LEAST:
                left = until.seconds - (time.monotonic() - began)
                affordable = max(0, int(left / pace))
                first = first[:affordable] or self._next(found.samples, pool, until, affordable)
        return found

    def measure_these(self, given: Sequence[Architecture]) -> Measured:
        """Given prunings, in batches with the dense model."""
        found, repeats = Measured(), self._repeats()
        for batch in _even(given, self._together):
            self._batch(batch, repeats, found)
        return found

    def _repeats(self) -> int:
        quick = measure_latency(
            self._model,
            self._inputs,
            self._runtime,
            threads=self._threads,
            warmup_s=_WARMUP_S,
            repeats=_REPEATS[0],
        )
        return int(np.clip(_TIMED_MS / quick.median_ms, *_REPEATS))

    def _batch(self, batch: Sequence[Architecture], repeats: int, found: Measured) -> None:
        built = (pruned(self._model, self._graph, architecture) for architecture in batch)
        models = [self._convert(model) for model in built]
        dense, *rest = measure_together(
            [self._model, *models],
            self._inputs,
            self._runtime,
            threads=self._threads,
            warmup_s=_WARMUP_S,
            repeats=repeats,
        )
        found.dense.append(dense)
        found.pruned.extend(rest)
        for architecture, it in zip(batch, rest, strict=True):
            counts = self._graph.counts(architecture)
            found.samples.append(Sample(counts, it.median_ms, it.ratio))

    def _next(
        self, samples: Sequence[Sample], pool: list[Architecture], until: Until, most: int
    ) -> list[Architecture]:
        """The next batch, removed from the pool; empty if the fit is good enough.

        At most `most`, for the time that is left; no batch of fewer than six except the last.
        """
        left = until.samples - len(samples)
        count = min(self._together, left, most)
        if count < min(_TOGETHER[0], left) or left <= 0:
            return []
        x, y = rows_of(self._features, samples)
        shared = self._features.shared
        if self._penalty is None or len(samples) >= _AGAIN * self._chosen_at:
            self._penalty, error = fitting.best_penalty(x, y, shared)
            self._chosen_at = len(samples)
        else:
            error = fitting.error_left_out(x, y, shared, self._penalty)
        if error <= until.error:
            return []
        penalty = self._penalty
        coefficients = fitting.fit(x, y, shared, penalty)
        counts = [self._features.row(self._graph.counts(each)) for each in pool]
        every = np.concatenate([x, self._features.of(np.concatenate(counts))])
        level = np.maximum(every @ coefficients, y.min() / 2)  # where the fit predicts almost 0
        chosen = fitting.farthest(
            every / level[:, None],
            range(len(x)),
            range(len(x), len(every)),
            math.ceil(_UNSURE * count),
            np.where(shared, *penalty) * len(y),
        )
        taken = {place - len(x) for place in chosen}
        taken |= set(
            [place for place in range(len(pool)) if place not in taken][: count - len(taken)]
        )
        batch = [pool[place] for place in sorted(taken)]
        pool[:] = [each for place, each in enumerate(pool) if place not in taken]
        return batch


def _even(given: Sequence[Architecture], most: int) -> list[Sequence[Architecture]]:
    """As few batches as possible, of about the same size."""
    number = math.ceil(len(given) / most)
    ends = [round(len(given) * n / number) for n in range(number + 1)] if number else []
    return [given[start:end] for start, end in itertools.pairwise(ends)]


def rows_of(features: LatencyFeatures, samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """Features and ratios: first those of the dense model, then one row a sample."""
    x = features.of(counts_of(features, samples))
    return x, np.array([1.0, *(sample.ratio for sample in samples)])


def counts_of(features: LatencyFeatures, samples: Sequence[Sample]) -> NDArray[np.int64]:
    """`candidates x columns`: first the dense model, then one row a sample."""
    return np.concatenate([features.row({}), *(features.row(it.counts) for it in samples)])


def random_architectures(graph: PruningGraph, samples: int, seed: int) -> list[Architecture]:
    """Random prunings, from almost dense to almost nothing.

    A uniform level for the model, each group up to 0.3 from it, rounded to 1, 4 or 8 units. Where
    the model has blocks, these are a third of them; another third drops each block, too, with a
    probability of up to 0.95, and the last third drops blocks alone, with that level as probability
    (`results/latency/draws.md`: what the fit says of models without blocks at full width).
    """
    rng = np.random.default_rng(seed)
    levels = rng.permutation((np.arange(samples) + rng.random(samples)) / samples)
    found = []
    for number, level in enumerate(levels):
        kind = number % 3 if graph.blocks else _WIDTHS
        round_to = int(rng.choice([1, 4, 8]))
        widths = {}
        for group in graph.groups:
            ratio = float(np.clip(level + rng.uniform(-0.3, 0.3), 0.0, 0.95))
            widths[group.name] = kept_units(group.size, ratio * (kind != _BLOCKS), round_to)
        chance = {_WIDTHS: 0.0, _BOTH: _DROPPED * rng.random(), _BLOCKS: _DROPPED * level}[kind]
        dropped = [block.name for block in graph.blocks if rng.random() < chance]
        found.append(Architecture(widths, dropped))
    return found


def pruned(model: nn.Module, graph: PruningGraph, architecture: Architecture) -> nn.Module:
    """A copy of the model with this architecture, with the first units of every group."""
    units = {name: range(width) for name, width in architecture.widths.items()}
    return build(model, graph, architecture, kept_indices=units).model


def _check_enough(measured: int, wanted: int, error: DeviceLostError) -> None:
    """Log how many prunings were measured before a device was lost; raise if too few for a fit."""
    if measured < _LEAST:
        raise DeviceLostError(
            f"{error} · {measured} of {wanted} prunings were measured, a fit needs {_LEAST}"
        ) from error
    _log.warning(
        "%s · the fit uses the %d of at most %d prunings that were measured before",
        error,
        measured,
        wanted,
    )
