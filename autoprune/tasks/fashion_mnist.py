"""Fashion-MNIST with a small VGG-like network."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.folders import arrays_of, cached_arrays, find_file
from autoprune.tasks.in_memory import InMemoryTask, Splits
from autoprune.tasks.loaders import Normalize, PadCropFlip, stratified

_SPLIT_SEED = 0
_VALIDATION_SHARE = 0.1
_PREPARE = Normalize(mean=(0.286,), deviation=(0.353,))
_NPZ = "fashion_mnist.npz"
_IDX = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


class FashionMnist(InMemoryTask):
    """Train 54,000, validation 6,000 (stratified, always the same), test 10,000 (official).

    The images come from `fashion_mnist.npz` (train_images, train_labels, test_images, test_labels)
    or from the four original idx files, in the folder `data` (by default AUTOPRUNE_DATA) or its
    subfolder `fashion_mnist`. The dense model is trained once, in minutes, and kept.

    Args:
        data: the data folder.
        dense_epochs: of the dense model's training.
        batch_size: of training.
    """

    dense_lr = 4e-3
    augment = PadCropFlip(pad=2)
    prepare = _PREPARE

    def __init__(
        self, data: str | Path | None = None, dense_epochs: int = 8, batch_size: int = 128
    ) -> None:
        self.data, self.dense_epochs, self.batch_size = data, dense_epochs, batch_size

    def build_model(self) -> nn.Module:
        """Six convolutions of 16 to 64 channels, 6.7 M multiply-accumulates."""
        return SmallVgg()

    def example_input(self) -> Tensor:
        """One image, `(1, 1, 28, 28)`."""
        return torch.zeros(1, 1, 28, 28)

    def splits(self) -> Splits:
        """uint8 images (N, 1, 28, 28), labels, rows; zero-padded by 2, cropped and mirrored."""
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
        return self.linear(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


@cache
def _splits(data: str | Path | None) -> Splits:
    """Split -> (uint8 images (N, 1, 28, 28), labels, rows); one copy in a process."""
    path = find_file(data, "fashion_mnist", (_NPZ, _IDX["train_images"]))
    sources = [path] if path.name == _NPZ else [path.with_name(name) for name in _IDX.values()]
    for source in sources:
        if not source.is_file():
            raise TaskError(f"fashion_mnist in {path.parent} is not complete: no {source.name}")
    arrays = cached_arrays("fashion_mnist", sources, lambda: _read(sources))
    train, val = stratified(arrays["train_labels"], _VALIDATION_SHARE, _SPLIT_SEED)
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
        arrays = arrays_of(sources[0], _IDX)
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
    """An array in the idx form of LeCun: two zero bytes, type, rank, big-endian sizes, bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise TaskError(f"{path} is damaged: {error} · download it again") from error
    shape = tuple(np.frombuffer(raw, ">u4", raw[3], offset=4).tolist())
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if raw[:3] != b"\0\0\x08" or values.size != np.prod(shape):
        raise TaskError(
            f"{path} is no idx file of bytes with the shape {shape} · download it again"
        )
    return values.reshape(shape)
