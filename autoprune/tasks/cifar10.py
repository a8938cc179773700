"""CIFAR-10 with the ResNets of He et al. 2016 for it (20, 32 or 56 layers)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks.cifar10_files import read
from autoprune.tasks.folders import data_folders
from autoprune.tasks.in_memory import InMemoryTask, Splits
from autoprune.tasks.loaders import Normalize, PadCropFlip, stratified

DEPTHS: tuple[int, ...] = (20, 32, 56)
_SPLIT_SEED = 0
_VALIDATION_SHARE = 0.1
# The public checkpoints were trained with ImageNet's statistics.
_PREPARE = Normalize(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))


class Cifar10(InMemoryTask):
    """Train 45,000, validation 5,000 (stratified, always the same), test 10,000 (the official one).

    Args:
        depth: 20, 32 or 56.
        data: the folder with the images, in any form that `cifar10_files` knows, by default
            AUTOPRUNE_DATA; they may also lie in its subfolder `cifar10`.
        checkpoint: trained weights; by default `resnet<depth>_cifar10.safetensors` in the data
            folder or its subfolder `checkpoints`.
        dense_epochs: train the dense model for so many epochs where no checkpoint is found.
        batch_size: of training.

    The public checkpoints (akamaster/pytorch_resnet_cifar10) were trained on all 50,000 training
    images and chosen by test accuracy. They have seen the validation split, so validation accuracy
    is optimistic for the dense model and for what is pruned from it; the test split is not used
    for any choice here.
    """

    dense_lr = 4e-3
    augment = PadCropFlip(pad=4)
    prepare = _PREPARE

    def __init__(
        self,
        depth: int = 20,
        data: str | Path | None = None,
        checkpoint: str | Path | None = None,
        dense_epochs: int | None = None,
        batch_size: int = 128,
    ) -> None:
        if depth not in DEPTHS:
            known = ", ".join(map(str, DEPTHS))
            raise TaskError(f"cifar10: task_args.depth must be one of {known}, got {depth}")
        self.depth, self.data, self.batch_size = depth, data, batch_size
        self.dense_epochs = dense_epochs
        self.checkpoint = checkpoint
        if checkpoint is None:
            self.checkpoint = _found_checkpoint(data, depth, needed=dense_epochs is None)

    def build_model(self) -> nn.Module:
        """The ResNet; its state-dict names are those of the public checkpoints."""
        return CifarResNet(self.depth)

    def example_input(self) -> Tensor:
        """One image, `(1, 3, 32, 32)`."""
        return torch.zeros(1, 3, 32, 32)

    def splits(self) -> Splits:
        """uint8 images (N, 3, 32, 32), labels, rows; zero-padded by 4, cropped and mirrored."""
        return _splits(self.data)


class CifarResNet(nn.Module):
    """`depth = 6n + 2` layers: three stages of n basic blocks with 16, 32 and 64 channels.

    Shortcuts are of option A: where a stage halves the image and doubles the channels, every
    second row and column is taken and zero channels are put evenly before and after. They have no
    parameters.
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
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


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


def _found_checkpoint(data: str | Path | None, depth: int, *, needed: bool) -> Path | None:
    name = f"resnet{depth}_cifar10.safetensors"
    folders = data_folders(data, "cifar10")
    around = [near for folder in folders for near in (folder, folder / "checkpoints")]
    around.append(folders[0].parent / "checkpoints")  # the data folder is .../cifar10 itself
    for folder in around:
        if (folder / name).is_file():
            return folder / name
    if not needed:
        return None
    raise TaskError(
        f"cifar10 needs trained weights: {name} is not in {' or '.join(map(str, around))} · set "
        "task_args.checkpoint to the file, or task_args.dense_epochs to train the dense model once"
    )


@cache
def _splits(data: str | Path | None) -> Splits:
    """Split -> (uint8 images (N, 3, 32, 32), labels, rows); one copy in a process."""
    arrays = read(data)
    images, labels = torch.from_numpy(arrays["train_images"]), arrays["train_labels"]
    targets = torch.from_numpy(labels).long()
    train, val = stratified(labels, _VALIDATION_SHARE, _SPLIT_SEED)
    test_images = torch.from_numpy(arrays["test_images"])
    test_targets = torch.from_numpy(arrays["test_labels"]).long()
    return {
        "train": (images, targets, train),
        "val": (images, targets, val),
        "test": (test_images, test_targets, torch.arange(len(test_targets))),
    }
