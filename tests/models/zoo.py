"""Small own-written definitions of the networks that the tests prune.

The topologies are those of the papers; depth and width are reduced where only the wiring matters.
`ZOO` maps a name to (a builder, a function that draws an input of batch n).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: nn.Module | None = None):
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, act if act is not None else nn.Identity())


class BasicBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(
                nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += identity
        return self.relu(x)


class Bottleneck(nn.Module):
    def __init__(self, i: int, o: int, stride: int, groups: int = 1, middle: int = 0):
        super().__init__()
        mid = middle or o // 4
        self.conv1 = nn.Conv2d(i, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, o, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(
                nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


class ResNet(nn.Module):
    """ResNet-18: `BasicBlock, (2, 2, 2, 2)`; ResNet-50: `Bottleneck, (3, 4, 6, 3)`."""

    def __init__(self, block: type, depths: tuple[int, ...], width: int = 64, **kwargs) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        expansion = 4 if block is Bottleneck else 1
        i = width
        for stage, depth in enumerate(depths):
            blocks = []
            for n in range(depth):
                o = width * 2**stage * expansion
                stride = 2 if n == 0 and stage > 0 else 1
                blocks.append(block(i, o, stride, **kwargs))
                i = o
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(i, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PaddedBlock(nn.Module):
    """The CIFAR block with the parameter-free shortcut (He 2016, option A)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.stride, self.extra = stride, o - i

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            side = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        i = 16
        for stage, o in enumerate((16, 32, 64)):
            blocks = []
            for k in range(n):
                blocks.append(PaddedBlock(i, o, 2 if stage and k == 0 else 1))
                i = o
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size(3))
        return self.linear(x.view(x.size(0), -1))


