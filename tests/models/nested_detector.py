"""A detector as the popular one-stage ones are made: nested modules, called by their index.

Split stages whose parts are all joined again, pyramid pooling, two paths between the scales, and a
head with a branch of boxes (distributions over distances) and one of classes for each scale. Called
with a batch it gives a mapping of losses; called with images maps in training, and in evaluation
the decoded boxes and scores with these maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BINS, CLASSES = 4, 3
STRIDES = (4, 8, 16)
Batch = dict[str, Tensor]  # images `img`, `cls` and `box` (corners) of one object in each


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(outputs), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width: int, adds: bool) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 3)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.first(x))
        return x + found if self.adds else found


class C2f(nn.Module):
    """Half of the channels go through bottlenecks; all that they gave is joined again."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, adds: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.leave = Conv(inputs, 2 * half), Conv((2 + count) * half, outputs)
        self.blocks = nn.ModuleList(Bottleneck(half, adds) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        parts = [*self.enter(x).chunk(2, 1)]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Maxima over windows of 5, 9 and 13 pixels, joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = inputs // 2
        self.enter, self.leave = Conv(inputs, half), Conv(4 * half, outputs)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        near = self.enter(x)
        middle = self.pool(near)
        far = self.pool(middle)
        return self.leave(torch.cat([near, middle, far, self.pool(far)], 1))


class Concat(nn.Module):
    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, 1)


class Expected(nn.Module):
    """The mean of a distribution over distances, as a convolution that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.copy_(torch.arange(BINS).view(1, BINS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 4 BINS, P)` -> `(B, 4, P)`."""
        shares = x.view(len(x), 4, BINS, -1).softmax(2)
        return self.conv(shares.transpose(1, 2))[:, 0]


class Head(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(self._branch(w, 16, 4 * BINS) for w in widths)
        self.classes = nn.ModuleList(self._branch(w, widths[0], CLASSES) for w in widths)
        self.expected = Expected()

    @staticmethod
    def _branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            Conv(inputs, width, 3), Conv(width, width, 3), nn.Conv2d(width, outputs, 1)
        )

    def forward(self, x: list[Tensor]) -> Any:
        scales = zip(self.boxes, self.classes, x, strict=True)
        maps = [torch.cat([boxes(each), classes(each)], 1) for boxes, classes, each in scales]
        if self.training:
            return maps
        boxes, scores = joined(maps)
        places, strides = anchors(maps)
        near, far = self.expected(boxes).chunk(2, 1)
        corners = torch.cat([places - near, places + far], 1) * strides
        return torch.cat([corners, scores.sigmoid()], 1), maps


def joined(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distances `(B, 4 BINS, P)` and class scores `(B, CLASSES, P)` of all scales."""
    every = torch.cat([each.view(each.shape[0], 4 * BINS + CLASSES, -1) for each in maps], 2)
    return tuple(every.split((4 * BINS, CLASSES), 1))


def anchors(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Middles of the cells `(2, P)` in strides, and the strides `(1, P)`."""
    places, strides = [], []
    for each, stride in zip(maps, STRIDES, strict=True):
        height, width = each.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places.append(torch.stack((x, y)).flatten(1) + 0.5)
        strides.append(torch.full((1, height * width), float(stride)))
    return torch.cat(places, 1), torch.cat(strides, 1)


class NestedDetector(nn.Module):
    def __init__(self, w: int = 8) -> None:
        super().__init__()
        layers: list[tuple[tuple[int, ...], nn.Module]] = [  # of which layers, by index
            ((-1,), Conv(3, w, 3, 2)),
            ((-1,), Conv(w, 2 * w, 3, 2)),
            ((-1,), C2f(2 * w, 2 * w, 1, adds=True)),  # 2
            ((-1,), Conv(2 * w, 4 * w, 3, 2)),
            ((-1,), C2f(4 * w, 4 * w, 2, adds=True)),  # 4
            ((-1,), Conv(4 * w, 4 * w, 3, 2)),
            ((-1,), SPPF(4 * w, 4 * w)),  # 6
            ((-1,), nn.Upsample(scale_factor=2, mode="nearest")),
            ((-1, 4), Concat()),
            ((-1,), C2f(8 * w, 4 * w)),  # 9
            ((-1,), nn.Upsample(scale_factor=2, mode="nearest")),
            ((-1, 2), Concat()),
            ((-1,), C2f(6 * w, 2 * w)),  # 12
            ((-1,), Conv(2 * w, 2 * w, 3, 2)),
            ((-1, 9), Concat()),
            ((-1,), C2f(6 * w, 4 * w)),  # 15
            ((-1,), Conv(4 * w, 4 * w, 3, 2)),
            ((-1, 6), Concat()),
            ((-1,), C2f(8 * w, 4 * w)),  # 18
            ((12, 15, 18), Head((2 * w, 4 * w, 4 * w))),
        ]
        self.sources = [sources for sources, _ in layers]
        self.model = nn.Sequential(*(layer for _, layer in layers))

    def forward(self, x: Tensor | Batch) -> Any:
        if isinstance(x, dict):
            return self.losses(self.predict(x["img"]), x)
        return self.predict(x)

    def predict(self, x: Tensor) -> Any:
        found: list[Any] = [x]
        for sources, layer in zip(self.sources, self.model, strict=True):
            given = [found[-1] if at < 0 else found[at + 1] for at in sources]
            found.append(layer(given if len(given) > 1 else given[0]))
        return found[-1]

    def losses(self, found: Any, batch: Batch) -> dict[str, Tensor]:
        """Losses of boxes, classes and distributions, each a scalar.

        An object is found at the cell of its middle, of the finest scale.
        """
        maps = found[1] if isinstance(found, tuple) else found
        boxes, scores = joined(maps)
        corners = batch["box"] / STRIDES[0]
        middle = (corners[:, :2] + corners[:, 2:]) / 2
        finest = anchors(maps)[0][:, : maps[0][0, 0].numel()]
        at = (finest[None] - middle[..., None]).abs().sum(1).argmin(1)
        rows = torch.arange(len(at))
        wanted = torch.zeros_like(scores)
        wanted[rows, batch["cls"], at] = 1.0
        place = finest[:, at].T
        away = torch.cat([place - corners[:, :2], corners[:, 2:] - place], 1).clamp(0, BINS - 1)
        bins = boxes[rows, :, at].view(-1, 4, BINS)
        distance = bins.softmax(-1) @ torch.arange(BINS, dtype=bins.dtype)
        return {
            "box": F.smooth_l1_loss(distance, away),
            "cls": F.binary_cross_entropy_with_logits(scores, wanted),
            "dfl": F.cross_entropy(bins.flatten(0, 1), away.round().long().flatten()),
        }
