"""Spoken digits (FSDD) with a depthwise-separable keyword network on log-mel features.

    AUTOPRUNE_DATA=/data autoprune profile examples/spoken_digits.py:SpokenDigits

The data folder (the configuration's `data`, or AUTOPRUNE_DATA) or its subfolder `fsdd` holds the
set's own `recordings/*.wav`, or `fsdd_8khz.npz` with the arrays audio, offsets, labels and takes.
Features are computed once and cached; the dense model is trained once, in minutes, and kept.
"""

from __future__ import annotations

import re
import wave
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks import InMemoryTask, cached_arrays, data_folders, read_npz

FRAMES, MELS = 64, 40
RATE_HZ = 8000
_WINDOW, _HOP = 256, 128  # 32 ms and 16 ms: 64 frames are one second
_TEST_TAKES = 5  # takes 0-4 of each speaker and digit: the official test set
_VAL_TAKES = 10  # takes 5-9
_NPZ = "fsdd_8khz.npz"
_NAME = re.compile(r"([0-9])_[A-Za-z]+_([0-9]+)\.wav")  # 7_jackson_32.wav: digit, speaker, take
_FOLDERS = (".", "recordings", "free-spoken-digit-dataset/recordings")


@dataclass(frozen=True)
class ShiftGainNoise:
    """Shift each clip in time, change its loudness and add noise, all on log-mel features."""

    frames: int
    gain: float
    noise: float

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """The augmented batch, of the same shape."""
        count, device = len(batch), batch.device
        shift = torch.randint(-self.frames, self.frames + 1, (count, 1), generator=generator)
        place = (torch.arange(batch.shape[2]) - shift) % batch.shape[2]
        moved = batch[torch.arange(count)[:, None], :, place.to(device)].transpose(1, 2)
        loudness = self.gain * torch.randn(count, 1, 1, 1, generator=generator)
        noise = self.noise * torch.randn(batch.shape, generator=generator)
        return moved + loudness.to(device) + noise.to(device)


class SpokenDigits(InMemoryTask):
    """Train 2,400, validation 300 (takes 5 to 9), test 300 (takes 0 to 4, the official ones).

    All six speakers are in every split.
    """

    dense_epochs = 15
    dense_lr = 4e-3
    batch_size = 64
    evaluation_batch_size = 300
    augment = ShiftGainNoise(frames=6, gain=0.3, noise=0.2)

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = data

    def build_model(self) -> nn.Module:
        """A DS-CNN (Zhang et al. 2017, arXiv:1711.07128) with four blocks of 64 channels."""
        return KeywordNet()

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Features (N, 1, 64, 40) of frames and mels, labels, rows."""
        return _splits(self.data)


class KeywordNet(nn.Module):
    """Convolution 10 x 4 (stride 2), depthwise-separable blocks, mean over the map, linear."""

    def __init__(self, width: int = 64, blocks: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, (10, 4), stride=2, padding=(4, 1), bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(_Separable(width) for _ in range(blocks)))
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of features `(B, 1, 64, 40)`."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.linear(x.mean((2, 3)))


class _Separable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


def log_mel(clip: Tensor) -> Tensor:
    """Log-mel energies `(64, 40)` of one clip in [-1, 1] at 8 kHz; cut or padded to one second.

    Hann windows of 32 ms every 16 ms, 40 triangles evenly spaced on O'Shaughnessy's mel scale from
    60 Hz to 4 kHz.
    """
    wanted = (FRAMES - 1) * _HOP + _WINDOW
    clip = F.pad(clip[:wanted], (0, max(0, wanted - len(clip))))
    frames = clip.unfold(0, _WINDOW, _HOP) * torch.hann_window(_WINDOW)
    power = torch.fft.rfft(frames).abs().square()
    return torch.log(power @ _mel_filters() + 1e-6)


@cache
def _mel_filters() -> Tensor:
    """Triangles `(129, 40)` over the bins of a 256-point transform."""
    hz = torch.linspace(0.0, RATE_HZ / 2, _WINDOW // 2 + 1)
    low, high = (2595.0 * np.log10(1.0 + edge / 700.0) for edge in (60.0, RATE_HZ / 2))
    corners = 700.0 * (10.0 ** (torch.linspace(low, high, MELS + 2) / 2595.0) - 1.0)
    rising = (hz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hz[:, None]) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


@cache
def _splits(data: str | Path | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    files = _files(data)
    arrays = cached_arrays("fsdd", files, lambda: _features(files))
    features = torch.from_numpy(arrays["features"]).unsqueeze(1)
    labels = torch.from_numpy(arrays["labels"]).long()
    takes = torch.from_numpy(arrays["takes"])
    masks = {
        "train": takes >= _VAL_TAKES,
        "val": (takes >= _TEST_TAKES) & (takes < _VAL_TAKES),
        "test": takes < _TEST_TAKES,
    }
    return {split: (features, labels, mask.nonzero()[:, 0]) for split, mask in masks.items()}


def _features(files: list[Path]) -> dict[str, np.ndarray]:
    """Features, standardized per mel by the training takes, with labels and takes."""
    clips = _read(files)
    waves = (torch.from_numpy(clip.astype(np.float32) / 32768.0) for clip in clips.audio)
    features = torch.stack([log_mel(wave) for wave in waves])
    seen = features[torch.from_numpy(clips.takes) >= _VAL_TAKES].flatten(0, 1)
    features = (features - seen.mean(0)) / seen.std(0).clamp(min=1e-3)
    return {"features": features.numpy(), "labels": clips.labels, "takes": clips.takes}


@dataclass(frozen=True, eq=False)
class _Clips:
    """Clips as int16 at 8 kHz, with the digit that is spoken and the number of the take."""

    audio: list[np.ndarray]
    labels: np.ndarray
    takes: np.ndarray


def _files(data: str | Path | None) -> list[Path]:
    """The files that hold the clips. Raises TaskError with what was looked for."""
    folders = data_folders(data, "fsdd")
    for folder in folders:
        if (folder / _NPZ).is_file():
            return [folder / _NPZ]
        for place in _FOLDERS:
            found = sorted(p for p in (folder / place).glob("*.wav") if _NAME.fullmatch(p.name))
            if found:
                return found
    raise TaskError(
        f"fsdd is not in {' or '.join(map(str, folders))}: looked for {_NPZ} and "
        f"recordings/7_jackson_32.wav and its like"
    )


def _read(files: list[Path]) -> _Clips:
    """The clips of `_files`. Raises TaskError for a file that is damaged or of another rate."""
    if files[0].suffix == ".npz":
        arrays = read_npz(files[0], ("audio", "offsets", "labels", "takes"))
        bounds = arrays["offsets"].tolist()
        audio = [arrays["audio"][a:b] for a, b in pairwise(bounds)]
        return _Clips(audio, arrays["labels"], arrays["takes"])
    names = [match.groups() for path in files if (match := _NAME.fullmatch(path.name))]
    labels, takes = np.array(names, np.int64).T
    return _Clips([_samples(path) for path in files], labels, takes)


def _samples(path: Path) -> np.ndarray:
    try:
        with wave.open(str(path)) as file:
            layout = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise TaskError(f"{path} cannot be read as WAV: {error}") from error
    if layout != (RATE_HZ, 1, 2):
        raise TaskError(
            f"{path} must be {RATE_HZ} Hz, 1 channel, 2 bytes a sample, got {layout[0]} Hz, "
            f"{layout[1]} channels, {layout[2]} bytes"
        )
    return np.frombuffer(raw, "<i2")
