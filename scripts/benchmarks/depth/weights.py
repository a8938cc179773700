"""How much a block's sensitivity should count beside those of widths, by trained accuracy.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth.weights    # 1 h

The allocator adds up sensitivities that are measured without training. Training may recover more of
what a dropped block costs than of what narrow layers cost, or less: here the blocks' sensitivities
are multiplied by a weight, the allocator chooses blocks and widths within a share of the latency
(as predicted, ONNX Runtime, one thread), and what it chose is repaired, trained and validated.
Rows: `results/depth/weights.csv`; table: `weights.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from autoprune.architecture import Architecture
from autoprune.store import write_text
from autoprune.tasks import Task
from examples.cifar10 import Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.depth.__main__ import OUT, Bench
from scripts.benchmarks.encoders.__main__ import CASES
from scripts.benchmarks.harness import Rows

KEY = ["model", "share", "weight", "epochs", "seed"]
SHOWN = {
    "model": ("model", ""),
    "share": ("latency, predicted", ".0%"),
    "weight": ("weight of blocks", "g"),
    "dropped": ("blocks dropped", ""),
    "macs_share": ("MACs", ".1%"),
    "before": ("validation, no training", ".1%"),
    "epochs": ("epochs", "g"),
    "after": ("validation, trained", ".1%"),
}


@dataclass(frozen=True)
class Model:
    """A dense model, and how long and at which rate what is left of it is trained."""

    task: Callable[[], Task]
    epochs: float
    lr: float


MODELS = {
    "ResNet-56": Model(Cifar10ResNet56, 1.0, 0.01),
    "MiniLM-L6": Model(lambda: CASES["text"].task(8000), 1.0, 1e-4),
    "ViT": Model(lambda: CASES["images"].task(8000), 2.0, 1e-3),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.3, 0.2, 0.12])
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0, 0.5, 0.25, 0.1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    rows, where = Rows(OUT / "weights.csv", KEY), harness.circumstances()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        model = MODELS[name]
        bench = Bench(OUT / f"device-{name}.json", model.task())
        known: dict[tuple[str, int], dict[str, float]] = {}  # weights may choose the same
        for seed, share, weight in product(given.seeds, given.shares, given.weights):
            key = {"model": name, "share": share, "weight": weight}
            key |= {"epochs": model.epochs, "seed": seed}
            if len(rows.find(**key)):
                continue
            architecture = bench.allocate("both", share, weight)
            if (run := (architecture.key, seed)) not in known:
                known[run] = trained(bench, architecture, model, seed)
            found = {**key, **known[run], **where}
            print({column: found[column] for column in SHOWN}, flush=True)
            rows.put(found)
            write_text(OUT / "weights.md", page(rows.read()))


def trained(bench: Bench, architecture: Architecture, model: Model, seed: int) -> dict[str, float]:
    """Costs as shares of the dense model's, and validation accuracy before and after training."""
    cost, dense = bench.costs.cost(architecture), bench.costs.dense
    before = bench.recover(architecture, 0.0, seed, ["val"])
    after = bench.recover(architecture, model.epochs, seed, ["val"], lr=model.lr)
    return {
        "dropped": len(architecture.dropped),
        "predicted_share": cost.get("latency_ms") / dense.get("latency_ms"),
        "macs_share": cost.get("macs") / dense.get("macs"),
        "before": before["val_accuracy"],
        "after": after["val_accuracy"],
    }


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    columns = ["model", "share", "weight"]
    held = rows.groupby([*columns, "epochs"], as_index=False).mean(numeric_only=True)
    held = held.sort_values(columns, ascending=[True, False, False])
    return (
        "# What a block counts beside widths\n\nBlocks and widths chosen together, repaired, "
        f"trained; {rows.seed.nunique()} seed(s), means. {harness.stamp(rows)}\n\n"
        f"{harness.table(held, SHOWN)}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
