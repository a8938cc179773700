"""ncnn on this machine's processor; models get there by TorchScript and pnnx."""

from __future__ import annotations

import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import FlatModule
from autoprune.cost.targets.base import LocalTarget, require
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError, ExportError, first_line

_LIMIT_S = 600.0
_TYPES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32"}
_MOVING = ("Split", "Reshape", "ExpandDims", "Squeeze", "Flatten", "Permute", "Slice", "Crop")
_FLOAT16 = ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage")


class Ncnn(LocalTarget):
    """ncnn on the CPU in float32."""

    packages = ("ncnn", "pnnx")

    def check(self) -> None:
        """Needs the packages `ncnn` and `pnnx`, which converts."""
        require("ncnn", "ncnn", "pnnx")

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A loaded net; each call is an extractor of its own, as ncnn is used."""
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            net = NcnnNet(convert(model, example_inputs, Path(folder)), threads)
        try:
            given = net.inputs(example_inputs)
            net.run(given)
        except ExportError as error:
            raise DeviceError(f"runtime 'ncnn': {error} · measure it in another runtime") from error
        return lambda: net.run(given)


@dataclass(frozen=True, slots=True)
class NcnnFiles:
    """A converted model: graph and weights, and which axis of each input and output is the batch.

    An axis is as pnnx writes it: 233 where the tensor has none.
    """

    graph: Path
    weights: Path
    input_axes: tuple[int, ...]
    output_axes: tuple[int, ...]


def convert(model: nn.Module, example_inputs: Inputs, folder: Path) -> NcnnFiles:
    """Trace the model and run pnnx in `folder`, with weights as float32.

    Raises ExportError where that cannot be, with the operators that ncnn does not have.
    """
    inputs = moved(example_inputs, "cpu")
    shapes = [_described(tensor) for tensor in tensors(as_call(inputs))]
    _trace(model, inputs, folder / "model.pt")
    _pnnx(["model.pt", f"inputshape={','.join(shapes)}", "fp16=0"], folder)
    files = NcnnFiles(
        folder / "model.ncnn.param",
        folder / "model.ncnn.bin",
        *_axes((folder / "model_ncnn.py").read_text(encoding="utf-8")),
    )
    unknown = _unknown(files.graph)
    if unknown:
        raise ExportError(f"ncnn does not have {', '.join(unknown)} · replace it in the model")
    return files


class NcnnNet:
    """A loaded model in float32, with its own number of threads.

    Raises ExportError where the files cannot be loaded.
    """

    def __init__(self, files: NcnnFiles, threads: int) -> None:
        import ncnn

        self._files, self._unbatched = files, _constants_concatenated(files.graph)
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for option in _FLOAT16:
            setattr(self._net.opt, option, False)
        if self._net.load_param(str(files.graph)) or self._net.load_model(str(files.weights)):
            raise ExportError(f"ncnn cannot load {files.graph.name}")

    def inputs(self, example_inputs: Inputs) -> list[Any]:
        """The inputs as ncnn's matrices.

        Raises ExportError for a batch above 1 where the model concatenates a constant: ncnn writes
        beyond the end of the result then, and the process crashes, perhaps much later.
        """
        import ncnn

        arrays = [_array(tensor) for tensor in tensors(as_call(example_inputs))]
        axes = self._files.input_axes
        sizes = [a.shape[k] for a, k in zip(arrays, axes, strict=True) if k < a.ndim]
        if self._unbatched and (batch := max(sizes, default=1)) > 1:
            raise ExportError(
                f"ncnn cannot concatenate a constant in a batch of {batch} ({self._unbatched[0]}) "
                "· use example inputs of batch 1, without a dynamic batch"
            )
        return [ncnn.Mat(a, batch_index=axis).clone() for a, axis in zip(arrays, axes, strict=True)]

    def run(self, given: Sequence[Any]) -> list[Any]:
        """One forward pass; the outputs as ncnn's matrices. Raises ExportError where it fails."""
        extractor = self._net.create_extractor()
        for place, matrix in enumerate(given):
            extractor.input(f"in{place}", matrix)
        found = [extractor.extract(f"out{n}") for n in range(len(self._files.output_axes))]
        if any(code for code, _ in found):
            raise ExportError(f"ncnn stops with code {min(code for code, _ in found)}")
        return [matrix for _, matrix in found]

    def __call__(self, inputs: Inputs) -> list[Tensor]:
        """The outputs for inputs of the form of the example's."""
        found = self.run(self.inputs(inputs))
        axes = self._files.output_axes
        arrays = [mat.numpy(batch_index=axis) for mat, axis in zip(found, axes, strict=True)]
        return [torch.from_numpy(np.array(array)) for array in arrays]


