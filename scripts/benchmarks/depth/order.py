"""What a block counts for the allocator: alone, or by the order in which they go.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth.order    # 20 minutes

ResNet-56 on CIFAR-10, no training: the sensitivities of the blocks are the increases of the
outputs' KL divergence when each is dropped alone; or these, sorted, given to the blocks in the
order in which they go when they are dropped one after another (what a search uses). The allocator
chooses with each, within the same predicted latency; validation accuracy after repair. Rows:
`results/depth/order.csv`; table: `order.md`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import torch

from autoprune.architecture import BLOCK, Architecture
from autoprune.pruning.build import build
from autoprune.pruning.compensate import reestimate_batchnorm
from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.depth.__main__ import OUT, Bench
from scripts.benchmarks.harness import Rows

KEY = ["kind", "share", "rule"]
SHOWN = {
    "share": ("latency wanted", ".0%"),
    "kind": ("pruned", ""),
    "rule": ("sensitivity of a block", ""),
    "dropped": ("blocks dropped", ""),
    "accuracy": ("validation, no training", ".1%"),
}


def rises(bench: Bench, names: list[str]) -> dict[str, Mapping[str, float]]:
    """The sensitivities of the blocks by each rule; `names` are in the order of dropping."""

    def rise(name: str) -> float:
        small = build(bench.dense, bench.graph, Architecture(dropped=[name])).model
        reestimate_batchnorm(small, bench.statistics, forward=bench.task.loss)
        return max(0.0, bench.score(small))

    alone = {name: rise(name) for name in names}
    return {
        "alone": alone,
        "alone, in order of dropping": dict(zip(names, sorted(alone.values()), strict=True)),
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--profile", type=Path, default=OUT / "device.json")
    options = parser.parse_args()
    rows, where = Rows(OUT / "order.csv", KEY), harness.circumstances()
    OUT.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.profile)
    measured = bench.table
    blocks = {k: v[0] for k, v in measured.increases.items() if k.startswith(BLOCK)}
    names = [name.removeprefix(BLOCK) for name in sorted(blocks, key=blocks.__getitem__)]
    for rule, values in rises(bench, names).items():
        own = {f"{BLOCK}{name}": (value, 0.0) for name, value in values.items()}
        bench.table = dataclasses.replace(measured, increases={**measured.increases, **own})
        for kind, share in itertools.product(("both", "blocks"), (0.5, 0.3, 0.2)):
            architecture = bench.allocate(kind, share)
            found = {
                **{"kind": kind, "share": share, "rule": rule},
                "dropped": len(architecture.dropped),
                "accuracy": bench.recover(architecture, 0.0, 0, ["val"])["val_accuracy"],
                **where,
            }
            print({column: found[column] for column in SHOWN}, flush=True)
            rows.put(found)
    held = rows.read().sort_values(["kind", "share"], ascending=[True, False], kind="stable")
    write_text(
        OUT / "order.md",
        "# What a block counts for the allocator\n\nResNet-56 on CIFAR-10, seed 0. "
        f"{harness.stamp(held)}\n\n{harness.table(held, SHOWN)}\n",
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
