"""A latency predictor for all prunings of one model, fitted to measured ones."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr
from torch import nn

from autoprune.budget import Device
from autoprune.cost.inputs import Inputs
from autoprune.cost.sizes import Floats
from autoprune.device import fitting
from autoprune.device.features import LEAST, LatencyFeatures
from autoprune.device.sampling import ENOUGH, Sample, Sampler, Until, counts_of
from autoprune.errors import DeviceError
from autoprune.graph import PruningGraph

_log = logging.getLogger(__name__)

_DOUBTFUL = 0.1
_COVERED = 0.95  # coverage of the upper bound on unseen prunings
_CONFIDENCE = 0.8  # of that coverage
_FORMAT = 7
_NOISE, _USUAL = 0.05, 0.15  # of a ratio's logarithm, and of the power around 1
_POWERS = (0.5, 2.0)
_FEWEST_MOVED = 4


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """A model of latency relative to the dense model, which rises with every amount of work.

    It begins with a sum over layers, fitted by least squares on relative errors, with non-negative
    coefficients (`fitting.fit`) for features of the whole model and of each layer, penalised by
    amounts that cross-validation chooses. A sum is too low for narrow models and too high where
    blocks are dropped, so it is raised to a power near 1, and multiplied by totals of the model
    (`features.TOTALS`) raised to powers near 0, none of them negative (`fitting.powers`).

    `error` is the mean absolute relative error on prunings that the fit had not seen (five folds,
    the same that choose the penalty), `held_out` the measured and predicted ratios behind it.
    `powers` is that of the sum, then those of the totals. `p95_factor` is the usual distance of the
    95th percentile.
    """

    features: LatencyFeatures
    coefficients: Floats
    powers: Floats
    device: Device
    dense_ms: float
    p95_factor: float
    error: float
    held_out: tuple[tuple[float, float], ...]
    samples: tuple[Sample, ...]

    @property
    def upper_factor(self) -> float:
        """The prediction times this is an upper bound: 95 % of unseen prunings are below it.

        With a confidence of 80 %, for prunings drawn like the measured ones: the tolerance limit of
        measured over predicted on the held-out prunings (Wilks 1941), at least 1. Where those are
        too few for that (below 32), their largest.
        """
        over = np.sort([ours / theirs for ours, theirs in self.held_out if theirs > 0.0])
        if not len(over):
            return 1.0
        confidence = bdtr(np.arange(len(over)), len(over), _COVERED)
        place = int(np.searchsorted(confidence, _CONFIDENCE))
        return max(1.0, float(over[min(place, len(over) - 1)]))

    @staticmethod
    def fit(
        model: nn.Module,
        graph: PruningGraph,
        example_inputs: Inputs,
        *,
        runtime: str = "torch",
        threads: int = 1,
        until: Until = ENOUGH,
        seed: int = 0,
    ) -> LatencyPredictor:
        """Prune copies of the model, measure them with the dense one, and fit.

        The first prunings are drawn at random, the next ones where the variance of the fit
        is largest, until its cross-validation error is small enough (see `Until`). An error above
        10 % is logged as a warning, and so is a remote device that was lost after 20 prunings: the
        fit uses those.

        Raises:
            DeviceError: unknown or missing runtime, too many threads, a device lost before.
            ValueError: fewer than 10 samples.
        """
        if until.samples < 2 * fitting.FOLDS:
            raise ValueError(f"samples must be at least {2 * fitting.FOLDS}, got {until.samples}")
        sampler = Sampler(model, graph, example_inputs, runtime=runtime, threads=threads, seed=seed)
        found = sampler.measure(until)
        fitted = LatencyPredictor.from_samples(
            graph,
            found.samples,
            device=found.device,
            dense_ms=found.dense_ms,
            p95_factor=found.p95_factor,
        )
        if fitted.error > _DOUBTFUL:
            _log.warning(
                "predicted latencies are off by %.0f %% on unseen prunings (%d of %d measurements "
                "were noisy); measure on an idle machine to trust them",
                100 * fitted.error,
                sum(it.noisy for it in found.pruned),
                len(found.pruned),
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
        """Fit to existing measurements; the dense model counts as one more.

        Raises ValueError for fewer than 10 samples.
        """
        features = LatencyFeatures(graph)
        x, totals = features.with_totals(counts_of(features, samples))
        y = np.array([1.0, *(sample.ratio for sample in samples)])
        shared = features.shared
        penalty, _ = fitting.best_penalty(x, y, shared)
        coefficients = fitting.fit(x, y, shared, penalty)
        dense = x[0] @ coefficients
        told = fitting.left_out(x, y, shared, penalty)
        told[0] = dense
        logs, wanted = _logs(told / dense, totals), np.log(y)
        predicted, measured = np.exp(_left_out(logs, wanted))[1:], y[1:]
        return LatencyPredictor(
            features=features,
            coefficients=coefficients,
            powers=fitting.powers(logs, wanted),
            device=device,
            dense_ms=dense_ms,
            p95_factor=p95_factor,
            error=float(np.mean(np.abs(predicted / measured - 1.0))),
            held_out=tuple(zip(measured.tolist(), predicted.tolist(), strict=True)),
            samples=tuple(samples),
        )

    def predict(self, counts: Mapping[str, int]) -> float:
        """Median milliseconds at these counts; columns that are not named are unpruned."""
        return float(self.predict_many(self.features.row(counts))[0])

    def predict_many(self, counts: NDArray[np.int64]) -> Floats:
        """Median milliseconds of many candidates, given as `candidates x groups`."""
        return np.asarray(self.dense_ms * np.exp(self._logs(counts) @ self.powers))

    def by_layer(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The part of `predict` that each contraction takes; the rest is of other operators."""
        row = self.features.row(counts)
        parts = self.features.by_contraction(row, self.coefficients)[0]
        scale = float(self.predict_many(row)[0]) / (float(self.additive(row)[0]) or 1.0)
        return dict(zip(self.features.contractions, (parts * scale).tolist(), strict=True))

    def corrected(self, checks: Sequence[Sample]) -> LatencyPredictor:
        """The same, agreeing with later measurements of the models that matter.

        Ratios to the dense model are raised to one power, so that the dense model's stays 1. It is
        the regression of measured on predicted logarithms, drawn to 1 (normal errors of 5 % in a
        ratio, of 0.15 in the power): checks near the dense model say little of it. The checks
        are the held-out prunings from then on.
        """
        counts = np.concatenate([self.features.row(check.counts) for check in checks])
        logs = self._logs(counts) @ self.powers
        measured = np.array([check.ratio for check in checks])
        usual = (_NOISE / _USUAL) ** 2
        power = (logs @ np.log(measured) + usual) / (logs @ logs + usual)
        power = float(np.clip(power, *_POWERS))
        fitted = np.exp(power * logs)
        return dataclasses.replace(
            self,
            powers=power * self.powers,
            error=float(np.mean(np.abs(fitted / measured - 1.0))),
            held_out=tuple(zip(measured.tolist(), fitted.tolist(), strict=True)),
        )

    def moved(
        self, checks: Sequence[Sample], device: Device, dense: float | None = None
    ) -> LatencyPredictor:
        """The same for another precision, runtime or machine, from a few measurements there.

        Each `ratio` of `checks` is the time there over the dense model's here, and so is `dense`
        the dense model's, where it was measured there. The coefficients are scaled by one factor,
        and those of the features of the whole model get a part of their own (`fitting.moved`);
        `held_out` are the checks, each predicted from the others. Raises ValueError for fewer than
        4 of them.
        """
        if len(checks) < _FEWEST_MOVED:
            raise ValueError(f"moving needs at least {_FEWEST_MOVED} checks, got {len(checks)}")
        known: list[tuple[Mapping[str, int], float]] = [({}, dense)] if dense is not None else []
        pairs = [*((check.counts, check.ratio) for check in checks), *known]
        x, totals = self.features.with_totals(
            np.concatenate([self.features.row(counts) for counts, _ in pairs])
        )
        y = np.array([ratio for _, ratio in pairs])
        power, bent = self.powers[0], np.exp(np.log(totals) @ self.powers[1:])
        base = self.coefficients / self._dense_ratio
        level = float(np.median(y / (np.maximum(x @ base, LEAST) ** power * bent)))
        wanted = (y / level / bent) ** (1.0 / power)
        coefficients, told = fitting.moved(x, wanted, base, self.features.shared)
        whole = float(self.features.of(self.features.row({}))[0] @ coefficients)
        told, y = (level * bent * told**power)[: len(checks)], y[: len(checks)]
        return dataclasses.replace(
            self,
            device=device,
            coefficients=coefficients / whole,
            dense_ms=self.dense_ms * level * whole**power,
            error=float(np.mean(np.abs(told / y - 1.0))),
            held_out=tuple(zip(y.tolist(), told.tolist(), strict=True)),
            samples=tuple(checks),
        )

    @cached_property
    def _dense_ratio(self) -> float:
        """What the additive model says of the dense model itself: about 1."""
        return float(self.additive(self.features.row({}))[0])

    def additive(self, counts: NDArray[np.int64]) -> Floats:
        """The sum over layers alone, relative to the dense model."""
        return np.asarray(self.features.of(counts) @ self.coefficients)

    def _logs(self, counts: NDArray[np.int64]) -> Floats:
        x, totals = self.features.with_totals(counts)
        return _logs(x @ self.coefficients / self._dense_ratio, totals)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with the measurements; `from_dict` reads it back."""
        return {
            "format": _FORMAT,
            "device": dataclasses.asdict(self.device),
            "columns": dict(self.features.columns),
            "dense_ms": self.dense_ms,
            "p95_factor": self.p95_factor,
            "error": self.error,
            "held_out": [list(pair) for pair in self.held_out],
            "features": list(self.features.names),
            "coefficients": self.coefficients.tolist(),
            "powers": self.powers.tolist(),
            "samples": [it.to_dict() for it in self.samples],
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
        if data["columns"] != features.columns or data["features"] != list(features.names):
            raise DeviceError(
                f"the latency profile is of another model: {_unlike(data['columns'], features)} "
                "· make it again for this one"
            )
        return LatencyPredictor(
            features=features,
            coefficients=np.array(data["coefficients"], dtype=np.float64),
            powers=np.array(data["powers"], dtype=np.float64),
            device=Device(**data["device"]),
            dense_ms=data["dense_ms"],
            p95_factor=data["p95_factor"],
            error=data["error"],
            held_out=tuple((ours, theirs) for ours, theirs in data["held_out"]),
            samples=tuple(Sample.from_dict(sample) for sample in data["samples"]),
        )


def _logs(sums: Floats, totals: Floats) -> Floats:
    """What `powers` multiply: `candidates x (1 + totals)`, all relative to the dense model."""
    return np.asarray(np.log(np.concatenate([np.maximum(sums, LEAST)[:, None], totals], axis=1)))


def _left_out(logs: Floats, wanted: Floats) -> Floats:
    """For each row but the first, the cross-validated prediction of `wanted`."""
    predicted = wanted.copy()
    for held in fitting.folds(len(wanted)):
        predicted[held] = logs[held] @ fitting.powers(logs[~held], wanted[~held])
    return predicted


def _unlike(columns: Mapping[str, int], features: LatencyFeatures) -> str:
    for name, size in features.columns.items():
        if columns.get(name) != size:
            return f"group {name!r} has {size} units here and {columns.get(name, 'none')} there"
    extra = [name for name in columns if name not in features.columns]
    return f"group {extra[0]!r} is missing here" if extra else "its layers differ"
