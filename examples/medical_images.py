"""Portable ultrasound and chest X-ray: small networks judged by sensitivity at 90 % specificity.

    AUTOPRUNE_DATA=/data autoprune search examples/ultrasound.yaml

`BreastUltrasound` reads BUSI (Al-Dhabyani et al., Data in Brief 2020): the unpacked archive
`Dataset_BUSI_with_GT` with one folder of PNG files for each class, or `busi_gray_128.npz`; in the
data folder (the configuration's `data`, or AUTOPRUNE_DATA) or its subfolder `busi_ultrasound`.
`ChestXray` reads PneumoniaMNIST (Yang et al., Scientific Data 2023, CC BY 4.0): the file
`pneumoniamnist.npz` of MedMNIST, there or in `pneumonia_mnist`. The dense models are trained once,
in minutes, and kept. Not for clinical use.

A screening device works at an operating point: the threshold is set on validation data so that 90 %
of those without the disease pass, and what counts is how many with it are found. `evaluate` gives

- `sensitivity`, `specificity`: at that threshold; on test data it is the one of validation;
- `sensitivity_low`, `sensitivity_high`: the exact 95 % interval (Clopper & Pearson 1934);
- `partial_auc`: the mean sensitivity where the specificity is at least 80 %, which is smoother
  than one point of the curve: the search goes by it;
- `calibration_error`: of the probabilities, over ten bins (ECE, Guo et al. 2017);
- `accuracy`, `loss`: over all classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks import (
    InMemoryTask,
    Normalize,
    PadCropFlip,
    Split,
    cached_arrays,
    data_folders,
    device_of,
    find_file,
    read_npz,
    stratified,
)

SPECIFICITY = 0.90
_LEAST_SPECIFICITY = 0.80  # of the partial area
_CONFIDENCE = 0.95
_BINS = 10
_SIZE = 128
_SAME = 0.97  # correlation from which two pictures are taken for one
_SPLITS = ("train", "val", "test")
_FINDINGS = ("benign", "malignant", "normal")
_NPZ = "busi_gray_128.npz"
Splits = dict[str, tuple[Tensor, Tensor, Tensor]]


class ScreeningTask(InMemoryTask):
    """A classifier of grey images of which one class, `positive`, is to be found."""

    metric = "partial_auc"
    positive: int
    classes: int
    stride = 1
    batch_size = 32
    dense_lr = 3e-3
    prepare = Normalize(mean=(0.5,), std=(0.25,))

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = data

    def build_model(self) -> nn.Module:
        """A residual network of three stages."""
        return ScreeningNet(self.classes, self.stride)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """What the module's docstring lists; the threshold is always that of validation."""
        probabilities, targets = self._probabilities(model, split)
        at_val = probabilities, targets
        if split != "val":
            at_val = self._probabilities(model, "val")
        limit = threshold(at_val[0][:, self.positive], at_val[1] == self.positive)
        scores, is_positive = probabilities[:, self.positive], targets == self.positive
        picked = np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1.0)
        return {
            "partial_auc": partial_auc(scores, is_positive),
            **operating_point(scores, is_positive, limit),
            "calibration_error": calibration_error(probabilities, targets),
            "accuracy": float((probabilities.argmax(1) == targets).mean()),
            "loss": float(-np.log(picked).mean()),
        }

    def _probabilities(self, model: nn.Module, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities `(N, classes)` and targets `(N,)`; the model's mode is left as it was."""
        modes, device = [(module, module.training) for module in model.modules()], device_of(model)
        model.eval()
        try:
            with torch.inference_mode():
                found = [(model(x.to(device)).cpu(), y) for x, y in self.split_loader(split)]
        finally:
            for module, training in modes:
                module.training = training
        logits, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
        return F.softmax(logits.double(), dim=1).numpy(), targets.numpy()


class BreastUltrasound(ScreeningTask):
    """Benign, malignant (to be found) or normal: train 551, validation 77, test 152 images.

    Near-duplicates are in one part.
    """

    positive, classes, stride = 1, 3, 2
    dense_epochs = 40
    augment = PadCropFlip(pad=8)

    def splits(self) -> Splits:
        """uint8 images (N, 1, 128, 128), labels, rows."""
        return _ultrasound(self.data)


class ChestXray(ScreeningTask):
    """Normal, or pneumonia (to be found): train 4,708, validation 524, test 624 images."""

    positive, classes = 1, 2
    dense_epochs = 15
    batch_size = 64
    augment = PadCropFlip(pad=2, flip=False)

    def splits(self) -> Splits:
        """uint8 images (N, 1, 28, 28), labels, rows."""
        return _chest(self.data)


class ScreeningNet(nn.Module):
    """A convolution, three stages of a residual block with 16, 32 and 64 channels, mean, linear."""

    def __init__(self, classes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        pairs = ((16, 16), (16, 32), (32, 64))
        self.stages = nn.Sequential(*(_Block(inputs, outputs) for inputs, outputs in pairs))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of images `(B, 1, H, W)`; every stage halves them."""
        x = self.stages(F.relu(self.bn(self.conv(x))))
        return self.linear(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def threshold(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """The lowest threshold at which `SPECIFICITY` of the negatives are not above it.

    A score counts as positive where it is above the threshold.
    """
    negatives = np.sort(scores[~is_positive])
    return float(negatives[int(np.ceil(SPECIFICITY * len(negatives) - 1e-9)) - 1])


def operating_point(scores: np.ndarray, is_positive: np.ndarray, limit: float) -> dict[str, float]:
    """Sensitivity with its exact interval, and specificity, at a threshold."""
    found, total = int((scores > limit)[is_positive].sum()), int(is_positive.sum())
    low, high = interval(found, total)
    return {
        "sensitivity": found / total,
        "sensitivity_low": low,
        "sensitivity_high": high,
        "specificity": float((scores <= limit)[~is_positive].mean()),
    }


def interval(found: int, total: int) -> tuple[float, float]:
    """The exact binomial confidence interval of `found` of `total` (Clopper & Pearson 1934)."""
    rest = (1.0 - _CONFIDENCE) / 2.0
    low = beta.ppf(rest, found, total - found + 1) if found else 0.0
    high = beta.ppf(1.0 - rest, found + 1, total - found) if found < total else 1.0
    return float(low), float(high)


def partial_auc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """The mean sensitivity over specificities from 80 % to 100 %; ties count half."""
    negatives = np.sort(scores[~is_positive])[::-1]
    count = len(negatives) * (1.0 - _LEAST_SPECIFICITY)  # of false alarms, not always whole
    weights = np.clip(count - np.arange(len(negatives)), 0.0, 1.0)
    positives = scores[is_positive]
    above = [(positives > n).mean() + 0.5 * (positives == n).mean() for n in negatives]
    return float(np.array(above) @ weights / count)


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The mean distance of confidence from accuracy over bins of the largest probability."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((confidence - right)[bins == each].sum())) for each in range(_BINS)]
    return sum(gaps) / len(targets)


@cache
def _chest(data: str | Path | None) -> Splits:
    names = ("pneumoniamnist.npz", "pneumonia_mnist_28.npz")
    file = find_file(data, "pneumonia_mnist", names)
    keys = [f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")]
    held = read_npz(file, keys)
    found = {}
    for split in _SPLITS:
        images = torch.from_numpy(held[f"{split}_images"])[:, None]
        labels = torch.from_numpy(held[f"{split}_labels"].reshape(-1).astype(np.int64))
        found[split] = (images, labels, torch.arange(len(labels)))
    return found


@cache
def _ultrasound(data: str | Path | None) -> Splits:
    arrays = _ultrasound_arrays(data)
    images = torch.from_numpy(arrays["images"])[:, None]
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    rows = [torch.from_numpy(np.flatnonzero(arrays["split"] == part)) for part in range(3)]
    return {name: (images, labels, part) for name, part in zip(_SPLITS, rows, strict=True)}


def _ultrasound_arrays(data: str | Path | None) -> dict[str, np.ndarray]:
    """`images` (N, 128, 128) uint8, `labels` and `split` (0 train, 1 val, 2 test)."""
    folders = data_folders(data, "busi_ultrasound")
    for folder in folders:
        if (folder / _NPZ).is_file():
            held = read_npz(folder / _NPZ, ("images", "labels", "suggested_split"))
            return {**held, "split": held["suggested_split"]}
        for place in (folder, folder / "Dataset_BUSI_with_GT"):
            if files := list(_pictures(place)):
                return cached_arrays("busi", files, lambda found=files: _decoded(found))
    raise TaskError(
        f"busi_ultrasound is not in {' or '.join(map(str, folders))}: looked for {_NPZ} and for "
        f"PNG files in folders named {', '.join(_FINDINGS)}"
    )


def _pictures(folder: Path) -> Iterator[Path]:
    """The images of every class; files that end in `_mask` are outlines of what was found."""
    for name in _FINDINGS:
        files = sorted((folder / name).glob("*.png"))
        yield from (file for file in files if "_mask" not in file.stem)


def _decoded(files: list[Path]) -> dict[str, np.ndarray]:
    images = np.stack([_picture(file) for file in files])
    labels = np.array([_FINDINGS.index(file.parent.name) for file in files])
    return {"images": images, "labels": labels, "split": _parts(images, labels)}


def _picture(file: Path) -> np.ndarray:
    try:
        with _pillow().open(file) as image:
            return np.asarray(image.convert("L").resize((_SIZE, _SIZE), _pillow().Resampling.BOX))
    except (OSError, SyntaxError) as error:
        raise TaskError(f"{file} cannot be read as an image: {error}") from error


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise TaskError("PNG files need pillow · pip install 'autoprune[examples]'") from error


def _parts(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """70 % train, 10 % validation, 20 % test of every class; near-duplicates stay together."""
    block = _SIZE // 32
    small = images.reshape(len(images), 32, block, 32, block).mean((2, 4))
    close = np.corrcoef(small.reshape(len(images), -1)) > _SAME
    groups = connected_components(close)[1]
    first = labels[np.unique(groups, return_index=True)[1]]  # the label of each group's first
    rest, test = stratified(first, 0.2, seed=0)
    val = rest[stratified(first[rest], 0.125, seed=0)[1]]
    parts = np.zeros(len(first), np.int64)
    parts[val], parts[test] = 1, 2
    return parts[groups]
