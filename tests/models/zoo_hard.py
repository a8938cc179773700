"""Small nets in which a coupling is easily got wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class SharedModule(nn.Module):
    """One convolution is called twice, so that its input and its output have the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 12, 3, 1, 1)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(F.relu(self.stem(x)))
        return self.head(F.relu(self.shared(F.relu(x))))


class TiedWeights(nn.Module):
    """The decoder is the encoder transposed; another layer shares the encoder's parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.twin = nn.Linear(16, 12), nn.Linear(16, 12)
        self.twin.weight = self.encoder.weight
        self.bias = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.encoder(x)) + torch.tanh(self.twin(x))
        return F.linear(hidden, self.encoder.weight.t(), self.bias)


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(11, 16), nn.Linear(16, 16)
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(self.norm(x + F.gelu(self.mix(x))))


class ConcatSlice(nn.Module):
    """Channels are concatenated and sliced apart at another place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(3, 12, 3, 1, 1)
        self.c, self.d = nn.Conv2d(14, 6, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(F.relu(self.d(x[:, :6]) + self.c(x[:, 6:])))


class GroupedConv(nn.Module):
    """Few wide groups, many narrow groups, depthwise with a multiplier, grouped transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 24, 3, 1, 1)
        self.wide = nn.Conv2d(24, 16, 3, 1, 1, groups=2)
        self.narrow = nn.Conv2d(16, 32, 3, 1, 1, groups=8)
        self.multiplied = nn.Conv2d(32, 64, 3, 1, 1, groups=32)
        self.up = nn.ConvTranspose2d(64, 16, 2, 2, groups=2)
        self.deep_up = nn.ConvTranspose2d(16, 16, 2, 2, groups=16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.multiplied(F.relu(self.narrow(F.relu(self.wide(F.relu(self.a(x))))))))
        return self.head(self.deep_up(torch.sigmoid(self.up(x))))


class FlattenLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3, 1, 1), nn.GroupNorm(5, 10)
        self.fc1, self.fc2 = nn.Linear(10 * 16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.sigmoid(self.norm(self.conv(x))), 2)
        return self.fc2(F.elu(self.fc1(x.view(x.size(0), -1))))


class ChannelsLastFlatten(nn.Module):
    """Positions before channels: each channel owns every n-th column."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 6, 3, padding=1), nn.Linear(6 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).transpose(1, 2).reshape(x.shape[0], -1))


class SizeByHand(nn.Module):
    """A number in the code holds the width of one layer; the other layer is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.fc(x.view(-1, 12))


class SizeInAttribute(nn.Module):
    """The width is held in an attribute of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.features = nn.Conv2d(3, 12, 3, 1, 1), nn.Linear(12, 5), 12

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.a(x)).mean((2, 3)).view(-1, self.features))


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 24, 3, 1, 1)
        self.shuffle, self.head = nn.PixelShuffle(2), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.shuffle(self.up(F.relu(self.conv(x))))))


class Gated(nn.Module):
    """A gated linear unit, a channel-wise PReLU, a bare scale, and a size-1 spatial gate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.act, self.scale = nn.PReLU(12), nn.Parameter(torch.rand(12, 1, 1) + 0.5)
        self.gate, self.head = nn.Conv2d(12, 1, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.b(F.glu(self.a(x), 1))) * self.scale
        return self.head(x * torch.sigmoid(self.gate(x)))


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 10, 3, 1, 1))
        self.b = parametrizations.weight_norm(nn.Conv2d(10, 8, 3, 1, 1))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class UnknownOperator(nn.Module):
    """Channels go through an operator without a rule; the hidden layer behind it is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(torch.renorm(self.a(x), 2, 0, 1.0))))


class ChannelMean(nn.Module):
    """A mean over channels changes when channels leave, and nothing has learned to read it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x * torch.sigmoid(x.mean(1, keepdim=True)))))


class TwoTowers(nn.Module):
    """A product of two activations is summed over the features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 9), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) * self.b(x)).sum(-1)


class SpectralNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.spectral_norm(nn.Linear(6, 9))
        self.b = parametrizations.spectral_norm(nn.Linear(9, 7))
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class InstanceNorm(nn.Module):
    """A norm that sees batch times channels, before one that normalises each position."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.b, self.head = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.normalize(self.b(F.relu(self.norm(self.a(x)))), dim=1))


class Patches(nn.Module):
    """Convolution written as unfold and Linear, then pixels folded and shuffled both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 9, 6 * 4)
        self.up, self.c, self.head = nn.Conv2d(6, 20, 1), nn.Conv2d(5, 6, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.unfold(self.a(x), 3, padding=1, stride=2).transpose(1, 2)).transpose(1, 2)
        x = self.up(F.relu(F.fold(x, (8, 8), 2, stride=2)))
        return self.head(F.pixel_unshuffle(F.relu(self.c(F.pixel_shuffle(x, 2))), 2))


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.bag(x))


class ChannelNeighbors(nn.Module):
    """Efficient channel attention: a convolution slides over the channels of a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12, 4)
        self.inside = nn.Conv2d(12, 12, 3, padding=1)
        self.inner, self.outer = (
            nn.Conv1d(1, 1, 3, padding=1, bias=bias) for bias in (True, False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(2))

    def gated(self, x: Tensor, conv: nn.Module) -> Tensor:
        means = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        return x * torch.sigmoid(conv(means)).transpose(-1, -2).unsqueeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gated(F.relu(self.norms[0](self.stem(x))), self.outer)
        x = F.relu(x + self.gated(self.norms[1](self.inside(x)), self.inner))
        return self.head(x.mean((2, 3)))


class StandardConv(nn.Conv2d):
    """Its weight is standardized over the inputs of each output."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


class Standardized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (StandardConv(*sizes, 3) for sizes in ((3, 8), (8, 6), (6, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class SpatialAttention(nn.Module):
    """CBAM's: a layer reads mean and maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.places = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        over = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return self.head(F.relu(self.b(x * torch.sigmoid(self.places(over)))))


def image(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8)


HARD: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "shared": (SharedModule, image),
    "tied": (TiedWeights, lambda n: torch.randn(n, 16)),
    "tied_embedding": (TiedEmbedding, lambda n: torch.randint(0, 11, (n, 7))),
    "concat_slice": (ConcatSlice, image),
    "grouped": (GroupedConv, image),
    "flatten": (FlattenLinear, image),
    "channels_last_flatten": (ChannelsLastFlatten, lambda n: torch.randn(n, 3, 5)),
    "by_hand": (SizeByHand, image),
    "attribute": (SizeInAttribute, image),
    "pixel_shuffle": (PixelShuffle, image),
    "gated": (Gated, image),
    "weight_norm": (WeightNorm, image),
    "spectral_norm": (SpectralNorm, lambda n: torch.randn(n, 6)),
    "instance_norm": (InstanceNorm, image),
    "patches": (Patches, image),
    "bag": (Bag, lambda n: torch.randint(0, 9, (n, 5))),
    "unknown": (UnknownOperator, lambda n: torch.randn(n, 6)),
    "channel_mean": (ChannelMean, image),
    "channel_neighbors": (ChannelNeighbors, image),
    "spatial_attention": (SpatialAttention, image),
    "standardized": (Standardized, image),
    "towers": (TwoTowers, lambda n: torch.randn(n, 6)),
}
