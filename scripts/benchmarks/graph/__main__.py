"""How much processor time the pruning graph of a model takes.

    python -m scripts.benchmarks.graph                     # half a minute
    python -m scripts.benchmarks.graph --models resnet50

Traces models of the tests' zoo at full size, five times each. Rows: `results/graph/trace.csv`.
"""

from __future__ import annotations

import statistics
import time

import torch

from autoprune.graph import trace
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from tests.models.zoo import BasicBlock, Bottleneck, CifarResNet, ResNet

REPEATS = 5
MODELS = {
    "resnet18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2), 64), 224),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3), 64), 224),
    "resnet56-cifar": (lambda: CifarResNet(56), 32),
}
SHOWN = {
    "model": ("model", ""),
    "params": ("parameters", ".3g"),
    "groups": ("groups", ""),
    "seconds": ("CPU seconds, median", ".3f"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = Rows(RESULTS / "graph" / "trace.csv", ["model"])
    for name in given.models:
        file.put({**bench(name), **harness.circumstances(["torch"])})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


def bench(name: str) -> dict[str, object]:
    """Size, groups, and the median time of a trace."""
    torch.manual_seed(0)
    build, size = MODELS[name]
    model, image = build().eval(), torch.randn(1, 3, size, size)
    groups = len(trace(model, image).groups)
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        trace(model, image)
        seconds.append(time.process_time() - began)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": name,
        "params": params,
        "groups": groups,
        "seconds": statistics.median(seconds),
        "repeats": REPEATS,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
