"""CIFAR-10 on disk, in the forms that people have, as uint8 arrays.

| form | what is looked for |
| --- | --- |
| binary version | `data_batch_1.bin` ... `data_batch_5.bin`, `test_batch.bin` |
| parquet (Hugging Face) | `train*.parquet`, `test*.parquet`: image bytes and `label` |
| lossless sheets | `train_1.webp` ... `train_5.webp`, `test.webp`, `labels.npz` |
| image folder | `train/<class>/*.png`, `test/<class>/*.png` (or .jpg) |

They may lie in the data folder, in its subfolder `cifar10`, or in the usual folder of a form
(`cifar-10-batches-bin`, `plain_text`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from autoprune.errors import TaskError
from autoprune.tasks.folders import DATA_VARIABLE, arrays_of, cached_arrays, data_folders

CLASSES: tuple[str, ...] = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_OTHER_NAMES = {"plane": 0, "car": 1} | {str(number): number for number in range(len(CLASSES))}
_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_SUFFIXES = (".png", ".jpg", ".jpeg")
_SPLITS = ("train", "test")

Pair = tuple[np.ndarray, np.ndarray]  # images (N, 3, 32, 32), labels (N,), both uint8
Files = dict[str, list[Path]]  # split -> files


@dataclass(frozen=True)
class Form:
    """One form: which files it is made of (empty when it is not there), and how they are read."""

    looked_for: str
    find: Callable[[Path], Files]
    read: Callable[[list[Path]], Pair]


def read(data: str | Path | None) -> dict[str, np.ndarray]:
    """`train_images`, `train_labels`, `test_images`, `test_labels`, memory-mapped from the cache.

    Images are `(N, 3, 32, 32)` uint8. Raises TaskError with what was looked for when no form is
    there, and with the file's name when one is damaged.
    """
    form, files = _found(data)
    sources = [path for split in _SPLITS for path in files[split]]

    def make() -> Mapping[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for split in _SPLITS:
            images, labels = form.read(files[split])
            arrays[f"{split}_images"] = np.ascontiguousarray(images)
            arrays[f"{split}_labels"] = _checked(images, labels, files[split][0])
        return arrays

    return cached_arrays("cifar10", sources, make)


def _found(data: str | Path | None) -> tuple[Form, Files]:
    folders = data_folders(data, "cifar10")
    for folder in folders:
        for form in FORMS.values():
            files = form.find(folder)
            if any(files.values()):
                return form, _both_splits(form, files, folder)
    where = " or ".join(map(str, folders))
    pickled = next((f for f in folders if _has_pickles(f)), None)
    if pickled is not None:
        raise TaskError(
            f"{pickled} holds CIFAR-10's Python version, which is pickle and is not read · get "
            "the binary version (cifar-10-binary.tar.gz) from www.cs.toronto.edu/~kriz/cifar.html"
        )
    looked = "; ".join(f"{name}: {form.looked_for}" for name, form in FORMS.items())
    raise TaskError(
        f"cifar10 is not in {where} · looked for {looked} · set the configuration's data, or "
        f"{DATA_VARIABLE}, to the folder that holds one of them"
    )


def _both_splits(form: Form, files: Files, folder: Path) -> Files:
    for split in _SPLITS:
        if not files[split]:
            raise TaskError(
                f"cifar10 in {folder}: the {split} files are missing ({form.looked_for})"
            )
    return files


def _has_pickles(folder: Path) -> bool:
    return any(
        (near / "data_batch_1").is_file() for near in (folder, folder / "cifar-10-batches-py")
    )


def _binary_files(folder: Path) -> Files:
    for near in (folder, folder / "cifar-10-batches-bin"):
        if any(near.glob("*_batch*.bin")):
            names = [f"data_batch_{number}.bin" for number in range(1, 6)]
            return _complete(near, {"train": names, "test": ["test_batch.bin"]})
    return {split: [] for split in _SPLITS}


def _sheet_files(folder: Path) -> Files:
    if not (folder / "labels.npz").is_file() or not any(folder.glob("*.webp")):
        return {split: [] for split in _SPLITS}
    names = [f"train_{number}.webp" for number in range(1, 6)]
    return _complete(folder, {"train": [*names, "labels.npz"], "test": ["test.webp", "labels.npz"]})


def _complete(folder: Path, names: Mapping[str, list[str]]) -> Files:
    files = {split: [folder / name for name in names[split]] for split in _SPLITS}
    lost = [path.name for split in _SPLITS for path in files[split] if not path.is_file()]
    if lost:
        raise TaskError(f"cifar10 in {folder} is not complete: {', '.join(lost)} missing")
    return files


def _parquet_files(folder: Path) -> Files:
    for near in (folder, folder / "plain_text", folder / "data"):
        files = {split: sorted(near.glob(f"{split}*.parquet")) for split in _SPLITS}
        if any(files.values()):
            return files
    return {split: [] for split in _SPLITS}


def _image_files(folder: Path) -> Files:
    return {
        split: sorted(
            path
            for path in (folder / split).glob("*/*")
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        )
        for split in _SPLITS
    }


def _read_binary(files: list[Path]) -> Pair:
    parts = []
    for path in files:
        raw = np.fromfile(path, np.uint8)
        if len(raw) == 0 or len(raw) % (1 + _IMAGE_BYTES):
            raise TaskError(
                f"{path} must hold whole records of {1 + _IMAGE_BYTES} bytes, got {len(raw)} bytes "
                "· download it again"
            )
        parts.append(raw.reshape(-1, 1 + _IMAGE_BYTES))
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, 3, _SIDE, _SIDE), records[:, 0]


def _read_sheets(files: list[Path]) -> Pair:
    *sheets, labels = files
    key = "train_labels" if len(sheets) > 1 else "test_labels"
    targets = arrays_of(labels, (key,))[key]
    images = np.concatenate([_sheet(path) for path in sheets])
    if len(images) < len(targets):
        raise TaskError(f"{labels} has {len(targets)} {key}, the sheets hold {len(images)} images")
    return images[: len(targets)], targets


def _sheet(path: Path) -> np.ndarray:
    """Images of one sheet, row by row: `(N, 3, 32, 32)`."""
    pixels = _decoded(path, path.name)
    rows, columns = pixels.shape[0] // _SIDE, pixels.shape[1] // _SIDE
    if (rows * _SIDE, columns * _SIDE) != pixels.shape[:2]:
        raise TaskError(
            f"{path} must be a grid of {_SIDE} x {_SIDE} images, got {pixels.shape[:2]}"
        )
    grid = pixels.reshape(rows, _SIDE, columns, _SIDE, 3)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, _SIDE, _SIDE)


def _read_images(files: list[Path]) -> Pair:
    images = np.stack([_single(_decoded(path, str(path)), str(path)) for path in files])
    return images, np.array([_label(path) for path in files], np.uint8)


def _read_parquet(files: list[Path]) -> Pair:
    images, labels = [], []
    for path in files:
        rows = _table(path)
        kind = next((key for key in ("img", "image") if key in rows), None)
        label = next((key for key in ("label", "labels") if key in rows), None)
        if kind is None or label is None:
            columns = ", ".join(rows)
            raise TaskError(f"{path} must have the columns img and label, it has {columns}")
        for number, cell in enumerate(rows[kind]):
            content = (cell.get("bytes") or b"") if isinstance(cell, Mapping) else cell
            name = f"{path}, row {number}"
            images.append(_single(_decoded(io.BytesIO(content), name), name))
        labels += rows[label]
    if not images:
        raise TaskError(f"{files[0]} must hold at least one image, got 0 rows")
    return np.stack(images), np.array(labels, np.uint8)


def _table(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowInvalid, parquet  # an optional dependency
    except ModuleNotFoundError as error:
        raise TaskError(f"{path} needs pyarrow to be read · pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
    except (ArrowInvalid, OSError) as error:
        raise TaskError(f"{path} cannot be read as parquet: {error}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _decoded(source: Path | io.BytesIO, name: str) -> np.ndarray:
    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise TaskError(f"{name} cannot be read as an image: {error}") from error


def _single(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.shape != (_SIDE, _SIDE, 3):
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise TaskError(f"{name} must be {_SIDE} x {_SIDE} pixels, got {size}")
    return pixels.transpose(2, 0, 1)


def _label(path: Path) -> int:
    name = path.parent.name.lower()
    if name in CLASSES:
        return CLASSES.index(name)
    if name not in _OTHER_NAMES:
        raise TaskError(
            f"{path.parent} must be named after a class of CIFAR-10 ({', '.join(CLASSES)}) or be "
            f"its number, got {name!r}"
        )
    return _OTHER_NAMES[name]


def _checked(images: np.ndarray, labels: np.ndarray, path: Path) -> np.ndarray:
    if len(images) != len(labels):
        raise TaskError(f"{path}: {len(images)} images but {len(labels)} labels")
    if labels.max() >= len(CLASSES):
        raise TaskError(f"{path}: labels must lie in 0..9, got {labels.max()} · is it CIFAR-100?")
    return np.ascontiguousarray(labels, np.uint8)


FORMS: dict[str, Form] = {
    "binary version": Form(
        "cifar-10-batches-bin/data_batch_1.bin to _5.bin and test_batch.bin",
        _binary_files,
        _read_binary,
    ),
    "parquet": Form("train*.parquet and test*.parquet", _parquet_files, _read_parquet),
    "lossless sheets": Form(
        "train_1.webp to _5.webp, test.webp and labels.npz", _sheet_files, _read_sheets
    ),
    "image folder": Form("train/<class>/*.png and test/<class>/*.png", _image_files, _read_images),
}
