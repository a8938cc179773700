"""Which activations are held at which operator, by who executes the model.

- `eager`: PyTorch on a CPU. An activation lives as long as the model's code holds it, and
  convolutions allocate a workspace (`workspace`).
- `held`: the same without the workspace, for runtimes whose kernels are not known that well.
- `fused`: ONNX Runtime. An activation lives until its last use, batch normalisations are folded
  into convolutions, activation functions and sums write over an input that nobody else needs;
  how that is laid out is a matter of sizes (`packing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoprune.graph import PruningGraph
from autoprune.graph.types import Op

Execution = Literal["eager", "held", "fused"]

_IN_PLACE = frozenset(
    """relu leaky_relu hardtanh clamp clamp_min sigmoid hardsigmoid tanh elu _softmax
    native_dropout""".split()  # noqa: SIM905
)
_SUMS = frozenset("add sub mul div".split())  # noqa: SIM905
_SAME = frozenset("clone contiguous _to_copy _unsafe_view detach".split())  # noqa: SIM905
_MOVES = frozenset("permute transpose slice split select unbind narrow".split())  # noqa: SIM905
_NORMS = frozenset(
    """native_batch_norm _native_batch_norm_legit_no_training _batch_norm_no_update
    cudnn_batch_norm""".split()  # noqa: SIM905
)


def execution_of(runtime: str) -> Execution:
    """Who executes a model in this runtime; remote devices run ONNX Runtime."""
    if runtime.startswith(("onnxruntime", "ssh://")):
        return "fused"
    return "eager" if runtime == "torch" else "held"


@dataclass(frozen=True, eq=False)
class Liveness:
    """`live[call]` says of each column whether its memory is held at that call.

    Each column is one memory, of the size of the graph's tensor `tensors[column]`, and
    `column[tensor]` the one of each tensor; `folded` are the parameters and buffers that the
    execution does not keep.
    """

    tensors: tuple[int, ...]
    column: tuple[int, ...]
    live: NDArray[np.bool_]
    folded: frozenset[str] = frozenset()


def liveness(graph: PruningGraph, execution: Execution) -> Liveness:
    """Held memory by call; inputs are the caller's and live throughout, outputs to the end."""
    planned = _Planned(graph) if execution == "fused" else None
    of = [planned.memory(n) if planned else t.storage for n, t in enumerate(graph.tensors)]
    firsts: dict[int, int] = {}
    for tensor, memory in enumerate(of):
        firsts.setdefault(memory, tensor)
    columns = {memory: column for column, memory in enumerate(firsts)}
    first, last = np.full(len(columns), math.inf), np.full(len(columns), -math.inf)
    for call, op in enumerate(graph.ops):
        for tensor in (*op.inputs, *_results(op, execution)):
            column = columns[of[tensor]]
            first[column] = min(first[column], call)
            last[column] = max(last[column], call)
    if execution != "fused" and graph.freed is not None:
        held = [graph.freed.get(memory, math.inf) for memory in columns]
        last = np.where(np.isfinite(first), np.maximum(last, held), last)
    for tensor in (*graph.inputs, *graph.outputs):
        last[columns[of[tensor]]] = math.inf
    first[[columns[of[tensor]] for tensor in graph.inputs]] = 0
    calls = np.arange(max(1, len(graph.ops)))[:, None]
    live = (first <= calls) & (calls <= last)
    return Liveness(
        tuple(firsts.values()),
        tuple(columns[memory] for memory in of),
        live,
        planned.folded if planned else frozenset(),
    )


def maximal(live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows without those that a neighbour contains."""
    rows: list[NDArray[np.bool_]] = []
    for row in live:
        if rows and not (row & ~rows[-1]).any():
            continue
        while rows and not (rows[-1] & ~row).any():
            rows.pop()
        rows.append(row)
    return np.array(rows).reshape(len(rows), live.shape[1])


def is_convolution(op: Op) -> bool:
    """Whether a call is a convolution of any kind."""
    return "convolution" in op.name


def plain_name(op: Op) -> str:
    """The operator's name, without what marks it as in place."""
    return op.name.removeprefix("aten.").removesuffix("_")


def _results(op: Op, execution: Execution) -> Sequence[int]:
    """The outputs that are made: ONNX Runtime leaves out indices and statistics nobody reads."""
    name = plain_name(op)
    extra = execution == "fused" and (name in _NORMS or "pool" in name or "norm" in name)
    return op.outputs[:1] if extra else op.outputs


class _Planned:
    """Which tensors ONNX Runtime keeps in one memory.

    A result is written over an input that nobody needs any more, where the operator allows it.
    """

    def __init__(self, graph: PruningGraph) -> None:
        self._graph = graph
        self._memory: dict[int, int] = {}
        self._needed: dict[int, int] = {}  # memory → the last call that reads it, as known so far
        self._last_use = dict.fromkeys(graph.outputs, len(graph.ops))
        for call, op in enumerate(graph.ops):
            for tensor in op.inputs:
                self._last_use[tensor] = max(call, self._last_use.get(tensor, 0))
        self._kept = set(graph.inputs) | set(graph.outputs)
        for tensor in graph.inputs:
            self._place(tensor, tensor, len(graph.ops))
        folded: set[str] = set()
        makers: dict[int, str] = {}
        for call, op in enumerate(graph.ops):
            made_by = makers.get(op.inputs[0], "") if op.inputs else ""
            is_folded = plain_name(op) in _NORMS and "convolution" in made_by
            folded.update(op.parameters if is_folded else ())
            for tensor in _results(op, "fused"):
                self._plan(call, op, tensor, is_folded)
                makers.setdefault(tensor, op.name)
        self.folded = frozenset(folded)

    def memory(self, tensor: int) -> int:
        """The tensor that stands for the memory of this one."""
        return self._memory.get(tensor, tensor)

    def _plan(self, call: int, op: Op, tensor: int, is_folded: bool) -> None:
        if tensor in self._memory:
            return
        until = self._last_use.get(tensor, call)
        for place, source in enumerate(op.inputs):
            memory = self.memory(source)
            is_free = self._needed.get(memory, 0) <= call and memory not in self._kept
            over = is_free and self._allows(op, place, tensor)
            if self._is_view(op, source, tensor) or (is_folded and place == 0) or over:
                self._place(tensor, memory, until)
                return
        self._place(tensor, tensor, until)

    def _place(self, tensor: int, memory: int, until: int) -> None:
        self._memory[tensor] = memory
        self._needed[memory] = max(until, self._needed.get(memory, until))

    def _is_view(self, op: Op, source: int, tensor: int) -> bool:
        name, tensors = plain_name(op), self._graph.tensors
        if name == "expand":
            return tensors[source].dims == tensors[tensor].dims
        same = tensors[source].storage == tensors[tensor].storage or name in _SAME
        return same and name not in _MOVES

    def _allows(self, op: Op, place: int, tensor: int) -> bool:
        """Whether the operator can write this result over that input."""
        name, tensors = plain_name(op), self._graph.tensors
        equal = tensors[op.inputs[place]].dims == tensors[tensor].dims
        return equal and (name in _SUMS or (place == 0 and name in _IN_PLACE))
