"""A saved model as one compressed file, whose size is the cost `file_bytes` in float32.

After `MAGIC` and the length of the header follow two zlib streams. The header is JSON: the recipe
(what is built, not how it was trained), and name, type and shape of each tensor. The second stream
holds, for tensors with many zeros, one bit an element that says where it differs from zero (the
inputs' dimension last, so that N:M lies in whole bytes), and then the values that differ: the sign
bit is rotated to the end, and the bytes are sorted by significance, so that all exponents are
together. That stream is entropy-coded only (`Z_HUFFMAN_ONLY`): of weights that is smaller than any
dictionary coder makes them, and of masks within 2 % of the entropy. Values come back bit for bit.
No pickle.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import INT8
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.store.files import checked, first_line, parse_json, plain, write_bytes
from autoprune.store.models import FORMAT, Recipe, read_model, untied
from autoprune.store.quantization import read_quantization

if TYPE_CHECKING:
    import torch

PACKED_FILE = "model.packed"
MAGIC = b"autoprn\x01"
_SPARSE = 1 / 16  # share of zeros above which their places are written
_LENGTH = struct.Struct("<I")
_MOST_HEADER = 64 << 20
_MOST_TIMES = 8  # a code of Huffman's has at least one bit for each byte
_FLUSHED = 256  # a part of at least so many bytes gets a code table of its own
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, zlib.error)
Words = NDArray[Any]  # one-dimensional, of unsigned integers


@dataclass(frozen=True)
class _Entry:
    """A tensor's line in the header; `zeros` is -1 where the places of zeros are not written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    zeros: int = -1


def pack(recipe: Recipe, state: Mapping[str, torch.Tensor]) -> bytes:
    """A model's recipe and state dict as the content of a packed file."""
    tensors, tied = untied({name: state[name] for name in sorted(state)})
    entries, bits, words = [], [], dict[int, list[Words]]()
    for name, tensor in tensors.items():
        flat = _words(tensor)
        found = int((flat == 0).sum()) if tensor.is_floating_point() else 0
        sparse = found > _SPARSE * flat.size
        if sparse:
            bits.append(np.packbits(flat != 0))
            flat = flat[flat != 0]
        kind = str(tensor.dtype).removeprefix("torch.")
        entries.append(_Entry(name, kind, tuple(tensor.shape), found if sparse else -1))
        words.setdefault(flat.itemsize, []).append(flat)
    parts = [*bits, *(plane for size in sorted(words) for plane in _planes(words[size]))]
    header = json.dumps(
        {"recipe": _short(replace(recipe, tied=tied)), "tensors": [_line(e) for e in entries]},
        separators=(",", ":"),
        allow_nan=False,
    )
    head = zlib.compress(header.encode(), 9)
    return MAGIC + _LENGTH.pack(len(head)) + head + _coded(parts)


def unpack(content: bytes, place: str) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """Inverse of `pack`; StoreError that names `place` where the content is none, or damaged."""
    start = len(MAGIC) + _LENGTH.size
    if not content.startswith(MAGIC):
        raise StoreError(f"{place} is no packed model · export writes one with --format packed")
    try:
        (length,) = _LENGTH.unpack(content[len(MAGIC) : start])
        text = _inflated(content[start : start + length], _MOST_HEADER).decode()
        header = parse_json(text, place)
        entries = [_Entry(n, d, tuple(map(int, s)), int(z)) for n, d, s, z in header["tensors"]]
        recipe = _long(header["recipe"], entries, place)
        coded = content[start + length :]
        tensors = _tensors(entries, _inflated(coded, _MOST_TIMES * len(coded)))
        tied = {alias: tensors[name] for alias, name in recipe.tied.items()}
    except (*_DAMAGE, struct.error) as error:
        raise StoreError(f"{place} is damaged: {first_line(error)}") from error
    return recipe, {**tensors, **tied}


def packed_parts(content: bytes) -> tuple[int, int]:
    """How many bytes of a packed file's content are its head, and its values."""
    (length,) = _LENGTH.unpack(content[len(MAGIC) : len(MAGIC) + _LENGTH.size])
    head = len(MAGIC) + _LENGTH.size + int(length)
    return head, len(content) - head


def write_packed(path: Path, recipe: Recipe, state: Mapping[str, torch.Tensor]) -> int:
    """Write a packed file in one step; returns its size."""
    content = pack(recipe, state)
    write_bytes(path, content)
    return len(content)


def read_packed(path: str | Path) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """A packed file's recipe and state dict; StoreError where it is missing or damaged."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return unpack(content, str(path))


def is_packed(path: str | Path) -> bool:
    """Whether this is a packed file."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(MAGIC)) == MAGIC


def with_file_bytes(cost: Cost, folder: Path) -> Cost:
    """The cost of a saved model with the size of its file: packed, or the int8 one beside it.

    Raises StoreError where it is missing or damaged.
    """
    recipe, state = read_model(folder)
    if recipe.candidate.architecture.precision != INT8:
        return replace(cost, file_bytes=len(pack(recipe, state)))
    report = read_quantization(folder)
    if report is None:
        raise StoreError(f"{folder} has no int8 file")
    return replace(cost, file_bytes=report.int8.file_bytes)


