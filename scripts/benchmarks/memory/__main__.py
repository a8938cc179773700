"""Peak memory, counted and measured, of different architectures in two runtimes and in int8.

    python -m scripts.benchmarks.memory        # a few minutes

For each network, at one input: the dense model, a pruning that keeps half of each group, and eight
random ones. Counted is what the model's own code holds (`count_cost`), fitted is what a search
predicts (`fit_peak_memory`, from nine other models), measured what the runtime took; figures are
errors of the peak. Rows: `results/memory/memory.csv`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.cost.activations import COUNTED
from autoprune.cost.memory import measure_peak_memory
from autoprune.cost.model import CostModel
from autoprune.device.memory import fit_peak_memory
from autoprune.device.sampling import pruned, random_architectures
from autoprune.graph import trace
from autoprune.quantization import int8_for_timing
from examples.cifar10 import CifarResNet
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

INT8_RUNTIME = "onnxruntime, int8"
RUNTIMES = ("torch", "onnxruntime", INT8_RUNTIME)
SIZE = 96
UNSEEN = 8
SHOWN = {
    "network": ("network", ""),
    "runtime": ("runtime", ""),
    "dense_mb": ("dense, MB", ".3f"),
    "counted_dense": ("counted: dense", "+.1%"),
    "counted_mean": ("prunings, mean", ".1%"),
    "fitted_dense": ("fitted: dense", "+.1%"),
    "fitted_mean": ("prunings, mean", ".1%"),
    "fitted_largest": ("largest", ".1%"),
    "below_bound": ("below bound", ".0%"),
}


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
    "ResNet-20": (lambda: CifarResNet(20), 32),
    "MobileNet-like": (mobilenet, SIZE),
    "VGG-like": (vgg, SIZE),
    "DenseNet-like": (DenseNet, SIZE),
    "Transformer": (Transformer, SIZE),
    "U-Net": (UNet, SIZE),
}


def bench(name: str, runtimes: Sequence[str]) -> Iterator[dict[str, object]]:
    """In each runtime: the dense model's peak, and the errors of what is counted and fitted."""
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(1, 3, size, size)
    graph = trace(model, x)
    half = Architecture({group.name: max(1, group.size // 2) for group in graph.groups})
    unseen = [half, *random_architectures(graph, UNSEEN, 1)]
    models = [pruned(model, graph, each) for each in unseen]

    def int8(small: nn.Module) -> nn.Module:
        return int8_for_timing(small, x)

    for runtime in runtimes:
        used, is_int8 = runtime.partition(",")[0], runtime == INT8_RUNTIME
        fitted = fit_peak_memory(model, graph, x, runtime=used, int8=int8 if is_int8 else None)
        dense, *taken_of = (
            measure_peak_memory(int8(small) if is_int8 else small, x, used)
            for small in (model, *models)
        )
        taken = np.array(taken_of)
        row: dict[str, object] = {"network": name, "runtime": runtime, "dense_mb": dense / 1e6}
        for what, memory in (("counted", COUNTED), ("fitted", fitted)):
            costs = CostModel(graph, memory=[memory], precision=INT8 if is_int8 else FLOAT32)
            said = np.array([costs.cost(each).get("peak_memory_bytes") for each in unseen])
            off = said / taken - 1.0
            row[f"{what}_dense"] = costs.dense.get("peak_memory_bytes") / dense - 1.0
            row[f"{what}_mean"] = np.abs(off).mean()
        row["fitted_largest"] = np.abs(off).max()
        row["below_bound"] = ((off + 1.0) * fitted.upper_factor >= 0.999).mean()
        yield {**row, "seed": 0}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = Rows(RESULTS / "memory" / "memory.csv", ["network", "runtime"])
    about = {**harness.circumstances(), "simd": torch.backends.cpu.get_cpu_capability()}
    for name in given.networks:
        for row in bench(name, given.runtimes):
            file.put({**row, **about})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


if __name__ == "__main__":
    main()