class DenseLayer(nn.Module):
    def __init__(self, i: int, growth: int, bottleneck: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(i)
        self.conv1 = nn.Conv2d(i, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, 1, 1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """DenseNet-121 is `DenseNet((6, 12, 24, 16), 32)`."""

    def __init__(self, depths: tuple[int, ...], growth: int) -> None:
        super().__init__()
        i = 2 * growth
        self.conv0 = nn.Conv2d(3, i, 7, 2, 3, bias=False)
        self.norm0 = nn.BatchNorm2d(i)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for stage, depth in enumerate(depths):
            self.blocks.append(
                nn.ModuleList([DenseLayer(i + n * growth, growth) for n in range(depth)])
            )
            i += depth * growth
            if stage + 1 < len(depths):
                self.transitions.append(
                    nn.Sequential(
                        nn.BatchNorm2d(i),
                        nn.ReLU(),
                        nn.Conv2d(i, i // 2, 1, bias=False),
                        nn.AvgPool2d(2),
                    )
                )
                i //= 2
        self.norm = nn.BatchNorm2d(i)
        self.classifier = nn.Linear(i, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm0(self.conv0(x))), 3, 2, 1)
        for stage, block in enumerate(self.blocks):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = torch.cat(features, 1)
            if stage < len(self.transitions):
                x = self.transitions[stage](x)
        x = F.adaptive_avg_pool2d(F.relu(self.norm(x)), 1).flatten(1)
        return self.classifier(x)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, gate: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c, max(2, c // 4), 1)
        self.fc2 = nn.Conv2d(max(2, c // 4), c, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        s = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.fc2(F.relu(self.fc1(s))))


class InvertedResidual(nn.Module):
    """MobileNetV2 without `se`, MobileNetV3 and EfficientNet with it."""

    def __init__(self, i, o, k=3, stride=1, expand=6, act=nn.ReLU6, se: nn.Module | None = None):
        super().__init__()
        mid = i * expand
        layers = [conv_bn(i, mid, 1, act=act())] if expand != 1 else []
        layers.append(conv_bn(mid, mid, k, stride, mid, act=act()))
        if se is not None:
            layers.append(SqueezeExcite(mid, se))
        layers.append(conv_bn(mid, o, 1))
        self.conv = nn.Sequential(*layers)
        self.skip = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, rows, act=nn.ReLU6, se: nn.Module | None = None, stem=16, head=64) -> None:
        super().__init__()
        layers, i = [conv_bn(3, stem, 3, 2, act=act())], stem
        for expand, o, n, stride, k in rows:
            for m in range(n):
                layers.append(InvertedResidual(i, o, k, stride if m == 0 else 1, expand, act, se))
                i = o
        layers.append(conv_bn(i, head, 1, act=act()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(head, 32), act(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


V2_ROWS = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 2, 2, 3), (6, 48, 1, 1, 3))
V3_ROWS = ((1, 16, 1, 2, 3), (4, 24, 2, 2, 5), (3, 32, 2, 1, 5))
B0_ROWS = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5))


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous()
    return x.view(b, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, o // 2
        self.branch1 = nn.Identity()
        if stride == 2:
            self.branch1 = nn.Sequential(
                conv_bn(i, i, 3, 2, i), conv_bn(i, half, 1, act=nn.ReLU(inplace=True))
            )
        inside = i if stride == 2 else half
        self.branch2 = nn.Sequential(
            conv_bn(inside, half, 1, act=nn.ReLU(inplace=True)),
            conv_bn(half, half, 3, stride, half),
            conv_bn(half, half, 1, act=nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, dim=1)
            out = torch.cat((left, self.branch2(right)), 1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), 1)
        return shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 24, 3, 2, act=nn.ReLU())
        self.stage2 = nn.Sequential(
            ShuffleUnit(24, 48, 2), ShuffleUnit(48, 48, 1), ShuffleUnit(48, 48, 1)
        )
        self.stage3 = nn.Sequential(ShuffleUnit(48, 96, 2), ShuffleUnit(96, 96, 1))
        self.conv5 = conv_bn(96, 64, 1, act=nn.ReLU())
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stem(x)))
        return self.fc(self.conv5(x).mean([2, 3]))


class GroupedShuffle(nn.Module):
    """ShuffleNetV1: grouped 1x1 convolutions with a shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 24, act=nn.ReLU())
        self.conv2 = conv_bn(24, 48, 1, 1, 3, act=nn.ReLU())
        self.conv3 = conv_bn(48, 48, 3, 1, 48)
        self.conv4 = conv_bn(48, 24, 1, 1, 3)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.conv4(self.conv3(shuffle(self.conv2(x), 3)))
        return self.fc(F.relu(x + y).mean((2, 3)))


class RegNetBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.a = conv_bn(i, o, 1, act=nn.ReLU())
        self.b = conv_bn(o, o, 3, stride, o // group_width, act=nn.ReLU())
        self.se = SqueezeExcite(o, nn.Sigmoid())
        self.c = conv_bn(o, o, 1)
        self.proj = conv_bn(i, o, 1, stride) if stride != 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.proj(x) + self.c(self.se(self.b(self.a(x)))))


class RegNetY(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32, 3, 2, act=nn.ReLU())
        self.trunk = nn.Sequential(
            RegNetBlock(32, 24, 2, 8),
            RegNetBlock(24, 56, 2, 8),
            RegNetBlock(56, 64, 1, 4),
            RegNetBlock(64, 64, 1, 16),
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(self.stem(x)).mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 7, 1, 3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1 = nn.Linear(c, 4 * c)
        self.pwconv2 = nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt-tiny is `ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768))`."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0])]
        for stage, (depth, c) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                layers += [LayerNorm2d(widths[stage - 1]), nn.Conv2d(widths[stage - 1], c, 2, 2)]
            layers += [ConvNeXtBlock(c) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean([-2, -1])))


class Inception(nn.Module):
    def __init__(self, i: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> None:
        super().__init__()
        act = nn.ReLU()
        self.branch1 = conv_bn(i, a, 1, act=act)
        self.branch2 = nn.Sequential(conv_bn(i, b[0], 1, act=act), conv_bn(b[0], b[1], act=act))
        self.branch3 = nn.Sequential(conv_bn(i, c[0], 1, act=act), conv_bn(c[0], c[1], act=act))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(i, d, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """With an auxiliary head that runs in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2, act=nn.ReLU())
        self.a = Inception(16, 8, (6, 12), (4, 6), 6)
        self.b = Inception(32, 12, (8, 16), (4, 8), 12)
        self.aux = nn.Sequential(
            conv_bn(32, 8, 1, act=nn.ReLU()),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor):
        x = self.a(self.stem(x))
        extra = self.aux(x) if self.training else None
        x = self.fc(self.b(F.max_pool2d(x, 2)).mean((2, 3)))
        return (x, extra) if self.training else x


