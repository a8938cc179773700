"""A small net of residual blocks, as a task file that workers load."""

import torch
from stripes import Stripes
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Deep(Stripes):
    dense_epochs = 1

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 12, 3), nn.ReLU(), *(Residual(12) for _ in range(4))]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))


class Wider(Deep):
    """With a second group of channels behind the blocks."""

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 12, 3), nn.ReLU(), Residual(12), Residual(12), nn.Conv2d(12, 16, 3)]
        return nn.Sequential(
            *body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
        )
