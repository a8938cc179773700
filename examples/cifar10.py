"""CIFAR-10 with the residual networks of He et al. (2016) for it, and MLPerf Tiny's ResNet-8.

    AUTOPRUNE_DATA=/data autoprune search budget.yaml   # task: examples/cifar10.py:Cifar10ResNet20

The data folder (the configuration's `data`, or AUTOPRUNE_DATA) or its subfolder `cifar10` holds the
images in one of the forms of `FORMATS`. Trained weights lie there or in its subfolder
`checkpoints` (`weights` of each task names the files: the public one as it is downloaded, or
safetensors; examples/README.md has the commands); without them set
`task_args: {dense_epochs: 40}`. All forms but the binary version need
`pip install 'autoprune[examples]'`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks import (
    InMemoryTask,
    Normalize,
    PadCropFlip,
    cached_arrays,
    data_folders,
    find_file,
    read_npz,
    stratified,
)

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_KERAS_EPS = 1e-3  # of the batch normalizations of Keras


class Cifar10ResNet20(InMemoryTask):
    """Train 45,000, validation 5,000 (stratified, always the same), test 10,000 (the official one).

    The public checkpoints (akamaster/pytorch_resnet_cifar10) were trained on all 50,000 training
    images and selected by test accuracy. They have seen the validation split, so validation
    accuracy is optimistic; the test split is not used for any choice here.
    """

    depth = 20
    weights: tuple[str, ...] = ("resnet20_cifar10.safetensors", "resnet20-12fca82f.th")
    dense_lr = 4e-3
    batch_size = 128
    augment = PadCropFlip(pad=4)
    prepare = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # the checkpoints'

    def __init__(self, data: str | Path | None = None, dense_epochs: int | None = None) -> None:
        self.data, self.dense_epochs = data, dense_epochs
        if dense_epochs is None:
            self.checkpoint = find_file(data, "checkpoints", self.weights)

    def build_model(self) -> nn.Module:
        """The ResNet; its state-dict names are those of the public checkpoints."""
        return CifarResNet(self.depth)

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """uint8 images (N, 3, 32, 32), labels, rows."""
        return _splits(self.data)


class Cifar10ResNet32(Cifar10ResNet20):
    """The same with 32 layers."""

    depth = 32
    weights = ("resnet32_cifar10.safetensors", "resnet32-d509ac18.th")


class Cifar10ResNet56(Cifar10ResNet20):
    """The same with 56 layers."""

    depth = 56
    weights = ("resnet56_cifar10.safetensors", "resnet56-4bfd9763.th")


class Cifar10ResNet8(Cifar10ResNet20):
    """The network of MLPerf Tiny (Banbury et al., NeurIPS 2021) for a camera without a display.

    Its reference weights are in the repository mlcommons/tiny as a Keras file; the checkpoint has
    them under the names of `ResNet8`, filters as PyTorch orders them
    (`scripts/mlperf_tiny_weights.py`). They have seen the validation split too.
    """

    weights = ("resnet8_mlperf_tiny_cifar10.safetensors",)
    prepare = Normalize(mean=(0.0,) * 3, std=(1 / 255,) * 3)  # 0 to 255, as in its training

    def build_model(self) -> nn.Module:
        """Three stages of one residual block, 16, 32 and 64 channels."""
        return ResNet8()


class CifarResNet(nn.Module):
    """`depth = 6n + 2` layers: three stages of n basic blocks with 16, 32 and 64 channels.

    Shortcuts are of option A and have no parameters: where a stage halves the image and doubles the
    channels, every second pixel is taken and zero channels are padded evenly on both sides.
    """

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of images `(B, 3, 32, 32)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _PaddedShortcut((outputs - inputs) // 2, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _PaddedShortcut(nn.Module):
    def __init__(self, pad: int, stride: int) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [_Block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Block(inputs, outputs, stride), *rest)


class ResNet8(nn.Module):
    """A convolution, three residual blocks, global average, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, _KERAS_EPS)
        self.layer1 = _Residual(16, 16, 1)
        self.layer2 = _Residual(16, 32, 2)
        self.layer3 = _Residual(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 10)` of images `(B, 3, 32, 32)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pad = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)  # TensorFlow's "same"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs, _KERAS_EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs, _KERAS_EPS)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(F.pad(x, self.pad))))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@cache
