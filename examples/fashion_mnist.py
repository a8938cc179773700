"""Fashion-MNIST with a small VGG-like network.

    AUTOPRUNE_DATA=/data autoprune profile examples/fashion_mnist.py:FashionMnist

The data folder (the configuration's `data`, or AUTOPRUNE_DATA) or its subfolder `fashion_mnist`
holds the four original files, or `fashion_mnist.npz` with the arrays train_images, train_labels,
test_images and test_labels. The dense model is trained once, in minutes, and kept.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks import (
    InMemoryTask,
    Normalize,
    PadCropFlip,
    cached_arrays,
    find_file,
    read_npz,
    stratified,
)

_NPZ = "fashion_mnist.npz"
_IDX = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


class FashionMnist(InMemoryTask):
    """Train 54,000, validation 6,000 (stratified, always the same), test 10,000 (official)."""

    dense_epochs = 8
    dense_lr = 4e-3
    batch_size = 128
    augment = PadCropFlip(pad=2)
    prepare = Normalize(mean=(0.286,), std=(0.353,))

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = data

    def build_model(self) -> nn.Module:
        """Six convolutions of 16 to 64 channels, 6.7 M multiply-accumulates."""
        return SmallVgg()

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """uint8 images (N, 1, 28, 28), labels, rows."""
        return _splits(self.data)


class SmallVgg(nn.Module):
    """Pairs of 3 x 3 convolutions with BatchNorm, halved twice by max pooling; mean; linear."""

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            *_convolution(1, first),
            *_convolution(first, first),
            nn.MaxPool2d(2),
            *_convolution(first, second),
            *_convolution(second, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, third),
        )
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of images `(B, 1, 28, 28)`."""
        return self.linear(self.features(x).mean((2, 3)))


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


@cache
def _splits(data: str | Path | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    path = find_file(data, "fashion_mnist", (_NPZ, _IDX["train_images"]))
    sources = [path] if path.name == _NPZ else [path.with_name(name) for name in _IDX.values()]
    for source in sources:
        if not source.is_file():
            raise TaskError(f"{path.parent} is not complete: no {source.name}")
    arrays = cached_arrays("fashion_mnist", sources, lambda: _read(sources))
    train, val = stratified(arrays["train_labels"], 0.1, seed=0)
    fit = _tensors(arrays, "train")
    test = _tensors(arrays, "test")
    rows = torch.arange(len(test[1]))
    return {"train": (*fit, train), "val": (*fit, val), "test": (*test, rows)}


def _tensors(arrays: Mapping[str, np.ndarray], split: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1)
    return images, torch.from_numpy(arrays[f"{split}_labels"]).long()


def _read(sources: list[Path]) -> dict[str, np.ndarray]:
    if len(sources) > 1:
        arrays = {key: _idx(path) for key, path in zip(_IDX, sources, strict=True)}
    else:
        arrays = read_npz(sources[0], _IDX)
    for split in ("train", "test"):
        _check(arrays, split, sources[0])
    return arrays


def _check(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> None:
    keys = f"{split}_images", f"{split}_labels"
    images, labels = arrays[keys[0]], arrays[keys[1]]
    if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise TaskError(
            f"{path}: {keys[0]} must be uint8 ({len(labels)}, 28, 28), got {images.dtype} "
            f"{images.shape}"
        )


def _idx(path: Path) -> np.ndarray:
    """An array of idx format: two zero bytes, type, rank, big-endian sizes, values."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise TaskError(f"{path} is damaged: {error} · download it again") from error
    shape = tuple(np.frombuffer(raw, ">u4", raw[3], offset=4).tolist())
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if raw[:3] != b"\0\0\x08" or values.size != np.prod(shape):
        raise TaskError(f"{path} is not an idx file of shape {shape} · download it again")
    return values.reshape(shape)
