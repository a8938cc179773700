"""Model → ONNX bytes, by the fastest exporter that succeeds."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.utils import _pytree as pytree

from autoprune.cost.inputs import Inputs, array_of, as_call, frozen_copy, moved, tensors
from autoprune.errors import ExportError, first_line
from autoprune.log_level import log_level

_log = logging.getLogger(__name__)
_OPSET = 18
EXPORTERS = ("torchscript", "dynamo")
BATCH = "batch"  # what a free first dimension is called

Axes = Sequence[Mapping[int, str]]
"""For each input tensor its dimensions of any size, with a name for each size."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A serialized ONNX graph, the names of its inputs, and the exporter that wrote it.

    `exporter` is `torchscript` or `dynamo`; `dtype` is that of the weights.
    """

    data: bytes
    inputs: tuple[str, ...]
    exporter: str
    dtype: str = "float32"

    def feed(self, example_inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs as ONNX Runtime wants them: name → array."""
        arrays = [array_of(tensor) for tensor in tensors(as_call(example_inputs))]
        return dict(zip(self.inputs, arrays, strict=True))


class WrittenModule(nn.Module):
    """A module that stands for a model that was written before: `written`."""

    written: OnnxModel


def to_onnx(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    dynamic_batch: bool = False,
    exporters: Sequence[str] = EXPORTERS,
    free: Axes | None = None,
    check: Callable[[OnnxModel], None] | None = None,
) -> OnnxModel:
    """Write a copy of the model, in eval mode, for the shapes of its example inputs.

    The TorchScript-based exporter is tried first (0.1 s for a ResNet-20); where it is gone or does
    not know an operator, the dynamo-based one (seconds); or those of `exporters`, in turn. With
    `dynamic_batch` the first dimension of every input is free, and with `free` those that it names
    for each tensor. The graph's outputs are called `output`, or `output_0`, `output_1`, ... where
    there are several. Whether the result agrees with the model is for the caller to compare,
    perhaps in `check`: what that raises counts as a failure of the exporter. A `WrittenModule` is
    given back as it was written.

    Raises:
        ExportError: no exporter can write the model; all reasons are given.
    """
    if isinstance(model, WrittenModule):
        return model.written
    inputs = moved(example_inputs, "cpu")
    flat = FlatModule(frozen_copy(model), inputs).eval()
    names = input_names(inputs)
    first = {0: BATCH} if dynamic_batch else {}
    axes = [{**first, **more} for more in free or [{} for _ in names]]
    reasons = []
    for exporter in exporters:
        try:
            written = OnnxModel(_write(flat, names, exporter, axes), tuple(names), exporter)
            if check is not None:
                check(written)
        except Exception as error:  # noqa: BLE001 (exporters raise whatever they meet; chained below)
            reasons.append(f"{exporter}: {type(error).__name__}: {first_line(error)}")
            _log.debug("ONNX exporter %s failed", exporter, exc_info=error)
            last = error
        else:
            return written
    raise ExportError(
        f"the model cannot be written as ONNX ({' · '.join(reasons)}) "
        "· export it as pt2, or replace the operator that is named"
    ) from last


