"""The Free Spoken Digit Dataset on disk: its recordings as WAV files, or all in one .npz file."""

from __future__ import annotations

import re
import wave
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from autoprune.errors import TaskError
from autoprune.tasks.folders import DATA_VARIABLE, arrays_of, data_folders

RATE_HZ = 8000
_NPZ = "fsdd_8khz.npz"
_KEYS = ("audio", "offsets", "labels", "takes")
_NAME = re.compile(r"([0-9])_[A-Za-z]+_([0-9]+)\.wav")  # 7_jackson_32.wav: digit, speaker, take
_PLACES = (".", "recordings", "free-spoken-digit-dataset/recordings")


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips as int16 at 8 kHz, with the digit that is spoken and the number of the take."""

    audio: list[np.ndarray]
    labels: np.ndarray
    takes: np.ndarray


def sources(data: str | Path | None) -> list[Path]:
    """The files that hold the clips. Raises TaskError with what was looked for."""
    folders = data_folders(data, "fsdd")
    for folder in folders:
        if (folder / _NPZ).is_file():
            return [folder / _NPZ]
        for place in _PLACES:
            found = sorted(p for p in (folder / place).glob("*.wav") if _NAME.fullmatch(p.name))
            if found:
                return found
    raise TaskError(
        f"fsdd is not in {' or '.join(map(str, folders))}: looked for {_NPZ} and "
        f"recordings/7_jackson_32.wav and its like · set the configuration's data, or "
        f"{DATA_VARIABLE}, to the folder that holds it"
    )


def read(files: list[Path]) -> Clips:
    """The clips of `sources`. Raises TaskError for a file that is damaged or of another rate."""
    if files[0].suffix == ".npz":
        arrays = arrays_of(files[0], _KEYS)
        bounds = arrays["offsets"].tolist()
        audio = [arrays["audio"][a:b] for a, b in pairwise(bounds)]
        return Clips(audio, arrays["labels"], arrays["takes"])
    names = [match.groups() for path in files if (match := _NAME.fullmatch(path.name))]
    labels, takes = np.array(names, np.int64).T
    return Clips([_samples(path) for path in files], labels, takes)


def _samples(path: Path) -> np.ndarray:
    try:
        with wave.open(str(path)) as file:
            form = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise TaskError(f"{path} cannot be read as WAV: {error}") from error
    if form != (RATE_HZ, 1, 2):
        raise TaskError(
            f"{path} must be {RATE_HZ} Hz, 1 channel, 2 bytes a sample, got {form[0]} Hz, "
            f"{form[1]} channels, {form[2]} bytes"
        )
    return np.frombuffer(raw, "<i2")
