"""Four kinds of networks whose latencies are to be predicted; weights are random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.cifar10 import CifarResNet


@dataclass(frozen=True)
class Family:
    """A network and the shape of its input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def example(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


def _convolution(i: int, o: int, k: int, s: int = 1, g: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]


class Inverted(nn.Module):
    """MobileNetV2's block: wide, depthwise, narrow, with a residual where shapes allow."""

    def __init__(self, i: int, o: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = i * expand
        self.body = nn.Sequential(
            *([*_convolution(i, mid, 1), nn.ReLU6()] if expand > 1 else []),
            *_convolution(mid, mid, 3, stride, mid),
            nn.ReLU6(),
            *_convolution(mid, o, 1),
        )
        self.skip = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


def mobilenet() -> nn.Module:
    """A MobileNetV2 (Sandler et al. 2018) of nine blocks."""
    layers: list[nn.Module] = [*_convolution(3, 16, 3, 2), nn.ReLU6()]
    i = 16
    for expand, o, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 3, 2)):
        for place in range(count):
            layers.append(Inverted(i, o, stride if place == 0 else 1, expand))
            i = o
    head = [*_convolution(i, 256, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(256, 10))


def mobilenet_v2() -> nn.Module:
    """All blocks of a MobileNetV2, at width 1."""
    layers: list[nn.Module] = [*_convolution(3, 32, 3, 2), nn.ReLU6()]
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    i = 32
    for expand, o, count, stride in (*rows, (6, 160, 3, 2), (6, 320, 1, 1)):
        for place in range(count):
            layers.append(Inverted(i, o, stride if place == 0 else 1, expand))
            i = o
    head = [*_convolution(i, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, 10))


def vgg() -> nn.Module:
    """Eight convolutions in pairs, halved after each pair, and a hidden linear layer."""
    layers: list[nn.Module] = []
    i = 3
    for o in (32, 64, 128, 128):
        layers += [*_convolution(i, o, 3), nn.ReLU(), *_convolution(o, o, 3), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        i = o
    head = [nn.Flatten(), nn.Linear(4 * i, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head)


class Layer(nn.Module):
    """A pre-norm transformer layer whose heads and hidden units can leave."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, -1, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + self.out(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021): 64 patches of 8 x 8."""

    def __init__(self, dim: int = 128, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.position = nn.Parameter(torch.zeros(1, 64, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(depth)))
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.linear(self.norm(self.layers(x)).mean(1))


FAMILIES = {
    "resnet20": Family(CifarResNet, (1, 3, 32, 32)),
    "mobilenet": Family(mobilenet, (1, 3, 96, 96)),
    "vgg": Family(vgg, (1, 3, 32, 32)),
    "vit": Family(Vit, (1, 3, 64, 64)),
}