def write_unfolded(model: nn.Module, example_inputs: Inputs) -> OnnxModel:
    """As the TorchScript-based exporter writes it, every tensor of the state as it is.

    Without folding and fusion; initializers are called `model.` and their name in the state dict.
    Whatever the exporter raises passes through.
    """
    inputs = moved(example_inputs, "cpu")
    names, buffer = input_names(inputs), io.BytesIO()
    flat = FlatModule(model, inputs).eval()
    with _quiet(), unfused(), torch.no_grad():
        torch.onnx.export(
            flat,
            tuple(flat.example),
            buffer,  # type: ignore[arg-type]
            input_names=list(names),
            dynamo=False,
            opset_version=_OPSET,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return OnnxModel(buffer.getvalue(), tuple(names), "torchscript")


def _write(flat: FlatModule, names: Sequence[str], exporter: str, axes: Axes) -> bytes:
    buffer = io.BytesIO()
    call = tuple(flat.example)
    options: dict[str, Any] = {"input_names": list(names)}
    with _quiet(), unfused(), torch.no_grad():
        outputs = _named_outputs(flat, names, free=any(BATCH in axis.values() for axis in axes))
        options["output_names"] = list(outputs)
        if exporter == "torchscript":
            if any(axes):
                options["dynamic_axes"] = dict(zip(names, axes, strict=True)) | outputs
            options |= {"dynamo": False, "opset_version": _OPSET}
            torch.onnx.export(flat, call, buffer, **options)  # type: ignore[arg-type]
        else:
            if any(axes):
                options["dynamic_shapes"] = (tuple(axes),)
            program = torch.onnx.export(flat, call, dynamo=True, verbose=False, **options)
            assert program is not None
            buffer.write(program.model_proto.SerializeToString())
    return buffer.getvalue()


class FlatModule(nn.Module):
    """The model as a function of a flat list of tensors: what an ONNX graph is."""

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._spec = pytree.tree_flatten(as_call(example_inputs))
        self.example = tensors(self._leaves)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The tensors of the model's outputs for those of its inputs."""
        rest = iter(given)
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(tensors(self.model(*args, **kwargs)))


def _named_outputs(
    flat: FlatModule, inputs: Sequence[str], *, free: bool
) -> dict[str, dict[int, str]]:
    """For the name of each output, `{0: "batch"}` where its first dimension is that of the inputs.

    Only a `free` batch is named. Empty where an input has such a name: the exporter takes its own.
    """
    found = flat(*flat.example)
    names = ["output"] if len(found) == 1 else [f"output_{place}" for place in range(len(found))]
    if set(names) & set(inputs):
        return {}
    grows = (_growing(flat, found) if free else None) or [False] * len(found)
    return {name: {0: BATCH} if one else {} for name, one in zip(names, grows, strict=True)}


def has_rows_for_samples(model: nn.Module, example_inputs: Inputs) -> bool:
    """Whether every output has its samples in the first dimension; True where it cannot be told.

    >>> x = torch.zeros(1, 5, 2)
    >>> has_rows_for_samples(nn.Linear(2, 3), x), has_rows_for_samples(nn.GRU(2, 3), x)
    (True, False)
    """
    flat = FlatModule(frozen_copy(model), moved(example_inputs, "cpu")).eval()
    with torch.no_grad():
        grows = _growing(flat, flat(*flat.example))
    return grows is None or all(grows)


def _growing(flat: FlatModule, found: Sequence[Tensor]) -> list[bool] | None:
    """Which outputs have one more row where the inputs have one more; None where that fails."""
    size = max((len(each) for each in flat.example if each.dim()), default=0)
    try:
        more = flat(*(_resized(each, size + 1) for each in flat.example))
    except Exception:  # noqa: BLE001 - the caller compares the file at other sizes, and says why
        return None
    pairs = zip(found, more, strict=True)
    return [a.dim() > 0 and (len(a), len(b)) == (size, size + 1) for a, b in pairs]


def _resized(tensor: Tensor, size: int) -> Tensor:
    """With so many rows: its own, then the first one again."""
    if not tensor.dim() or not len(tensor):
        return tensor
    return torch.cat([tensor, tensor[:1].expand(size - len(tensor), *tensor.shape[1:])])


def input_names(example_inputs: Inputs) -> list[str]:
    """What the graph's inputs are called, for each tensor of the example.

    >>> input_names((torch.zeros(1), [torch.zeros(1), torch.zeros(1)]))
    ['input_0', 'input_1_0', 'input_1_1']
    """
    args, kwargs = as_call(example_inputs)
    names = [
        f"input_{place}_{inner}" if len(found) > 1 else f"input_{place}"
        for place, found in enumerate(map(tensors, args))
        for inner in range(len(found))
    ]
    names += [
        f"{key}_{inner}" if len(found) > 1 else key
        for key, found in ((key, tensors(value)) for key, value in kwargs.items())
        for inner in range(len(found))
    ]
    return ["input"] if names == ["input_0"] else names


@contextmanager
def unfused() -> Iterator[None]:
    """Encoder layers of torch as their parts: the exporters do not know the fused kernel."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _no_graph_printed() -> Iterator[None]:
    """torch 2.13 turns its log of graphs on in each export, whatever was set.

    `torch.export` prints to stderr how far it came.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        torch._C._jit_onnx_log = log


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about deprecation and sizes taken as constants.

    Sizes are constants here on purpose; the caller compares the outputs. Nor does the exporter
    print the whole graph where it fails.
    """
    loggers = ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")
    with log_level(*loggers, below=logging.ERROR), warnings.catch_warnings(), _no_graph_printed():
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript")
        warnings.filterwarnings("ignore", message="The feature will be removed")
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, module=r"(torch|copyreg|onnx)"
        )
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg|onnx)")
        yield
