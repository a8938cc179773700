"""Float model → int8 ONNX with quantize and dequantize nodes, calibrated on training samples."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from autoprune.architecture import FLOAT32
from autoprune.cost.inputs import (
    Inputs,
    array_of,
    as_call,
    batch_size,
    batched,
    dtype_of,
    frozen_copy,
    moved,
    tensors,
)
from autoprune.cost.onnx_export import OnnxModel, has_rows_for_samples
from autoprune.cost.onnx_module import Array, pieces_of
from autoprune.errors import ExportError, UsageError, first_line
from autoprune.graph.replica import plain
from autoprune.log_level import log_level
from autoprune.quantization.attention_masks import feeds_in_range, in_range, masks_of, put_back
from autoprune.quantization.call_sizes import Call, by_sizes, written_for
from autoprune.quantization.compact import compact
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of
from autoprune.tasks.on_batches import outputs_of
from autoprune.training.batches import sample

# ONNX Runtime's `Entropy` is left out: as `quantize_static` makes it, with 128 bins for 128 levels,
# the only threshold to choose is the full range, that of `MinMax`.
_METHODS = {"minmax": "MinMax", "percentile": "Percentile"}
_PIECE = 32  # samples a calibration run where the file's batch is free


@dataclass(frozen=True, slots=True)
class Quantized:
    """The same model as float32 and as int8 ONNX, and the copy that both were written from."""

    original: nn.Module
    example_inputs: Inputs
    float32: OnnxModel
    int8: OnnxModel


def quantize(
    model: nn.Module, task: Task, settings: QuantizationSettings, also: Sequence[Call] = ()
) -> Quantized:
    """Write a model in eval mode as float32 and int8 ONNX; the model is not changed.

    Weights of convolutions and matrix products become int8, symmetric, with a scale for each output
    channel; activations become uint8 with one scale a tensor, found on training samples alone.
    Batch normalizations that cannot be folded into a layer stay float, and so do softmaxes behind a
    mask. Sizes are those of the example input; a dimension that has others in training samples, or
    in the calls of `also`, is free, and so is the batch where outputs do not hold it first.

    Raises:
        ExportError: the model is not float32, cannot be written, or not be quantized; weights or
            training samples hold NaN.
        UsageError: the task has no training samples.
    """
    original = frozen_copy(plain(model))
    if dtype_of(original) != FLOAT32:
        raise ExportError(
            f"an int8 file is made of a {FLOAT32} model, got {dtype_of(original)} · build it in "
            f"{FLOAT32}, with inputs of that type"
        )
    calls = calibration_calls(original, task, settings)
    return quantize_on(calls, original, task.example_input(), settings, also)


def quantize_on(
    calls: Sequence[Call],
    original: nn.Module,
    example_inputs: Inputs,
    settings: QuantizationSettings,
    also: Sequence[Call] = (),
) -> Quantized:
    """As `quantize` of a frozen copy, calibrated on these calls."""
    inputs = traced = moved(example_inputs, "cpu")
    settings = _with_free_batch(settings, calls, original, inputs)
    if settings.dynamic_batch and batch_size(inputs) < 2:
        traced = batched(inputs, 2)  # the exporter takes a size of 1 for a constant
    written = written_for(original, traced, [*calls, *also], dynamic_batch=settings.dynamic_batch)
    batch = _PIECE if settings.dynamic_batch else batch_size(inputs)
    feeds = [
        dict(zip(written.inputs, piece, strict=True))
        for call in calls
        for piece in pieces_of(call, batch)
    ]
    data = quantized_file(written.data, feeds, settings)
    return Quantized(original, inputs, written, replace(written, data=data, dtype="int8"))


def _with_free_batch(
    settings: QuantizationSettings, calls: Sequence[Call], original: nn.Module, inputs: Inputs
) -> QuantizationSettings:
    """A batch that differs is free where outputs do not hold it first: no pieces can be joined."""
    batch = batch_size(inputs)
    differs = any(array.shape[0] != batch for call in calls for array in call[:1] if array.ndim)
    if settings.dynamic_batch or not differs or has_rows_for_samples(original, inputs):
        return settings
    return replace(settings, dynamic_batch=True)


def quantized_file(
    data: bytes, feeds: list[dict[str, Array]], settings: QuantizationSettings
) -> bytes:
    """A float32 ONNX file as int8, calibrated on `feeds`; ExportError where that cannot be."""
    try:
        return _quantized(data, feeds, settings)
    except ExportError:
        raise
    except Exception as error:  # the quantizer raises whatever it meets
        raise ExportError(
            f"the model cannot be quantized ({type(error).__name__}: {first_line(error)}) · keep "
            "the float file"
        ) from error


def calibration_calls(model: nn.Module, task: Task, settings: QuantizationSettings) -> list[Call]:
    """What the task calls the model with on `settings.samples` training samples.

    Inputs are seen where `task.outputs` calls the model, so that any form of batch will do.
    """
    seen = _Inputs(model, tuple(as_call(task.example_input())[1]))
    with torch.no_grad():
        for each in sample(task, settings.seed, samples=settings.samples, least=1):
            outputs_of(task, seen, each)
    calls, left = [], settings.samples
    for call in seen.calls:
        rows = call[0].shape[0] if call and call[0].ndim else 0
        taken = min(rows, left)
        left -= taken
        if taken:
            calls.append([array[:taken] if array.ndim else array for array in call])
    if not calls:
        raise UsageError(
            f"calibration needs training samples, {name_of(task)}.train_loader gave none"
        )
    return calls


class _Inputs(nn.Module):
    """The model, and the tensors that every call gave it; keywords in the order of `first`."""

    def __init__(self, model: nn.Module, first: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.first = model, first
        self.calls: list[Call] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        ordered = {name: kwargs[name] for name in self.first if name in kwargs} | kwargs
        self.calls.append([array_of(tensor) for tensor in tensors((args, ordered))])
        return self.model(*args, **kwargs)


def _quantized(data: bytes, feeds: list[dict[str, Array]], settings: QuantizationSettings) -> bytes:
    from onnxruntime.quantization import quant_pre_process, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain_file, ready, made = (Path(folder) / f"{n}.onnx" for n in ("plain", "ready", "int8"))
        shaped = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True)
        onnx.save(shaped, plain_file)
        # ONNX Runtime's own inference of symbolic shapes fails for encoder layers of torch.
        quant_pre_process(plain_file, ready, skip_symbolic_shape=True)
        model = onnx.load(ready)
        masks = masks_of(model.graph, feeds)
        before = in_range(model.graph, masks)
        onnx.save(model, ready)
        limited = feeds_in_range(feeds, masks)
        _check_finite(model.graph, limited)
        quantize_static(
            ready,
            made,
            _Reader(by_sizes(limited)),
            nodes_to_exclude=[*_float_nodes(model.graph), *masks.nodes],
            **_options(settings),
        )
        model = onnx.load(made)
        put_back(model.graph, before)
        return compact(model.SerializeToString())


def _check_finite(graph: onnx.GraphProto, feeds: Sequence[dict[str, Array]]) -> None:
    """No range holds NaN, and none an infinite input that is no mask of an attention."""
    for name, array in chain.from_iterable(feed.items() for feed in feeds):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ExportError(
                f"training samples must be finite for int8, got NaN or infinity in {name!r} "
                "· leave such samples out of train_loader, or replace the values"
            )
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ExportError(f"weights must be numbers for int8, got NaN in {tensor.name!r}")


def _options(settings: QuantizationSettings) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "reduce_range": settings.weight_bits == 7,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "calibrate_method": getattr(CalibrationMethod, _METHODS[settings.method]),
        "extra_options": {
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "QuantizeBias": False,  # ONNX Runtime does it when it loads: no scales in the file
            "CalibStridedMinMax": 1,  # for any method: one group of the reader after the other
        },
    }


def _float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Batch normalizations that were not folded into a layer stay float.

    They bring inputs of very different ranges together, which one scale cannot hold: the README's
    network loses 41 points of accuracy where they are quantized, and none where they are not.
    """
    return [node.name for node in graph.node if node.op_type == "BatchNormalization"]


class _Reader:
    """The feeds one by one, as the quantizer asks for them: group after group."""

    def __init__(self, groups: Sequence[Sequence[dict[str, Array]]]) -> None:
        self._groups = groups
        self._rest: Iterator[dict[str, Array]] = iter(())

    def __len__(self) -> int:
        return len(self._groups)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The quantizer puts together what it reads of one range, so that shapes must be equal."""
        self._rest = chain.from_iterable(self._groups[start_index:end_index])

    def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
        return next(self._rest, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantizer prints, logs and warns of."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        log_level("root", below=logging.ERROR),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
