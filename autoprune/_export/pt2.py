"""The archive of `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs, as_call, tensors
from autoprune.errors import ExportError, first_line


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write the exported program."""
    args, kwargs = as_call(example_inputs)
    shapes = _free_batch(example_inputs) if dynamic_batch else None
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
            _without_unread(program)
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
    except Exception as error:
        reason = first_line(error) if str(error).strip() else type(error).__name__
        raise ExportError(f"the model cannot be written as pt2 ({reason})") from error

    def run(inputs: Inputs) -> list[Tensor]:
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            return tensors(loaded(*args, **kwargs))

    return "torch.export", run


def _without_unread(program: torch.export.ExportedProgram) -> None:
    """Take out calls whose results nothing reads: those in front of a dropped branch."""
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _free_batch(example_inputs: Inputs) -> Any:
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    batch = torch.export.Dim("batch")
    for tensor in tensors(as_call(example_inputs)):
        if tensor.dim() > 0:
            shapes[tensor] = {0: batch}
    return shapes


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about what it uses itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg)")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|copyreg)")
        yield
