"""How much memory a process holds after many pruned models have run in it.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.overhead.growth    # 5 minutes

The keyword net of `examples/spoken_digits.py`, pruned at random, one model after another, each run
once on 128 random inputs; with oneDNN's own cache of 1,024 operations, and with the limit that a
search sets (`autoprune/tasks/primitives.py`). Each row is a process of its own. Rows:
`results/overhead/growth.csv`.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time

import torch

from autoprune.architecture import Architecture
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.pruning.verification import prunable
from autoprune.tasks.primitives import VARIABLE, capacity_for
from examples.spoken_digits import SpokenDigits
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

KEY = ["kept", "models"]
BATCH = 128
SHOWN = {
    "kept": ("operations kept", ""),
    "models": ("models", ""),
    "before_mb": ("memory before, MB", ".0f"),
    "after_mb": ("after, MB", ".0f"),
    "seconds": ("seconds", ".0f"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", type=int, default=240)
    parser.add_argument("--inside", action="store_true", help="measure in this process")
    given = parser.parse_args()
    if given.inside:
        print(*grown(given.models))
        return
    rows = Rows(RESULTS / "overhead" / "growth.csv", KEY)
    for kept in (1024, capacity_for(SpokenDigits().build_model())):
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--inside", "--models", str(given.models)],
            env={**os.environ, VARIABLE: str(kept)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        values = map(float, done.stdout.split())
        found = dict(zip(["before_mb", "after_mb", "seconds"], values, strict=True))
        rows.put({"kept": kept, "models": given.models, **found, **harness.circumstances()})
    print(harness.table(rows.read(), SHOWN))


def grown(models: int) -> tuple[float, float, float]:
    """The most memory held before and after, in MB, and the seconds that it took."""
    torch.set_num_threads(1)
    model = SpokenDigits().build_model().eval()
    example = SpokenDigits().example_input()
    graph = prunable(model, example)
    scores = importance.scores(model, graph, "l2")
    inputs = torch.randn(BATCH, *example.shape[1:])
    rng, before, began = random.Random(0), held(), time.monotonic()
    for _ in range(models):
        widths = {name: rng.randint(size // 8, size) for name, size in graph.sizes().items()}
        small = build(model, graph, Architecture(widths), scores=scores).model
        with torch.no_grad():
            small(inputs)
    return before, held(), time.monotonic() - began


def held() -> float:
    """The most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