def _splits(data: str | Path | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    arrays = read(data)
    images, labels = torch.from_numpy(arrays["train_images"]), arrays["train_labels"]
    targets = torch.from_numpy(labels).long()
    train, val = stratified(labels, 0.1, seed=0)
    test_images = torch.from_numpy(arrays["test_images"])
    test_targets = torch.from_numpy(arrays["test_labels"]).long()
    return {
        "train": (images, targets, train),
        "val": (images, targets, val),
        "test": (test_images, test_targets, torch.arange(len(test_targets))),
    }


Pair = tuple[np.ndarray, np.ndarray]  # images (N, 3, 32, 32) uint8, labels (N,)


class Format(NamedTuple):
    """Patterns of the files of both splits, and what reads the files of one split."""

    train: str
    test: str
    read: Callable[[list[Path]], Pair]
    count: int = 1  # the fewest training files


def read(data: str | Path | None) -> dict[str, np.ndarray]:
    """`train_images`, `train_labels`, `test_images`, `test_labels`; decoded once, then cached.

    Raises TaskError when no form is there, or when a file is missing or damaged.
    """
    form, files = _found(data_folders(data, "cifar10"))

    def decode() -> dict[str, np.ndarray]:
        arrays = {}
        for split, paths in files.items():
            images, labels = form.read(paths)
            if len(images) != len(labels) or labels.max() >= len(CLASSES):
                raise TaskError(
                    f"{paths[0].parent}: the {split} split must have a label in 0..9 for each "
                    f"image, got {len(images)} images and {len(labels)} labels up to {labels.max()}"
                )
            arrays[f"{split}_images"] = np.ascontiguousarray(images)
            arrays[f"{split}_labels"] = labels.astype(np.uint8)
        return arrays

    return cached_arrays("cifar10", [path for paths in files.values() for path in paths], decode)


def _found(folders: Iterable[Path]) -> tuple[Format, dict[str, list[Path]]]:
    usual = ("", "cifar-10-batches-bin", "plain_text", "data")
    for folder in [folder / name for folder in folders for name in usual]:
        for name, form in FORMATS.items():
            files = {s: sorted(folder.glob(getattr(form, s))) for s in ("train", "test")}
            if not any(files.values()):
                continue
            if len(files["train"]) < form.count or not files["test"]:
                raise TaskError(
                    f"{folder} is not complete: {name} needs {form.count} or more files "
                    f"{form.train}, and {form.test}"
                )
            return form, files
    looked = "; ".join(f"{form.train} ({name})" for name, form in FORMATS.items())
    raise TaskError(
        f"cifar10 is not in {' or '.join(map(str, folders))} · looked for {looked} · the Python "
        "version is pickle and is not read"
    )


def _read_binary(files: list[Path]) -> Pair:
    size = 1 + 3 * 32 * 32  # label, then red, green and blue planes
    parts = [np.fromfile(path, np.uint8) for path in files]
    for path, part in zip(files, parts, strict=True):
        if len(part) == 0 or len(part) % size:
            raise TaskError(f"{path} must hold records of {size} bytes, got {len(part)} bytes")
    records = np.concatenate(parts).reshape(-1, size)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _read_parquet(files: list[Path]) -> Pair:
    parquet = _needed("pyarrow.parquet")
    images, labels = [], []
    for path in files:
        try:
            columns = parquet.read_table(path).to_pydict()
        except (ValueError, OSError) as error:
            raise TaskError(f"{path} cannot be read as parquet: {error}") from error
        if not {"img", "label"} <= columns.keys():
            raise TaskError(f"{path} must have the columns img and label, it has {[*columns]}")
        images += [_image(io.BytesIO(cell["bytes"]), str(path)) for cell in columns["img"]]
        labels += columns["label"]
    return np.stack(images), np.array(labels)


def _read_sheets(files: list[Path]) -> Pair:
    split = files[0].stem.split("_")[0]  # train_1.webp, test.webp
    labels = read_npz(files[0].with_name("labels.npz"), [f"{split}_labels"])[f"{split}_labels"]
    sheets = [_pixels(path, str(path)) for path in files]
    grids = [sheet.reshape(len(sheet) // 32, 32, -1, 32, 3) for sheet in sheets]
    tiles = [grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32) for grid in grids]
    return np.concatenate(tiles)[: len(labels)], labels  # the last sheet may not be full


def _read_folders(files: list[Path]) -> Pair:
    names = [path.parent.name for path in files]
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise TaskError(f"folders must be named {', '.join(CLASSES)}, got {', '.join(unknown)}")
    images = np.stack([_image(path, str(path)) for path in files])
    return images, np.array([CLASSES.index(name) for name in names])


def _image(source: Path | io.BytesIO, name: str) -> np.ndarray:
    pixels = _pixels(source, name)
    if pixels.shape != (32, 32, 3):
        raise TaskError(f"{name} must be 32 x 32 pixels, got {pixels.shape[1]} x {len(pixels)}")
    return pixels.transpose(2, 0, 1)


def _pixels(source: Path | io.BytesIO, name: str) -> np.ndarray:
    try:
        with _needed("PIL.Image").open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise TaskError(f"{name} cannot be read as an image: {error}") from error


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise TaskError(
            f"this form of CIFAR-10 needs {error.name} · pip install 'autoprune[examples]'"
        ) from error


FORMATS = {
    "binary version": Format("data_batch_*.bin", "test_batch.bin", _read_binary, count=5),
    "parquet of Hugging Face": Format("train*.parquet", "test*.parquet", _read_parquet),
    "lossless sheets and labels.npz": Format("train_*.webp", "test.webp", _read_sheets),
    "image folders": Format("train/*/*.png", "test/*/*.png", _read_folders),
}
