"""Large tensors of a task, once in memory for all workers of this machine.

Ray would give each worker a copy of its own. Here a tensor is written to a file, which every worker
maps: they share the pages, and a page that one of them writes to becomes its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.util
import torch
from torch import Tensor

LEAST_BYTES = 1 << 20


@contextmanager
def shared_tensors(folder: Path) -> Iterator[None]:
    """What is given to Ray inside has its large CPU tensors in files of `folder`.

    The folder must be there as long as workers start. Tensors that share memory share a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[tuple[int, int], str] = {}

    def pack(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage() if _is_plain(tensor) else None
        if storage is None or storage.nbytes() < LEAST_BYTES:
            return tensor.__reduce_ex__(2)  # type: ignore[no-untyped-call]
        key = storage.data_ptr(), storage.nbytes()
        if key not in files:
            files[key] = str(folder / f"{len(files)}.bin")
            _write(Path(files[key]), storage)
        shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        return files[key], storage.nbytes(), tensor.dtype, shape, stride, offset

    ray.util.register_serializer(torch.Tensor, serializer=pack, deserializer=unpack)
    try:
        yield
    finally:
        ray.util.deregister_serializer(torch.Tensor)


def unpack(packed: Any) -> Tensor:
    """The tensor again: mapped, or made as pickle makes it."""
    if callable(packed[0]):
        make, arguments = packed[:2]
        found: Tensor = make(*arguments)
        return found
    path, size, dtype, shape, stride, offset = packed
    data = torch.from_file(path, shared=False, size=size, dtype=torch.uint8)
    return data.view(dtype).as_strided(shape, stride, offset)


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _write(file: Path, storage: torch.UntypedStorage) -> None:
    view = torch.empty(0, dtype=torch.uint8).set_(storage)
    with file.open("wb") as out:
        view.numpy().tofile(out)
