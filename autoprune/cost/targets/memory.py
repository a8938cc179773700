"""Measured memory: from PyTorch's allocator, and from ONNX Runtime's arena."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.cost.inputs import Inputs, as_call, bytes_of, frozen_copy, tensors
from autoprune.cost.onnx_export import WrittenModule
from autoprune.cost.targets import arena
from autoprune.cost.timing import Call

_log = logging.getLogger(__name__)
_LIMIT_S = 300.0


def held_bytes(model: nn.Module, example_inputs: Inputs) -> int:
    """Parameters, buffers and inputs, shared memory once."""
    return bytes_of([*model.parameters(), *model.buffers(), *tensors(as_call(example_inputs))])


def allocated_bytes(call: Call) -> int:
    """The peak of PyTorch's CPU allocator during a call, from its own events."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler logs to stderr by itself
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=False) as profiler:
        outputs = call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8"))
    del outputs  # until here: they are live to the end
    events = [e for e in trace["traceEvents"] if e.get("name") == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        live += int(event["args"]["Bytes"])
        most = max(most, live)
    return most


def unequal(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode in which no two of its parameters are equal.

    Exporters and ONNX Runtime keep equal weights once. Layers that are copies of each other, as in
    an untrained `nn.TransformerEncoder`, would need less memory than after any training. Shared
    parameters stay shared. What was written before (`WrittenModule`) is given back as it is.
    """
    if isinstance(model, WrittenModule):
        return model
    changed, seen = frozen_copy(model), Counter[tuple[torch.Size, bytes]]()
    for parameter in changed.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        content = parameter.detach().float().contiguous().numpy().tobytes()
        key = parameter.shape, hashlib.blake2b(content).digest()
        parameter.data[(0,) * parameter.dim()] += 0.01 * seen[key]
        seen[key] += 1
    return changed


def session_bytes(data: bytes, feed: Mapping[str, NDArray[Any]], threads: int) -> int | None:
    """The memory of a session of ONNX Runtime on the CPU; None where its arena does not report it.

    It is asked in a process of its own (see `arena`), which takes about a second.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(data)
        np.savez(folder / "feed.npz", **feed)  # type: ignore[arg-type]
        command = [sys.executable, str(Path(arena.__file__).resolve()), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        try:
            subprocess.run(
                command, env=environment, check=True, capture_output=True, timeout=_LIMIT_S
            )
            run = json.loads((folder / "arena.json").read_text(encoding="utf-8"))["run"]
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            _log.warning("ONNX Runtime's memory is not known (%s)", type(error).__name__)
            return None
        graph = onnx.load(str(folder / "optimized.onnx")).graph
    weights = sum(_tensor_bytes(tensor) for tensor in graph.initializer)
    return weights + sum(array.nbytes for array in feed.values()) + int(run)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)
