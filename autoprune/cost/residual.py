"""What an additive model leaves unexplained of a latency: a Gaussian process on the widths."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from autoprune.cost import fitting
from autoprune.cost.model import Floats

_STEP = 4  # channel counts off this take other kernels


@dataclass(frozen=True, eq=False)
class Residual:
    """The mean of a Gaussian process with a squared-exponential kernel (Rasmussen & Williams 2006).

    It is a function of each group's share of units kept and of whether their number is off a
    multiple of four; its value is the logarithm of the factor by which a latency is corrected.
    `known` are `measured x inputs`, `weights` one each; far from what was measured it is `offset`.
    """

    sizes: NDArray[np.int64]
    known: Floats
    weights: Floats
    length: float
    offset: float

    @staticmethod
    def fit(kept: NDArray[np.int64], sizes: NDArray[np.int64], logs: Floats) -> Residual:
        """To the logarithms of measured over predicted; `kept` is `measured x groups`.

        Length and strength are those of the largest marginal likelihood.
        """
        known = _inputs(kept, sizes)
        kernel = ConstantKernel(1.0, (1e-3, 10.0)) * RBF(3.0, (0.3, 50.0))
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(0.5, (1e-2, 10.0)), normalize_y=True, random_state=0
        )
        with warnings.catch_warnings():  # a bound that is reached says: nothing to be learned
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(known, logs)
        found = process.kernel_.get_params()
        strength = float(found["k1__k1__constant_value"]) * float(np.std(logs))
        weights = strength * np.asarray(process.alpha_, dtype=np.float64)
        length = float(found["k1__k2__length_scale"])
        return Residual(sizes, known, weights, length, float(np.mean(logs)))

    @staticmethod
    def left_out(kept: NDArray[np.int64], sizes: NDArray[np.int64], logs: Floats) -> Floats:
        """For each row, what a process fitted without its fold says."""
        said = np.zeros(len(logs))
        for held in fitting.folds(len(logs) + 1):
            held = held[1:]
            said[held] = Residual.fit(kept[~held], sizes, logs[~held]).of(kept[held])
        return said

    def of(self, kept: NDArray[np.int64]) -> Floats:
        """`candidates x groups` → the logarithm of each one's correction."""
        apart = cdist(_inputs(kept, self.sizes), self.known, "sqeuclidean")
        return np.asarray(self.offset + np.exp(-0.5 * apart / self.length**2) @ self.weights)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        plain = dataclasses.asdict(self)
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in plain.items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Residual:
        """Inverse of `to_dict`."""
        return Residual(
            sizes=np.array(data["sizes"], dtype=np.int64),
            known=np.array(data["known"], dtype=np.float64),
            weights=np.array(data["weights"], dtype=np.float64),
            length=float(data["length"]),
            offset=float(data["offset"]),
        )


def _inputs(kept: NDArray[np.int64], sizes: NDArray[np.int64]) -> Floats:
    return np.concatenate([kept / sizes, (kept % _STEP != 0) * 1.0], axis=1)
