"""Ways to fit a latency to the same measured prunings, in ONNX Runtime.

    python scripts/bench_fit.py            # from the measurements that are there, two minutes
    python scripts/bench_fit.py --measure  # measure them anew, 150 prunings twice, about ten more

Each way is fitted to 54 or 102 prunings of one pass and tried on the others, 6 draws of whole
batches and both passes; what is predicted is compared with the mean of both passes. Measurements
are in `results/bench/latency/prunings.json`, the table is `results/bench/latency/fit.md`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_latency.families import FAMILIES
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from autoprune.cost import fitting
from autoprune.cost.features import LatencyFeatures
from autoprune.cost.residual import Residual
from autoprune.cost.sampling import Sampler, random_keeps
from autoprune.cost.targets import device_name
from autoprune.pruning.one_shot import prunable

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency"
MEASURED = OUT / "prunings.json"
RUNTIME, PRUNINGS, TOGETHER, DRAWS = "onnxruntime", 150, 6, 6
SIZES = (9, 17)  # batches of six to fit to


class Fits:
    """Every way, for one family; `rows` are fitted to, `wanted` are predicted."""

    def __init__(self, features: LatencyFeatures, kept: np.ndarray) -> None:
        self._x, self._shared = features.of(kept), features.shared
        self._dense = features.of(features.row({}))
        self._kept, self._sizes = kept, np.array(list(features.groups.values()))
        logs = np.log(np.maximum(self._x[:, self._shared], 1e-3))
        self._logs = np.concatenate([logs, kept / self._sizes, (kept % 4 != 0) * 1.0], 1)

    def __call__(
        self, rows: np.ndarray, ratios: np.ndarray, batches: list[int], wanted: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Way -> the ratios that it predicts."""
        x = np.concatenate([self._dense, self._x[rows]])
        y = np.concatenate([[1.0], ratios])
        penalty, _ = fitting.best_penalty(x, y, self._shared)
        level = fitting.levelled(x, y, self._shared, [None, *batches], penalty)
        base = self._x[wanted] @ fitting.fit(x, level, self._shared, penalty)
        left_out = fitting.left_out(x, level, self._shared, penalty)
        residual = Residual.fit(self._kept[rows], self._sizes, np.log(level / left_out)[1:])
        alone = _process().fit(self._logs[rows], np.log(level[1:]))
        plain = fitting.fit(x, y, self._shared, penalty)
        return {
            "non-negative least squares": self._x[wanted] @ plain,
            "the same, batches levelled": base,
            "and a Gaussian process on its residuals": base
            * np.exp(residual.of(self._kept[wanted])),
            "a Gaussian process on logarithms": np.exp(alone.predict(self._logs[wanted])),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=["mobilenet", "vgg"])
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.measure:
        found = {family: measure(family) for family in given.families}
        MEASURED.write_text(json.dumps({"device": device_name(), **found}), encoding="utf-8")
    stored = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows = [["family", "fitted to", "way", "error", "beyond 10 %"], ["---"] * 5]
    for family in given.families:
        rows += compare(family, stored[family])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    words = (
        f"# Ways to fit a latency\n\n`python scripts/bench_fit.py`: {RUNTIME} on "
        f"{stored['device']}, 1 thread; {PRUNINGS} prunings measured twice, compared with the "
        f"mean of both.\n\n{table}\n"
    )
    (OUT / "fit.md").write_text(words, encoding="utf-8")
    print(words)


def measure(family: str) -> dict[str, Any]:
    """Widths and the ratios of both passes."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].build().eval(), FAMILIES[family].example()
    graph = prunable(model, inputs)
    sampler = Sampler(model, graph, inputs, runtime=RUNTIME, threads=1, seed=0)
    keeps = random_keeps(graph, PRUNINGS, 77)
    passes = [sampler.measure_these(keeps).samples for _ in range(2)]
    return {
        "kept": [list(sample.kept.values()) for sample in passes[0]],
        "ratios": [[round(sample.ratio, 5) for sample in each] for each in passes],
    }


def compare(family: str, stored: dict[str, Any]) -> list[list[str]]:
    """A row for each way and size."""
    torch.manual_seed(0)
    graph = prunable(FAMILIES[family].build().eval(), FAMILIES[family].example())
    fits = Fits(LatencyFeatures(graph), np.array(stored["kept"]))
    ratios = np.array(stored["ratios"])
    truth = np.exp(np.log(ratios).mean(0))
    rng, lines = np.random.default_rng(0), []
    for size in SIZES:
        off: dict[str, list[float]] = {}
        for _ in range(DRAWS):
            chosen = rng.permutation(PRUNINGS // TOGETHER)[:size]
            rows = np.concatenate([np.arange(TOGETHER) + TOGETHER * n for n in chosen])
            wanted = np.setdiff1d(np.arange(PRUNINGS), rows)
            batches = (rows // TOGETHER).tolist()
            for each in ratios:
                for name, found in fits(rows, each[rows], batches, wanted).items():
                    off.setdefault(name, []).extend(np.abs(found / truth[wanted] - 1.0).tolist())
        for name, errors in off.items():
            beyond = np.mean(np.array(errors) > 0.1)
            lines.append(
                [family, str(TOGETHER * size), name, f"{np.mean(errors):.1%}", f"{beyond:.1%}"]
            )
            print(lines[-1], flush=True)
    return lines


def _process() -> GaussianProcessRegressor:
    kernel = ConstantKernel(0.1, (1e-6, 10.0)) * RBF(3.0, (0.3, 50.0))
    return GaussianProcessRegressor(
        kernel + WhiteKernel(1e-3, (1e-5, 1e-1)), normalize_y=True, random_state=0
    )


if __name__ == "__main__":
    main()
