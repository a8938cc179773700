"""Pooling, resizing, sampling at a grid and Fourier transforms: channels pass, positions do not."""

from __future__ import annotations

import pytest
import torch
from models.cutting import gap, random_keep
from models.through import Function, of_features, of_images, reason_of, units_of
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.verification import prunable

GRID = torch.rand(2, 5, 5, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def unpooled(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


IMAGES: dict[str, Function] = {
    "max pool": lambda x: F.max_pool2d(x, 2),
    "average pool": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
    "max unpool": unpooled,
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "resize": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic", antialias=True),
    "grid": lambda x: F.grid_sample(x, GRID.to(x), align_corners=False),
    "volume": lambda x: F.grid_sample(
        x[:, :, None], F.pad(GRID, (0, 1)).to(x)[:, None], align_corners=False
    )[:, :, 0],
    "filter": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2.0, s=x.shape[-2:]),
    "shift": lambda x: torch.fft.fftshift(torch.fft.ifft2(x), dim=(-1,)).abs(),
    "convolution by products": lambda x: torch.fft.irfft(torch.fft.rfft(x, n=12) ** 2, n=12),
}


@pytest.mark.parametrize("name", IMAGES)
def test_channels_of_images_pass(name: str) -> None:
    assert units_of(of_images(IMAGES[name])) == 8


class Unpooled(nn.Module):
    """A decoder that puts its values where the encoder's pooling found its own (SegNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(self.a(x), 2, return_indices=True)
        return self.head(F.max_unpool2d(self.b(x), places, 2))


@pytest.mark.parametrize("x", [torch.zeros(2, 3, 6, 6), torch.randn(2, 3, 6, 6)])
def test_what_is_unpooled_is_pruned_with_the_channels_of_the_places(x: Tensor) -> None:
    torch.manual_seed(0)
    net = Unpooled().eval()
    graph = prunable(net, x)
    assert graph.sizes() == {"a": 8}  # with the outputs of b
    drawn = torch.randn(2, 3, 6, 6)
    assert gap(net, graph, random_keep(graph, 0), drawn, train=False) < 1e-9


def test_features_of_tokens_pass_a_transform_over_tokens_and_not_one_over_features() -> None:
    assert units_of(of_features(lambda x: torch.fft.fft(x, dim=1).real)) == 8
    over = of_features(lambda x: torch.fft.rfft(x, dim=-1).abs())
    assert reason_of(over) == "Fourier transform over channels"


class Deformed(nn.Module):
    """Features at places that another layer says, for each head (deformable attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.queries = 4, torch.randn(2, 7, 5)
        self.value, self.places = nn.Conv2d(3, 12, 1), nn.Linear(5, 4 * 6 * 2)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        value = self.value(x).view(batch * self.heads, -1, height, width)
        grid = self.places(self.queries.to(x)).view(batch, -1, self.heads, 6, 2).transpose(1, 2)
        grid = grid.reshape(batch * self.heads, -1, 6, 2).tanh()
        found = F.grid_sample(value, grid, align_corners=False).mean(-1)
        return self.out(found.view(batch, -1, 7).transpose(1, 2))


def test_what_is_pruned_of_deformable_attention_is_right() -> None:
    torch.manual_seed(0)
    net, x = Deformed().eval(), torch.randn(2, 3, 6, 6)
    graph = prunable(net, x)
    assert graph.sizes() == {"value": 3}  # a position of every head
    assert gap(net, graph, random_keep(graph, 0), x, train=False) < 1e-9


class Located(nn.Module):
    """A spatial transformer: one network says how the image of another is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.map = nn.Conv2d(3, 8, 1), nn.Linear(8, 10), nn.Linear(10, 6)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        theta = self.map(self.inside(x.mean((2, 3))).relu()).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False))


def test_the_numbers_of_an_affine_map_stay() -> None:
    torch.manual_seed(0)
    net, x = Located().eval(), torch.randn(2, 3, 6, 6)
    graph = prunable(net, x)
    assert graph.sizes() == {"stem": 8, "inside": 10}
    assert reason_of(graph, "map") == "are numbers of an affine map"
    assert gap(net, graph, random_keep(graph, 0), x, train=False) < 1e-9


def test_places_that_are_drawn_for_each_channel_are_no_function_of_the_input() -> None:
    drawn = of_images(lambda x: F.fractional_max_pool2d(x, 2, output_size=(3, 3)))
    assert "draws random numbers" in reason_of(drawn)


class Fractional(nn.Module):
    """Fractional pooling at places that the model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.register_buffer("samples", torch.rand(2, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        held = self.get_buffer("samples")
        return self.head(F.fractional_max_pool2d(x, 2, output_size=(3, 3), _random_samples=held))


def test_places_that_are_held_for_each_channel_are_pruned_with_it() -> None:
    torch.manual_seed(0)
    net, x = Fractional().eval(), torch.randn(2, 3, 6, 6)
    graph = prunable(net, x)
    assert graph.sizes() == {"stem": 8}
    assert gap(net, graph, random_keep(graph, 0), x, train=False) < 1e-9
