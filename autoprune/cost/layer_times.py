"""How long each layer takes in ONNX Runtime, by its own profiler."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.targets.on_device import open_session

_WARMUP, _RUNS = 5, 40
_LONGEST_S = 1.0  # for a large model, fewer runs
_FUSED = {"BatchNormalization", "Relu", "Clip", "Add", "Mul", "Sigmoid", "LeakyRelu", "HardSwish"}
_CONTRACTIONS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_END = "_kernel_time"


def layer_times(model: nn.Module, example_inputs: Inputs, threads: int = 1) -> dict[str, float]:
    """Milliseconds of a pass by module; under "" what runs between modules or cannot be assigned.

    Medians of 40 passes after warm-up, of fewer where they take over a second, batch as in the
    example inputs. An operator that ONNX
    Runtime fuses into a convolution or a matrix product counts for that one's module, any other for
    the module whose `forward` calls it. The profiler adds a microsecond or two to each operator.
    Empty where the exporter does not name the modules (the dynamo-based one, for models that the
    TorchScript-based one cannot write), and for files that were written before.

    Raises ExportError where the model cannot be written.
    """
    written = to_onnx(model, example_inputs)
    modules = {name for name, _ in model.named_modules()}
    graph = _Graph(onnx.load_from_string(written.data).graph, modules)
    if not graph.has_modules:
        return {}
    feed = written.feed(example_inputs)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(written.data, threads, profile=str(Path(folder) / "profile"))
        end = time.monotonic() + _LONGEST_S
        for run in range(_WARMUP + _RUNS):
            if run > _WARMUP + 1 and time.monotonic() > end:
                break
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, float] = defaultdict(float)
    for (name, kind), ms in _kernels(events).items():
        found[graph.module_of(name, kind)] += ms
    return dict(found)


def _kernels(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """The median milliseconds of every operator, by its name and kind."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_END):
            name = event["name"].removesuffix(_END)
            times[name, event["args"]["op_name"]].append(event["dur"] / 1e3)
    return {key: statistics.median(values[_WARMUP:]) for key, values in times.items()}


class _Graph:
    """Where the operators of an exported graph come from; `has_modules` where their names tell."""

    def __init__(self, graph: onnx.GraphProto, modules: Collection[str]) -> None:
        self._modules = modules
        nodes = [node for node in graph.node if node.name]
        self._producers = {name: node for node in graph.node for name in node.output}
        self._known = {node.name: node for node in nodes} | self._producers
        self.has_modules = any(node.name.startswith("/model/") for node in nodes)

    def module_of(self, name: str, kind: str) -> str:
        """The module of an operator of the optimized graph; empty where it has none.

        An operator that absorbed those behind it is called after the last one's output, any other
        keeps its name, both with additions at the end.
        """
        prefixes = (name[: end.start()] for end in re.finditer(r"(?=[_/])|$", name))
        node = self._known.get(max((p for p in prefixes if p in self._known), key=len, default=""))
        if node is not None and any(kind.endswith(each) for each in _CONTRACTIONS):
            node = self._contraction(node) or node
        return self._existing(scope_of(node.name)) if node is not None else ""

    def _existing(self, scope: str) -> str:
        """The module of a scope, in which a model that is a container has the name `model`."""
        names = (scope, scope.removeprefix("model."))
        return next((name for name in names if name in self._modules), "")

    def _contraction(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The convolution or matrix product whose result a chain of fused operators ends in."""
        seen: list[onnx.NodeProto] = [node]
        for each in seen:
            if each.op_type in _CONTRACTIONS:
                return each
            if each.op_type in _FUSED:
                seen += [self._producers[name] for name in each.input if name in self._producers]
        return None


def scope_of(name: str) -> str:
    """The module in an operator's name; containers without a `forward` of their own are left out.

    >>> scope_of("/model/layer1/layer1.0/conv1/Conv"), scope_of("/model/Relu")
    ('layer1.0.conv1', '')
    """
    parts = name.split("/")[2:-1]
    kept = [
        part
        for part, after in zip(parts, [*parts, ""][1:], strict=True)
        if not after.startswith(f"{part}.")
    ]
    return ".".join(kept)
