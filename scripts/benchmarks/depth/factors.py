"""How much a block's sensitivity should count beside those of widths, by trained accuracy.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth.factors    # 1 h

The allocator adds up sensitivities that are measured without training. Training may recover more of
what a dropped block costs than of what narrow layers cost, or less: here the blocks' sensitivities
are multiplied by a factor, the allocator chooses blocks and widths within a share of the latency
(as predicted, ONNX Runtime, one thread), and what it chose is repaired, trained and validated. A
search takes the factor whose models are nearest to the dense one before training: `*`.
Rows: `results/depth/factors.csv`; table: `factors.md`.
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

READ = """In ResNet-56 blocks counted too much: with 1/8 of their sensitivities it is 4.6 points
better after an epoch at 30 % of the latency, 11 at 12 %, and 1.0 worse at 20 % (a seed differs from
another by up to 0.8). In MiniLM it is the other way round. In the ViT the differences show no
trend. The divergence before training, by which a search chooses, finds the right side of 1 for
ResNet-56, but not for MiniLM (30 %: it takes 1, 4 is better by 0.9 points) or the ViT (50 %: it
takes 2, 0.25 is better). Where no row has a `*`, the factor that a search takes was not trained:
ResNet-56 at 12 % (1/16; models are near chance until trained), MiniLM at 20 % and ViT at 50 % (2).
MiniLM and ViT: one seed."""

KEY = ["model", "share", "factor", "epochs", "seed"]
SHOWN = {
    "model": ("model", ""),
    "share": ("latency, predicted", ".0%"),
    "shown": ("factor of blocks", ""),
    "dropped": ("blocks dropped", ""),
    "macs_share": ("MACs", ".1%"),
    "before": ("validation, no training", ".1%"),
    "epochs": ("epochs", "g"),
    "after": ("validation, trained", ".1%"),
    "seeds": ("seeds", ""),
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
    parser.add_argument("--factors", nargs="+", type=float, default=[4.0, 1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    rows, where = Rows(OUT / "factors.csv", KEY), harness.circumstances()
    picked = Rows(OUT / "picked.csv", ["model", "share"])
    OUT.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        model = MODELS[name]
        bench = Bench(OUT / f"device-{name}.json", model.task())
        known: dict[tuple[str, int], dict[str, float]] = {}  # factors may choose the same
        for share in given.shares:
            if picked.find(model=name, share=share).empty:
                picked.put({"model": name, "share": share, "picked": bench.factor(share), **where})
        for seed, share, factor in product(given.seeds, given.shares, given.factors):
            key = {"model": name, "share": share, "factor": factor}
            key |= {"epochs": model.epochs, "seed": seed}
            if len(rows.find(**key)):
                continue
            architecture = bench.allocate("both", share, factor)
            if (run := (architecture.key, seed)) not in known:
                known[run] = trained(bench, architecture, model, seed)
            found = {**key, **known[run], **where}
            print({column: found[column] for column in (*key, *known[run])}, flush=True)
            rows.put(found)
            write_text(OUT / "factors.md", page(rows.read(), picked.read()))


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


def page(rows: pd.DataFrame, picked: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    columns = ["model", "share", "factor"]
    groups = rows.groupby([*columns, "epochs"], as_index=False)
    held = groups.mean(numeric_only=True).assign(seeds=groups.size()["size"])
    held = held.merge(picked[["model", "share", "picked"]], on=["model", "share"], how="left")
    held = held.sort_values(columns, ascending=[True, False, False])
    stars = (held.factor == held.picked).map({True: " *", False: ""})
    held["shown"] = [f"{factor:g}{star}" for factor, star in zip(held.factor, stars, strict=True)]
    return (
        "# How block and width sensitivities are weighted\n\nBlocks and widths chosen together, "
        "repaired, trained; means over seeds. `*`: what a search takes. "
        f"{harness.stamp(rows)}\n\n{READ}\n\n{harness.table(held, SHOWN)}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
