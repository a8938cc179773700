"""Models of torchvision, in their usual widths on small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scripts.benchmarks.zoo.entry import Entry, Inputs, image

SIZES: dict[str, int] = {
    "alexnet": 96,
    "convnext_tiny": 64,
    "deeplabv3_mobilenet_v3_large": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "fcn_resnet50": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "lraspp_mobilenet_v3_large": 64,
    "mnasnet1_0": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
}


def _build(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import get_model

        return get_model(name, weights=None, **options)

    return build


def _video(frames: int, size: int) -> Callable[[], Inputs]:
    return lambda: torch.randn(1, 3, frames, size, size)


_BACKBONE = {"weights_backbone": None}
_SMALL_VIT = {
    "patch_size": 16,
    "image_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 64,
    "mlp_dim": 128,
}


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(**_SMALL_VIT, num_classes=10)


def _options(name: str) -> dict[str, Any]:
    if name.startswith(("deeplab", "fcn", "lraspp")):
        return _BACKBONE
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    return {}


MODELS: dict[str, Entry] = {
    **{name: Entry(_build(name, **_options(name)), image(size)) for name, size in SIZES.items()},
    "vit": Entry(_vit, image(64)),
    "r3d_18": Entry(_build("r3d_18"), _video(4, 32)),
    "r2plus1d_18": Entry(_build("r2plus1d_18"), _video(4, 32)),
    "mc3_18": Entry(_build("mc3_18"), _video(4, 32)),
    "swin3d_t": Entry(_build("swin3d_t"), _video(4, 64)),
}