def _described(tensor: Tensor) -> str:
    """Shape and type for pnnx, such as `[1,3,32,32]f32`."""
    if tensor.dtype not in _TYPES:
        names = ", ".join(str(kind).removeprefix("torch.") for kind in _TYPES)
        raise ExportError(f"ncnn takes inputs of {names}, got {tensor.dtype}")
    return f"[{','.join(map(str, tensor.shape))}]{_TYPES[tensor.dtype]}"


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A contiguous array; integers are of 32 bits, as ncnn's embeddings read them."""
    array = tensor.detach().cpu().contiguous().numpy()
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _trace(model: nn.Module, inputs: Inputs, file: Path) -> None:
    flat = FlatModule(frozen_copy(model), inputs).eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that become constants, and deprecations
            torch.jit.trace(flat, tuple(flat.example), check_trace=False).save(str(file))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ExportError(f"the model cannot be traced ({first_line(error)})") from error


def _pnnx(arguments: Sequence[str], folder: Path) -> None:
    """Run pnnx's program; its Python functions import a file that it writes."""
    import pnnx

    done = subprocess.run(
        [pnnx.EXEC_PATH, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode or not (folder / "model_ncnn.py").is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ExportError(f"pnnx cannot convert the model (code {done.returncode}: {last[:200]})")


def _axes(script: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch axes of inputs and outputs, from the script in which pnnx shows how to run them.

    >>> _axes("ncnn.Mat(in0.numpy(), batch_index=0); out0.numpy(batch_index=233)")
    ((0,), (233,))
    """
    given = re.findall(r"\bin(\d+)\.numpy\(\), batch_index=(\d+)", script)
    found = re.findall(r"\bout(\d+)\.numpy\(batch_index=(\d+)", script)
    return _in_order(given), _in_order(found)


def _in_order(pairs: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    return tuple(axis for _, axis in sorted((int(number), int(axis)) for number, axis in pairs))


def _constants_concatenated(graph: Path) -> list[str]:
    """The concatenations in a graph that take a constant, such as a token before all others."""
    found: list[str] = []
    constant: set[str] = set()
    for kind, name, taken, given in _layers(graph):
        are_constant = [each in constant for each in taken]
        if kind == "MemoryData" or (taken and all(are_constant)):
            constant.update(given)
        elif kind == "Concat" and any(are_constant):
            found.append(name)
    return found


def computed(graph: Path, places: Iterable[int]) -> dict[int, str]:
    """Which of these inputs of a graph it computes with, and the first layer that does.

    The others are indices of embeddings only: ncnn takes the bits of an integer for a float
    elsewhere.
    """
    origins = {f"in{place}": place for place in places}
    found: dict[int, str] = {}
    for kind, name, taken, given in _layers(graph):
        mine = [origins[each] for each in taken if each in origins]
        if mine and kind in _MOVING:
            origins |= dict.fromkeys(given, mine[0])
        elif kind != "Embed":
            found = {**dict.fromkeys(mine, name), **found}
    return found


def _layers(graph: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Type and name of each layer in a graph, with the names of what it takes and gives.

    These follow their numbers in a line, before the parameters.
    """
    for line in graph.read_text(encoding="utf-8").splitlines()[2:]:
        if line.strip():
            kind, name, inputs, outputs, *rest = line.split()
            end = int(inputs) + int(outputs)
            yield kind, name, rest[: int(inputs)], rest[int(inputs) : end]


def _unknown(graph: Path) -> list[str]:
    """The types of layers in a graph that ncnn does not have."""
    import ncnn

    types = dict.fromkeys(kind for kind, _, _, _ in _layers(graph))
    return [name for name in types if ncnn.layer_to_index(name) < 0]
