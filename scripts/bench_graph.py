"""How long a graph takes: `python scripts/bench_graph.py [resnet50 ...]`.

Traces models of the tests' zoo at full size on one core, several times; prints the median in
seconds with the machine and versions.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from autoprune.cost.targets import device_name
from autoprune.graph import trace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "models"))
from zoo import BasicBlock, Bottleneck, CifarResNet, ResNet

REPEATS = 5
MODELS = {
    "resnet18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2), 64), 224),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3), 64), 224),
    "resnet56-cifar": (lambda: CifarResNet(56), 32),
}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{device_name()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}"
    )
    for name in sys.argv[1:] or MODELS:
        build, size = MODELS[name]
        model, image = build().eval(), torch.randn(1, 3, size, size)
        graph = trace(model, image)
        seconds = [_timed(model, image) for _ in range(REPEATS)]
        params = sum(p.numel() for p in model.parameters())
        print(
            f"{name:<16} {params / 1e6:6.2f} M parameters  {len(graph.groups):3d} groups  "
            f"median {statistics.median(seconds):.3f} s of {REPEATS}"
        )


def _timed(model: torch.nn.Module, image: torch.Tensor) -> float:
    start = time.perf_counter()
    trace(model, image)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
