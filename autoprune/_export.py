"""A model as a file for another runtime, accepted only when it computes the same."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.cost.inputs import Inputs, as_call, batch_size, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import to_onnx
from autoprune.errors import ConfigError, ExportError, UsageError
from autoprune.graph.replica import plain
from autoprune.quantization import compared, saved, timed, twin_of
from autoprune.store import (
    QuantizationReport,
    QuantizationSettings,
    Recipe,
    read_packed,
    write_packed,
)
from autoprune.tasks.base import Task

_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-6}
_CHECKS = 3
_OTHER_BATCHES = (1, 3)

Runner = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Exported:
    """A written file that was loaded again and agrees with the model.

    `difference` is the largest absolute difference between the outputs of file and model over the
    random inputs that were tried, relative to the largest output. Of an int8 file it is that on the
    example inputs, and `quantization` says how it compares with the float32 file.
    """

    path: Path
    format: str
    exporter: str
    difference: float
    size_bytes: int
    quantization: QuantizationReport | None = None


def export_model(
    model: nn.Module,
    path: str | Path,
    example_inputs: Inputs,
    *,
    format: str | None = None,  # noqa: A002
    dynamic_batch: bool = False,
    seed: int = 0,
) -> Exported:
    """Write the model in eval mode, load the file in its runtime, and compare outputs with eager.

    `format` is a key of `FORMATS` (`onnx` runs in ONNX Runtime, `pt2` is `torch.export`'s archive);
    by default the file's ending says it. Compared are the example inputs and random ones like them;
    with `dynamic_batch` (first dimension free) at other batch sizes too. Only a file that agrees
    is put at `path`; the model is not changed.

    Raises:
        ConfigError: unknown format.
        ExportError: the model cannot be written, or the file's outputs differ.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.onnx"
    >>> exported = export_model(nn.Linear(4, 2), path, torch.zeros(1, 4))
    >>> exported.format, exported.difference < 1e-5, path.exists()
    ('onnx', True, True)
    """
    path = Path(path)
    name = format or path.suffix.removeprefix(".")
    if name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {name!r} for {path}")
    inputs = moved(example_inputs, "cpu")
    if dynamic_batch and batch_size(inputs) < 2:
        inputs = _resized(inputs, 2)  # torch.export takes a size of 1 for a constant
    reference = frozen_copy(plain(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / f"model.{name}"
        exporter, run = FORMATS[name](reference, draft, inputs, dynamic_batch)
        difference = _compare(reference, run, _variants(inputs, dynamic_batch, seed), path)
        size = draft.stat().st_size
        draft.replace(path)
    return Exported(path, name, exporter, difference, size)


def export_int8(
    model: nn.Module,
    path: Path,
    task: Task,
    folder: Path,
    settings: QuantizationSettings,
    *,
    threads: int = 1,
    test: bool = False,
) -> Exported:
    """Quantize the model, compare it with float32 in ONNX Runtime, and write the int8 file.

    What was found is written as `int8.json` in `folder`, the model's. Raises ExportError where the
    model cannot be written or quantized.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"an int8 model is written as .onnx, got {path}")
    twin = twin_of(model, task, settings, threads)
    report = timed([twin], [compared(twin, task, settings, test=test)])[0]
    done = saved(twin, report, path, folder)
    size, exporter = done.int8.file_bytes, twin.quantized.int8.exporter
    return Exported(path, "onnx", exporter, twin.difference, size, done)


def export_packed(path: Path, recipe: Recipe, state: Mapping[str, Tensor]) -> Exported:
    """Write a packed file, read it again and compare every tensor bit for bit."""
    size = write_packed(path, recipe, state)
    _, found = read_packed(path)
    for name, tensor in state.items():
        mine = found[name]
        alike = mine.shape == tensor.shape and mine.dtype == tensor.dtype
        if not alike or not torch.equal(_bits(mine), _bits(tensor)):
            raise ExportError(f"{path} does not hold the weights of the model: {name} differs")
    return Exported(path, "packed", "autoprune", 0.0, size)


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def _write_onnx(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    import onnxruntime

    written = to_onnx(model, example_inputs, dynamic_batch=dynamic_batch)
    path.write_bytes(written.data)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, written.feed(inputs))]

    return written.exporter, run


