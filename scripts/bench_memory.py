"""Peak memory, counted and measured, of different architectures in two runtimes.

    python scripts/bench_memory.py > results/memory/memory.txt

For each network: the dense model and a pruning of it that keeps half of each group, one input.
Counted is what a search believes (`CostModel`), measured what the runtime took.
"""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.cost.memory import measure_peak_memory
from autoprune.cost.model import CostModel
from autoprune.graph import trace
from autoprune.pruning.surgery import prune
from autoprune.tasks.cifar10 import Cifar10

RUNTIMES = ("torch", "onnxruntime")
SIZE = 96


def block(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(),
    )


def vgg() -> nn.Module:
    """Plain 3x3 convolutions, and most weights in two linear layers."""
    widths = (32, 64, 128, 128)
    layers = [
        layer
        for i, o in zip((3, *widths), widths, strict=False)
        for layer in (block(i, o), nn.MaxPool2d(2))
    ]
    head = [nn.Flatten(), nn.Linear(128 * 36, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head)


def mobilenet() -> nn.Module:
    """Depthwise and pointwise convolutions in turn."""
    layers: list[nn.Module] = [block(3, 32, stride=2)]
    for i, o, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)):
        layers += [block(i, i, stride=stride, groups=i), block(i, o, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class DenseNet(nn.Module):
    """Every layer reads all before it."""

    def __init__(self, growth: int = 16, depth: int = 6) -> None:
        super().__init__()
        self.stem = block(3, 32, stride=2)
        self.layers = nn.ModuleList(block(32 + growth * n, growth) for n in range(depth))
        self.head = nn.Linear(32 + growth * depth, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, -1))


class Transformer(nn.Module):
    """Patches of 8x8, three layers with four heads."""

    def __init__(self, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.attention = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for n, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            x = x + attention(self.norms[2 * n](x))
            x = x + feed(self.norms[2 * n + 1](x))
        return self.head(x.mean(1))


class UNet(nn.Module):
    """Skips that live long, and an output of the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = block(3, 16), block(16, 32), block(32, 64)
        self.up_two, self.up_one = block(96, 32), block(48, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(F.max_pool2d(one, 2))
        x = F.interpolate(self.three(F.max_pool2d(two, 2)), scale_factor=2.0)
        x = F.interpolate(self.up_two(torch.cat([x, two], 1)), scale_factor=2.0)
        return self.head(self.up_one(torch.cat([x, one], 1)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-20": (lambda: Cifar10().build_model(), 32),
    "MobileNet-like": (mobilenet, SIZE),
    "VGG-like": (vgg, SIZE),
    "DenseNet-like": (DenseNet, SIZE),
    "Transformer": (Transformer, SIZE),
    "U-Net": (UNet, SIZE),
}


def rows(name: str, model: nn.Module, x: Tensor) -> Iterator[str]:
    graph = trace(model, x)
    half = {group.name: range(max(1, group.size // 2)) for group in graph.groups}
    kept = {group: len(units) for group, units in half.items()}
    small = copy.deepcopy(model)
    prune(small, graph, half)
    for what, it, keeps in (("dense", model, {}), ("half", small, kept)):
        for runtime in RUNTIMES:
            cost = CostModel(graph, runtimes=[(runtime, 1)]).cost(keeps)
            counted, weights = float(cost.peak_memory_bytes or 0), cost.weight_bytes or 0
            measured = measure_peak_memory(it, x, runtime)
            yield (
                f"{name:15} {what:6} {runtime:12} {weights / 1e6:8.3f} {counted / 1e6:9.3f} "
                f"{measured / 1e6:9.3f} {counted / measured - 1.0:+8.1%}"
            )


def main() -> None:
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()}, {capability}, {os.cpu_count()} cores, 1 thread, float32, batch 1")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "onnxruntime")))
    print("MB: weights of the model, and the peak of weights, input and activations together\n")
    print(f"{'network':22} {'runtime':12} {'weights':>8} {'counted':>9} {'measured':>9}    error")
    for name, (build, size) in NETWORKS.items():
        torch.manual_seed(0)
        for line in rows(name, build().eval(), torch.randn(1, 3, size, size)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
