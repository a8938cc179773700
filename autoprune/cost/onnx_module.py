"""A model that was written as ONNX, run in ONNX Runtime behind the interface of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.cost.inputs import Inputs, array_of, as_call, moved, tensors
from autoprune.cost.onnx_export import OnnxModel, WrittenModule
from autoprune.cost.targets.on_device import CPU, open_session
from autoprune.errors import ExportError, first_line

Array = np.ndarray[Any, Any]


class OnnxModule(WrittenModule):
    """Calls ONNX Runtime with a module's arguments and answers in that module's form.

    `original` is the module that `written` was exported from; it is called once with the example
    inputs, to see in which structure (a tensor, a tuple, a mapping, an output class) it answers. A
    file with a fixed batch size is fed in pieces of that size, the last one filled up. Where a call
    has other sizes than the file elsewhere, `rewrite` is called with its arrays, and may `reopen`
    the module with another file. `shapes` are those of its inputs, a name where a size is free.
    There are no parameters, and no gradients.

    Raises ExportError where a call does not fit the file.
    """

    def __init__(
        self, written: OnnxModel, original: nn.Module, example_inputs: Inputs, threads: int = 1
    ) -> None:
        super().__init__()
        args, kwargs = as_call(moved(example_inputs, "cpu"))
        with torch.no_grad():
            self._answer = pytree.tree_flatten(original(*args, **kwargs))
        self._keywords, self._threads = tuple(kwargs), threads
        self.rewrite: Callable[[list[Array]], None] | None = None
        self.reopen(written)

    def reopen(self, written: OnnxModel) -> None:
        """Answer from another file of the same model from now on."""
        self.written = written
        self._session = open_session(written.data, self._threads, CPU)
        self.shapes = [tuple(each.shape) for each in self._session.get_inputs()]
        size = self.shapes[0][:1]
        self._batch = size[0] if size and isinstance(size[0], int) else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The answer to a call that has the form of the example's."""
        given = self._arrays(args, kwargs)
        if self.rewrite is not None and not self._fits(given):
            self.rewrite(given)
        rows = given[0].shape[0] if given and given[0].ndim else 0
        if self._batch is None or rows == self._batch:
            found = self._run(given)
        else:
            found = self._in_pieces(given, rows, self._batch)
        parts = iter(found)
        leaves, structure = self._answer
        filled = [next(parts) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(filled, structure)

    def _fits(self, given: list[Array]) -> bool:
        """Whether the sizes are the file's, but for the first dimension."""
        sizes = [
            pair
            for shape, array in zip(self.shapes, given, strict=True)
            for pair in zip(shape[1:], array.shape[1:], strict=False)
        ]
        return all(size == found for size, found in sizes if isinstance(size, int))

    def _arrays(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Array]:
        known = [kwargs[name] for name in self._keywords if name in kwargs]
        given = [array_of(tensor) for tensor in tensors((args, known))]
        unknown = [name for name in kwargs if name not in self._keywords and tensors(kwargs[name])]
        if unknown or len(given) != len(self.written.inputs):
            raise ExportError(
                f"the file takes the inputs {', '.join(self.written.inputs)}, got {len(given)} "
                f"tensors{f' and {unknown[0]}' if unknown else ''} · example_input must have the "
                "form of the model's call"
            )
        return given

    def _run(self, given: list[Array]) -> list[Tensor]:
        try:
            found = self._session.run(None, dict(zip(self.written.inputs, given, strict=True)))
        except Exception as error:  # of ONNX Runtime's own classes
            raise ExportError(f"the file does not run: {first_line(error)}") from error
        return [torch.from_numpy(array) for array in found]

    def _in_pieces(self, given: list[Array], rows: int, batch: int) -> list[Tensor]:
        pieces = [self._run(piece) for piece in pieces_of(given, batch)]
        if not pieces or any(part.dim() == 0 or part.shape[0] != batch for part in pieces[0]):
            raise ExportError(
                f"the file has a fixed batch of {batch} and outputs without it, got {rows} samples "
                "· export with a dynamic batch"
            )
        return [torch.cat(parts)[:rows] for parts in zip(*pieces, strict=True)]


def pieces_of(given: list[Array], batch: int) -> list[list[Array]]:
    """Arrays cut along the first dimension into pieces of `batch` rows, the last one repeated.

    >>> [piece[0].tolist() for piece in pieces_of([np.arange(3)], 2)]
    [[0, 1], [2, 2]]
    """
    rows = given[0].shape[0]
    starts = range(0, rows, batch)
    return [
        [array[np.minimum(np.arange(start, start + batch), rows - 1)] for array in given]
        for start in starts
    ]