def _write_pt2(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    args, kwargs = as_call(example_inputs)
    shapes = _free_batch(example_inputs) if dynamic_batch else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg)")
            warnings.filterwarnings(
                "ignore", category=DeprecationWarning, module=r"(torch|copyreg)"
            )
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ExportError(f"the model cannot be written as pt2 ({reason})") from error

    def run(inputs: Inputs) -> list[Tensor]:
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            return tensors(loaded(*args, **kwargs))

    return "torch.export", run


def _free_batch(example_inputs: Inputs) -> Any:
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    batch = torch.export.Dim("batch")
    for tensor in tensors(as_call(example_inputs)):
        if tensor.dim() > 0:
            shapes[tensor] = {0: batch}
    return shapes


Writer = Callable[[nn.Module, Path, Inputs, bool], tuple[str, Runner]]
FORMATS: Mapping[str, Writer] = {"onnx": _write_onnx, "pt2": _write_pt2}
"""Format → what writes the file and gives back the exporter's name and the loaded file to run."""


def _compare(model: nn.Module, run: Runner, trials: Sequence[Inputs], path: Path) -> float:
    """The largest relative difference; raises ExportError where it is above the tolerance."""
    worst = 0.0
    for trial in trials:
        args, kwargs = as_call(trial)
        with torch.no_grad():
            expected = tensors(model(*args, **kwargs))
        try:
            found = run(trial)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ExportError(
                f"{path.name} was written but does not run on inputs {_shapes(trial)}: {reason}"
            ) from error
        if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in expected]:
            raise ExportError(
                f"{path.name} must give outputs of shapes {_shapes(expected)}, got {_shapes(found)}"
            )
        for ours, theirs in zip(expected, found, strict=True):
            difference, tolerance = _difference(ours, theirs), _TOLERANCES.get(ours.dtype, 1e-4)
            if not difference <= tolerance:
                raise ExportError(
                    f"{path.name} must agree with the model within {tolerance:g} of the largest "
                    f"output, got {difference:.3g} on inputs {_shapes(trial)} · nothing was written"
                )
            worst = max(worst, difference)
    return worst


def _difference(expected: Tensor, found: Tensor) -> float:
    """Largest absolute difference relative to the largest finite expected value.

    Infinite where NaN or infinities are not at the same places.
    """
    ours, theirs = expected.double(), found.double()
    finite = torch.isfinite(ours)
    if not torch.equal(finite, torch.isfinite(theirs)) or not torch.equal(
        torch.nan_to_num(ours[~finite]), torch.nan_to_num(theirs[~finite])
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(ours[finite].abs().max()) or 1.0
    return float((ours - theirs)[finite].abs().max()) / scale


def _variants(example_inputs: Inputs, dynamic_batch: bool, seed: int) -> list[Inputs]:
    generator = torch.Generator().manual_seed(seed)
    trials = [example_inputs, *(_random(example_inputs, generator) for _ in range(_CHECKS))]
    if dynamic_batch:
        trials += [_random(_resized(example_inputs, n), generator) for n in _OTHER_BATCHES]
    return trials


def _random(example_inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Inputs of the same shapes, types and range: normal floats, integers within the example's."""

    def like(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.is_complex() or leaf.numel() == 0:
            return leaf
        if leaf.is_floating_point():
            spread = float(leaf.double().std(correction=0)) or 1.0
            noise = torch.randn(leaf.shape, generator=generator) * spread
            return (noise + float(leaf.double().mean())).to(leaf.dtype)
        low, high = int(leaf.min()), int(leaf.max())
        drawn = torch.randint(low, high + 1, leaf.shape, generator=generator)
        return drawn.to(leaf.dtype)

    result: Inputs = pytree.tree_map(like, example_inputs)
    return result


def _resized(example_inputs: Inputs, batch: int) -> Inputs:
    """The same inputs with another first dimension: repeated, then cut."""

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        times = -(-batch // max(1, leaf.shape[0]))
        return leaf.repeat(times, *(1 for _ in leaf.shape[1:]))[:batch].clone()

    result: Inputs = pytree.tree_map(resize, example_inputs)
    return result


def _shapes(tree: Any) -> str:
    found = tensors(as_call(tree) if isinstance(tree, (Tensor, Mapping)) else tree)
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in found)