class VGG(nn.Module):
    """VGG-11 with batch norm, flattened to a Linear over channels and positions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        i = 3
        for entry in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8):
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                o = width * entry
                layers += [nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
                i = o
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(i * 4, 64), nn.ReLU(True), nn.Linear(64, 48), nn.ReLU(True), nn.Linear(48, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, 8), self._block(8, 16)
        self.middle = self._block(16, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.dec2 = self._block(32, 16)
        self.dec1 = self._block(24, 8)
        self.head = nn.Conv2d(8, 4, 1)

    @staticmethod
    def _block(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(i, o, act=nn.ReLU()), conv_bn(o, o, act=nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.up2(self.middle(F.max_pool2d(two, 2)))
        x = self.dec2(torch.cat([x, two], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.dec1(torch.cat([x, one], 1)))


class AudioNet(nn.Module):
    """Depthwise-separable convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv1d(1, 16, 9, 4, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
        ]
        i = 16
        for o in (24, 24, 32):
            layers += [nn.Conv1d(i, i, 5, 2, 2, groups=i, bias=False), nn.BatchNorm1d(i), nn.ReLU()]
            layers += [nn.Conv1d(i, o, 1, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
            i = o
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(i, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(-1))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn = nn.Linear(20, 32), nn.BatchNorm1d(32)
        self.fc2, self.fc3 = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.fc1(x)))
        return self.fc3(x + torch.tanh(self.fc2(x)))


def image(size: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, 3, size, size)


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "resnet18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2), 16), image(48)),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3), 8), image(48)),
    "resnext": (lambda: ResNet(Bottleneck, (1, 1, 1, 1), 16, groups=8, middle=32), image(48)),
    "resnet20_padded": (lambda: CifarResNet(20), image(32)),
    "resnet56_padded": (lambda: CifarResNet(56), image(16)),
    "densenet121": (lambda: DenseNet((6, 12, 24, 16), 4), image(64)),
    "mobilenet_v2": (lambda: MobileNet(V2_ROWS), image(32)),
    "mobilenet_v3": (lambda: MobileNet(V3_ROWS, nn.Hardswish, nn.Hardsigmoid()), image(32)),
    "efficientnet_b0": (lambda: MobileNet(B0_ROWS, nn.SiLU, nn.Sigmoid()), image(32)),
    "shufflenet_v2": (ShuffleNetV2, image(48)),
    "shufflenet_v1": (GroupedShuffle, image(16)),
    "regnet_y": (RegNetY, image(32)),
    "convnext": (lambda: ConvNeXt((1, 1, 2, 1), (12, 16, 24, 32)), image(64)),
    "googlenet": (GoogLeNet, image(32)),
    "vgg11_bn": (VGG, image(48)),
    "unet": (UNet, image(16)),
    "audio": (AudioNet, lambda n: torch.randn(n, 1, 400)),
    "mlp": (MLP, lambda n: torch.randn(n, 20)),
}


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random norms and running statistics, as after some training."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                draw(module.running_mean, -0.2, 0.2)
                draw(module.running_var, 0.5, 1.5)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
                draw(module.weight, 0.5, 1.5)
                draw(module.bias, -0.3, 0.3)
    return model