def _short(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON without how it was trained, kept units as bits in hexadecimal digits."""
    candidate = Candidate(recipe.candidate.architecture)
    found = plain(replace(recipe, candidate=candidate, shapes={}, sha256=""))
    return {**found, "kept_indices": {n: _digits(k) for n, k in recipe.kept_indices.items()}}


def _long(short: Mapping[str, Any], entries: Iterable[_Entry], place: str) -> Recipe:
    kept = {name: _indices(digits) for name, digits in short["kept_indices"].items()}
    if short["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT}, got {short['format']!r}")
    shapes = {entry.name: entry.shape for entry in entries}
    return checked({**short, "kept_indices": kept, "shapes": shapes}, Recipe, place)


def _digits(kept: Iterable[int]) -> str:
    places = np.fromiter(kept, dtype=np.int64)
    bits = np.zeros(int(places.max(initial=-1)) + 1, dtype=bool)
    bits[places] = True
    return np.packbits(bits).tobytes().hex()


def _indices(digits: str) -> list[int]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8))
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def _line(entry: _Entry) -> list[Any]:
    return [entry.name, entry.dtype, list(entry.shape), entry.zeros]


def _words(tensor: torch.Tensor) -> Words:
    """The tensor's elements as unsigned integers, the second dimension last."""
    import torch

    values = tensor.movedim(1, -1) if tensor.dim() > 2 else tensor
    content = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return content.view(_unsigned(min(8, tensor.element_size())))


def _unsigned(size: int) -> str:
    return f"<u{size}"


def _planes(words: list[Words]) -> list[Words]:
    """The bytes of all words by significance, the sign bit last."""
    whole = np.concatenate(words)
    size = whole.itemsize
    if size > 1:
        whole = (whole << 1) | (whole >> (8 * size - 1))
    planes = whole.astype(_unsigned(size)).view(np.uint8).reshape(-1, size)
    return [np.ascontiguousarray(planes[:, place]) for place in range(size)]


def _whole(planes: NDArray[np.uint8]) -> Words:
    """Inverse of `_planes`; (size, words) bytes."""
    size = len(planes)
    words = np.ascontiguousarray(planes.T).view(_unsigned(size)).reshape(-1)
    return (words >> 1) | (words << (8 * size - 1)) if size > 1 else words


def _coded(parts: Iterable[Words]) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    found = []
    for part in parts:
        found.append(coder.compress(part.tobytes()))
        if part.size >= _FLUSHED:
            found.append(coder.flush(zlib.Z_FULL_FLUSH))
    return b"".join([*found, coder.flush()])


def _inflated(content: bytes, most: int) -> bytes:
    """The stream's content; ValueError where it is damaged, or longer than a file of ours."""
    coder = zlib.decompressobj()
    found = coder.decompress(content, most + 1)
    if len(found) > most:
        raise ValueError(f"it holds more than {most} bytes")
    if not coder.eof or coder.unused_data:
        raise ValueError("it does not end where it should")
    return found


def _tensors(entries: list[_Entry], content: bytes) -> dict[str, torch.Tensor]:

    data = np.frombuffer(content, dtype=np.uint8)
    kinds = {entry.name: _dtype(entry.dtype) for entry in entries}
    there, at = {}, 0
    for entry in entries:
        if entry.zeros >= 0:
            count = math.prod(entry.shape)
            end = at + -(-count // 8)
            if end > len(data):
                raise ValueError(f"{entry.name} is larger than the file")
            there[entry.name] = np.unpackbits(data[at:end], count=count).astype(bool)
            at = end
    counts = {e.name: _count(e, kinds[e.name].itemsize) for e in entries}
    found: dict[str, torch.Tensor] = {}
    for size in sorted({size for size, _ in counts.values()}):
        mine = [entry for entry in entries if counts[entry.name][0] == size]
        total = sum(counts[entry.name][1] for entry in mine)
        words = _whole(data[at : at + size * total].reshape(size, total))
        at += size * total
        start = 0
        for entry in mine:
            part = words[start : start + counts[entry.name][1]]
            start += len(part)
            if entry.name in there:
                spread = np.zeros(len(there[entry.name]), dtype=words.dtype)
                spread[there[entry.name]] = part
                part = spread
            found[entry.name] = _tensor(part, entry, kinds[entry.name])
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left over")
    return {entry.name: found[entry.name] for entry in entries}


def _count(entry: _Entry, itemsize: int) -> tuple[int, int]:
    """Bytes of a word, and how many words are written."""
    size = min(8, itemsize)
    return size, math.prod(entry.shape) * (itemsize // size) - max(0, entry.zeros)


def _tensor(words: Words, entry: _Entry, kind: torch.dtype) -> torch.Tensor:
    import torch

    shape = entry.shape
    if not words.size:
        return torch.empty(shape, dtype=kind)
    moved = (shape[0], *shape[2:], shape[1]) if len(shape) > 2 else shape
    content = torch.from_numpy(np.ascontiguousarray(words).view(np.uint8).copy())
    tensor = content.view(kind).reshape(moved)
    return tensor.movedim(-1, 1).contiguous() if len(shape) > 2 else tensor


def _dtype(name: str) -> torch.dtype:
    import torch

    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"{name!r} is no type of tensors")
    return kind
