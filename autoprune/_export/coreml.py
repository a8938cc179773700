"""Core ML's packages (.mlpackage), which run on macOS and iOS only: checked without being run."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs, as_call, batch_size, tensors
from autoprune.cost.onnx_export import FlatModule, unfused
from autoprune.cost.targets.base import require
from autoprune.errors import ExportError, first_line
from autoprune.log_level import log_level

LARGEST_BATCH = 64  # with a free batch: Core ML wants a bound
_TYPES = {torch.float32: np.float32, torch.int64: np.int32, torch.int32: np.int32}
_Program = Callable[..., Any]


def check() -> None:
    """Needs the package `coremltools`."""
    require("coreml", "coremltools")


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write an ML program in float32, for iOS 16 and macOS 13 or newer.

    Converted is TorchScript or, where that fails, a program of `torch.export`. It is that program
    which the given runner runs; of the package, inputs, outputs and the types of all weights are
    compared with the model's. Inputs are called `args_0`, `args_1`, outputs `output_0`.
    """
    flat = FlatModule(model, example_inputs).eval()
    for tensor in flat.example:
        _type(tensor)
    reasons = []
    for name, route in _ROUTES.items():
        try:
            with _quiet(), unfused(), torch.no_grad():
                program = route(flat, path, dynamic_batch)
        except Exception as error:  # noqa: BLE001 (converters raise whatever they meet; chained below)
            reasons.append(f"{name}: {type(error).__name__}: {first_line(error)}")
            last = error
            continue
        _check_package(flat, path, dynamic_batch)
        return f"coremltools, from {name}", _runner(program)
    raise ExportError(
        f"the model cannot be written for Core ML ({' · '.join(reasons)}) · export it as onnx"
    ) from last


def _traced(flat: FlatModule, path: Path, dynamic_batch: bool) -> _Program:
    """Convert TorchScript, which has no types and shapes of its own."""
    import coremltools

    free = coremltools.RangeDim(1, LARGEST_BATCH, default=batch_size(flat.example))
    inputs = [
        coremltools.TensorType(
            name=f"args_{place}",
            shape=[free, *tensor.shape[1:]] if dynamic_batch and tensor.dim() else tensor.shape,
            dtype=_type(tensor),
        )
        for place, tensor in enumerate(flat.example)
    ]
    traced = torch.jit.trace(flat, tuple(flat.example), check_trace=False)  # type: ignore[no-untyped-call]
    _convert(traced, path, {"inputs": inputs})
    return traced  # type: ignore[no-any-return]


def _exported(flat: FlatModule, path: Path, dynamic_batch: bool) -> _Program:
    """Convert a program of `torch.export`."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    free = tuple({0: batch} if tensor.dim() else None for tensor in flat.example)
    program = torch.export.export(
        flat, tuple(flat.example), dynamic_shapes=(free,) if dynamic_batch else None
    )
    _convert(program.run_decompositions({}), path, {})
    return program.module()


_ROUTES: Mapping[str, Callable[[FlatModule, Path, bool], _Program]] = {
    "torchscript": _traced,
    "torch.export": _exported,
}


def _convert(program: Any, path: Path, options: Mapping[str, Any]) -> None:
    """Convert to a package at `path`, with names of inputs and outputs that do not vary."""
    import coremltools

    made = coremltools.convert(
        program,
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
        **options,
    )
    spec = made.get_spec()
    inputs = [feature.name for feature in spec.description.input]
    outputs = [feature.name for feature in spec.description.output]
    for place, old in enumerate(inputs):
        coremltools.utils.rename_feature(spec, old, f"args_{place}")
    for place, old in enumerate(outputs):
        if old not in inputs:  # an input that is also an output has one name
            coremltools.utils.rename_feature(spec, old, f"output_{place}")
    coremltools.models.utils.save_spec(spec, str(path), weights_dir=made.weights_dir)


def _check_package(flat: FlatModule, path: Path, dynamic_batch: bool) -> None:
    """Read the package again; raises ExportError where it is not one of this model in float32."""
    import coremltools

    with _quiet(), torch.no_grad():
        outputs = flat(*flat.example)
        spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    description = spec.description
    fixed = slice(1 if dynamic_batch else 0, None)
    _check_shapes("inputs", flat.example, description.input, path, fixed)
    _check_shapes("outputs", outputs, description.output, path, fixed)
    functions = spec.mlProgram.functions.values()
    blocks = [block for each in functions for block in each.block_specializations.values()]
    half = next(_in_float16(blocks), None)
    if half is not None:
        raise ExportError(f"{path.name} must have weights in float32, got float16 for {half}")


def _in_float16(blocks: Iterable[Any]) -> Iterator[str]:
    """The names of the constants of a program in float16, those of inner blocks too."""
    from coremltools.proto import MIL_pb2

    for operation in (operation for block in blocks for operation in block.operations):
        made = operation.outputs[0] if operation.type == "const" else None
        if made is not None and made.type.tensorType.dataType == MIL_pb2.FLOAT16:
            yield made.name
        yield from _in_float16(operation.blocks)


def _check_shapes(
    kind: str, wanted: Sequence[Tensor], features: Sequence[Any], path: Path, fixed: slice
) -> None:
    """Raise ExportError where these are not the tensors of the model, in number or shape.

    `fixed` are the dimensions to compare. A feature without a shape has any: scalars, and outputs
    of a free batch.
    """
    expected = [tuple(tensor.shape) for tensor in wanted]
    found = [tuple(feature.type.multiArrayType.shape) for feature in features]
    same = len(found) == len(expected) and all(
        theirs[fixed] == (ours or (1,))[fixed]
        for theirs, ours in zip(found, expected, strict=True)
        if theirs
    )
    if not same:
        raise ExportError(f"{path.name} must have {kind} of shapes {expected}, got {found}")


def _type(tensor: Tensor) -> Any:
    if tensor.dtype not in _TYPES:
        names = ", ".join(str(kind).removeprefix("torch.") for kind in _TYPES)
        raise ExportError(
            f"Core ML takes inputs of {names}, got {tensor.dtype} · export it as onnx"
        )
    return _TYPES[tensor.dtype]


def _runner(program: _Program) -> Runner:
    def run(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return tensors(program(*tensors(as_call(inputs))))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and warnings of what torch, coremltools and torchao use themselves."""
    with (
        log_level("torch", "coremltools", "torchao"),
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
