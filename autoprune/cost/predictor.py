"""Latency of any candidate, learned from measured random prunings of the very model."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import nn

from autoprune.budget import Device
from autoprune.cost.features import LatencyFeatures
from autoprune.cost.inputs import Inputs
from autoprune.cost.latency import Latency, measure_latency, measure_together
from autoprune.cost.model import Floats
from autoprune.errors import DeviceError, DeviceLostError
from autoprune.graph import PruningGraph
from autoprune.pruning.surgery import prune
from autoprune.space import kept_units

_log = logging.getLogger(__name__)

_LEAST = 20  # prunings measured before the device was lost that are enough for a fit
_TOGETHER = 6  # prunings that are measured in turn with the dense model
_REPEATS = (5, 25)  # at least and at most, by how long the dense model takes
_TIMED_MS = 600.0  # about the time for one pruning
_DOUBTFUL = 0.1
_COVERED = 0.95  # the share of unseen prunings that are to stay below the upper bound
_WARMUP_S = 0.05
_FOLDS = 5
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured pruning: units kept by group, and its latency (alone and relative to dense)."""

    kept: Mapping[str, int]
    median_ms: float
    ratio: float


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """An additive, non-negative model of latency relative to the dense model.

    Fitted by least squares on relative errors, with non-negative coefficients (Lawson & Hanson
    1974) for features of the whole model and of each layer; those of layers are penalised, by an
    amount chosen by cross-validation. `error` is the mean absolute relative error on prunings that
    the fit had not seen (five folds; the penalty is chosen within each), `held_out` the measured
    and predicted ratios behind it. `p95_factor` is the usual distance of the 95th percentile.
    """

    features: LatencyFeatures
    coefficients: Floats
    device: Device
    dense_ms: float
    p95_factor: float
    error: float
    held_out: tuple[tuple[float, float], ...]
    samples: tuple[Sample, ...]

    @property
    def upper_factor(self) -> float:
        """By how much 95 % of unseen prunings stay below the prediction times this factor.

        The conformal quantile of measured over predicted on the held-out prunings (Papadopoulos et
        al. 2002; Vovk et al. 2005), at least 1: it holds for prunings drawn like the measured ones.
        """
        over = sorted(ours / theirs for ours, theirs in self.held_out if theirs > 0.0)
        if not over:
            return 1.0
        place = min(math.ceil(_COVERED * (len(over) + 1)), len(over)) - 1
        return max(1.0, over[place])

    @staticmethod
    def fit(
        model: nn.Module,
        graph: PruningGraph,
        example_inputs: Inputs,
        *,
        runtime: str = "torch",
        threads: int = 1,
        samples: int = 40,
        seed: int = 0,
    ) -> LatencyPredictor:
        """Prune copies of the model at random, measure them beside the dense one, and fit.

        Measuring takes seconds to a minute. An error above 10 % is logged as a warning, and so is a
        remote device that was lost after 20 samples: the fit uses those.

        Raises:
            DeviceError: unknown or missing runtime, too many threads, a device lost before.
            ValueError: fewer than 10 samples.
        """
        if samples < 2 * _FOLDS:
            raise ValueError(f"samples must be at least {2 * _FOLDS}, got {samples}")
        keeps = random_keeps(graph, samples, seed)
        quick = measure_latency(
            model, example_inputs, runtime, threads=threads, warmup_s=_WARMUP_S, repeats=_REPEATS[0]
        )
        repeats = int(np.clip(_TIMED_MS / quick.median_ms, *_REPEATS))
        dense: list[Latency] = []
        pruned: list[Latency] = []
        for start in range(0, samples, _TOGETHER):
            models = [_pruned(model, graph, keep) for keep in keeps[start : start + _TOGETHER]]
            try:
                first, *rest = measure_together(
                    [model, *models],
                    example_inputs,
                    runtime,
                    threads=threads,
                    warmup_s=_WARMUP_S,
                    repeats=repeats,
                )
            except DeviceLostError as error:
                _check_enough(len(pruned), samples, error)
                break
            dense.append(first)
            pruned.extend(rest)
        measured = [
            Sample({name: len(units) for name, units in keep.items()}, it.median_ms, it.ratio)
            for keep, it in zip(keeps, pruned, strict=False)
        ]
        fitted = LatencyPredictor.from_samples(
            graph,
            measured,
            device=dense[0].device,
            dense_ms=statistics.median(it.median_ms for it in dense),
            p95_factor=statistics.median(it.p95_ms / it.median_ms for it in (*dense, *pruned)),
        )
        if fitted.error > _DOUBTFUL:
            _log.warning(
                "predicted latencies are off by %.0f %% on unseen prunings (%d of %d measurements "
                "were noisy); measure on an idle machine to trust them",
                100 * fitted.error,
                sum(it.noisy for it in pruned),
                len(pruned),
            )
        return fitted

    @staticmethod
    def from_samples(
        graph: PruningGraph,
        samples: Sequence[Sample],
        *,
        device: Device,
        dense_ms: float,
        p95_factor: float = 1.0,
    ) -> LatencyPredictor:
        """Fit to measurements that are there already; the dense model counts as one more."""
        features = LatencyFeatures(graph)
        rows = [features.row({}), *(features.row(sample.kept) for sample in samples)]
        x = features.of(np.concatenate(rows))
        y = np.array([1.0, *(sample.ratio for sample in samples)])
        shared = features.shared
        predicted = _cross_validated(x, y, shared)
        held_out = tuple(zip(y[1:].tolist(), predicted[1:].tolist(), strict=True))
        return LatencyPredictor(
            features=features,
            coefficients=_fit(x, y, shared, _best_penalty(x, y, shared)),
            device=device,
            dense_ms=dense_ms,
            p95_factor=p95_factor,
            error=float(np.mean([abs(theirs / ours - 1.0) for ours, theirs in held_out])),
            held_out=held_out,
            samples=tuple(samples),
        )

    def predict(self, kept: Mapping[str, int]) -> float:
        """Median milliseconds with `kept[group]` units; groups that are not named are whole."""
        return float(self.predict_many(self.features.row(kept))[0])

    def predict_many(self, kept: NDArray[np.int64]) -> Floats:
        """Median milliseconds of many candidates, given as `candidates x groups`."""
        return np.asarray(self.dense_ms * (self.features.of(kept) @ self.coefficients))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with the measurements; `from_dict` reads it back."""
        return {
            "format": _FORMAT,
            "device": dataclasses.asdict(self.device),
            "groups": dict(self.features.groups),
            "dense_ms": self.dense_ms,
            "p95_factor": self.p95_factor,
            "error": self.error,
            "held_out": [list(pair) for pair in self.held_out],
            "features": list(self.features.names),
            "coefficients": self.coefficients.tolist(),
            "samples": [
                {"kept": dict(it.kept), "median_ms": it.median_ms, "ratio": it.ratio}
                for it in self.samples
            ],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any], graph: PruningGraph) -> LatencyPredictor:
        """Inverse of `to_dict`, for the graph of the same dense model.

        Raises:
            DeviceError: it was made for another model, or by another version.
        """
        if data.get("format") != _FORMAT:
            raise DeviceError(
                f"a latency profile must have format {_FORMAT}, got {data.get('format')!r} "
                "· make it again"
            )
        features = LatencyFeatures(graph)
        if data["groups"] != features.groups or data["features"] != list(features.names):
            raise DeviceError(
                f"the latency profile is of another model: {_unlike(data['groups'], features)} "
                "· make it again for this one"
            )
        return LatencyPredictor(
            features=features,
            coefficients=np.array(data["coefficients"], dtype=np.float64),
            device=Device(**data["device"]),
            dense_ms=data["dense_ms"],
            p95_factor=data["p95_factor"],
            error=data["error"],
            held_out=tuple((ours, theirs) for ours, theirs in data["held_out"]),
            samples=tuple(Sample(**sample) for sample in data["samples"]),
        )


def random_keeps(graph: PruningGraph, samples: int, seed: int) -> list[dict[str, tuple[int, ...]]]:
    """Random units to keep, of candidates that range from almost dense to almost nothing.

    A uniform level for the model, each group up to 0.3 from it, rounded to 1, 4 or 8 units.
    """
    rng = np.random.default_rng(seed)
    levels = rng.permutation((np.arange(samples) + rng.random(samples)) / samples)
    keeps = []
    for level in levels:
        round_to = int(rng.choice([1, 4, 8]))
        keep = {}
        for group in graph.groups:
            ratio = float(np.clip(level + rng.uniform(-0.3, 0.3), 0.0, 0.95))
            kept = kept_units(group.size, ratio, round_to)
            chosen = rng.choice(group.size, kept, replace=False)
            keep[group.name] = tuple(np.sort(chosen).tolist())
        keeps.append(keep)
    return keeps


def _check_enough(measured: int, wanted: int, error: DeviceLostError) -> None:
    """Say how many prunings a device was lost after; raise where they are too few for a fit."""
    if measured < _LEAST:
        raise DeviceLostError(
            f"{error} · {measured} of {wanted} prunings were measured, a fit needs {_LEAST}"
        ) from error
    _log.warning(
        "%s · the fit uses the %d of %d prunings that were measured before",
        error,
        measured,
        wanted,
    )


def _pruned(model: nn.Module, graph: PruningGraph, keep: Mapping[str, Sequence[int]]) -> nn.Module:
    small = copy.deepcopy(model)
    prune(small, graph, keep)
    return small


def _fit(x: Floats, y: Floats, shared: NDArray[np.bool_], penalty: float) -> Floats:
    """Non-negative coefficients with the least relative squares; `penalty` on the own features."""
    weak = np.where(shared, 1e-6, penalty)
    rows = np.concatenate([x / y[:, None], np.diag(np.sqrt(weak * len(y)))])
    target = np.concatenate([np.ones(len(y)), np.zeros(len(weak))])
    return np.asarray(nnls(rows, target, maxiter=20 * len(rows))[0])


def _folds(n: int) -> NDArray[np.int64]:
    """The fold of each row; the first row, the dense model, is in none."""
    return np.concatenate([[-1], np.arange(n - 1) % _FOLDS])


def _best_penalty(x: Floats, y: Floats, shared: NDArray[np.bool_]) -> float:
    errors = []
    for penalty in _PENALTIES:
        predicted = y.copy()
        for fold in range(_FOLDS):
            out = _folds(len(y)) == fold
            predicted[out] = x[out] @ _fit(x[~out], y[~out], shared, penalty)
        errors.append(np.mean(np.abs(predicted / y - 1.0)))
    return _PENALTIES[int(np.argmin(errors))]


def _cross_validated(x: Floats, y: Floats, shared: NDArray[np.bool_]) -> Floats:
    """For each row, what a fit predicts (penalty chosen as well) that did not see it."""
    predicted = y.copy()
    for fold in range(_FOLDS):
        out = _folds(len(y)) == fold
        seen = x[~out], y[~out]
        predicted[out] = x[out] @ _fit(*seen, shared, _best_penalty(*seen, shared))
    return predicted


def _unlike(groups: Mapping[str, int], features: LatencyFeatures) -> str:
    for name, size in features.groups.items():
        if groups.get(name) != size:
            return f"group {name!r} has {size} units here and {groups.get(name, 'none')} there"
    extra = [name for name in groups if name not in features.groups]
    return f"group {extra[0]!r} is missing here" if extra else "its layers differ"
