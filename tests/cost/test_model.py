"""Costs from sizes: against hand arithmetic on a graph written by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.cost.activations import PeakMemory
from autoprune.cost.model import CostModel
from autoprune.errors import GraphError
from autoprune.graph import Dim, Group, Op, PruningGraph, TensorInfo


def fixed(*sizes: int) -> tuple[Dim, ...]:
    return tuple(map(Dim, sizes))


A, B = Dim(0, {"a": 1}), Dim(2, {"b": 3})


def two_convolutions() -> PruningGraph:
    """Input 1x3x8x8 → 3x3 convolution to `a` → in-place relu → 1x1 convolution to 2 + 3 b."""
    image, hidden, result = fixed(1, 3, 8, 8), (Dim(1), A, *fixed(8, 8)), (Dim(1), B, *fixed(4, 4))
    tensors = [TensorInfo(image, 4, 10), TensorInfo(hidden, 4, 11), TensorInfo(hidden, 4, 11)]
    tensors.append(TensorInfo(result, 4, 12))
    ops = (
        Op("aten.convolution", "one", (0,), (1,), ("one.weight",), (*hidden, *fixed(3, 3, 3))),
        Op("aten.relu_", "", (1,), (2,), ()),
        Op("aten.convolution", "two", (2,), (3,), ("two.weight",), (*result, A)),
    )
    return PruningGraph(
        groups=(Group("a", "channel", 8, ()), Group("b", "channel", 4, ())),
        frozen=(),
        ops=ops,
        tensors=tuple(tensors),
        parameters={"one.weight": (A, *fixed(3, 3, 3)), "two.weight": (B, A), "scale": ()},
        buffers={"mean": (A,), "steps": ()},
        inputs=(0,),
        outputs=(3,),
        itemsizes={"one.weight": 4, "two.weight": 2, "scale": 4, "mean": 4, "steps": 8},
    )


def test_counts_by_hand():
    cost = CostModel(two_convolutions()).cost(Architecture({"a": 4, "b": 2}))
    assert cost.params == 4 * 27 + 8 * 4 + 1
    assert cost.macs == 64 * 4 * 27 + 16 * 8 * 4
    assert cost.weight_bytes == 4 * 108 + 2 * 32 + 4 + 4 * 4 + 8
    # at the last operator: the image is the caller's and stays, hidden is read, 8x4x4 written
    assert cost.peak_memory_bytes == cost.weight_bytes + 4 * (192 + 256 + 128)
    assert (cost.source, cost.latency_ms) == ("analytic", None)


def test_groups_that_are_not_named_are_whole():
    model = CostModel(two_convolutions())
    assert (
        model.dense
        == model.cost(Architecture({"a": 8}))
        == model.cost(Architecture({"a": 8, "b": 4}))
    )
    assert model.dense.params == 8 * 27 + 14 * 8 + 1


def test_many_candidates_are_costed_like_one():
    model = CostModel(two_convolutions())
    kept = np.array([[a, b] for a in range(1, 9) for b in range(1, 5)])
    counts = model.costs(kept)
    for row, (a, b) in enumerate(kept.tolist()):
        one = model.cost(Architecture({"a": a, "b": b}))
        assert {name: int(values[row]) for name, values in counts.items()} == {
            name: getattr(one, name) for name in counts
        }


def test_a_shrunk_graph_is_dense_at_what_was_kept():
    graph = two_convolutions()
    small = graph.shrink({"a": [1, 5, 7]})
    assert CostModel(small).dense == CostModel(graph).cost(Architecture({"a": 3}))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"a": 9}, r"widths\['a'\] must be from 1 to 8 units, got 9"),
        ({"c": 1}, "nearest"),
    ],
)
def test_impossible_numbers_are_refused(kept, message):
    with pytest.raises(GraphError, match=message):
        CostModel(two_convolutions()).cost(Architecture(kept))


@dataclasses.dataclass
class Fitted:
    device: Device
    p95_factor: float

    def predict(self, kept):
        return kept["a"] / 2 + kept["b"]


def test_predicted_latency_travels_with_its_device():
    device = Device("x", "onnxruntime")
    cost = CostModel(two_convolutions(), latency=Fitted(device, 1.5)).cost(Architecture({"a": 4}))
    assert (cost.latency_ms, cost.latency_p95_ms) == (6.0, 9.0)
    assert (cost.source, cost.device) == ("predicted", device)
    assert cost.params == CostModel(two_convolutions()).cost(Architecture({"a": 4})).params


def test_skip_keeps_a_storage_live_and_the_rest_does_not_add_up():
    """x → p → q → r, then r + p: at most four storages of five are live."""
    tensors = tuple(TensorInfo(fixed(100), 4, n) for n in range(5))
    chain = [Op("aten.mul", "", (n,), (n + 1,), ()) for n in range(3)]
    graph = PruningGraph(
        groups=(),
        frozen=(),
        ops=(*chain, Op("aten.add", "", (3, 1), (4,), ())),
        tensors=tensors,
        parameters={},
        buffers={},
        inputs=(0,),
        outputs=(4,),
    )
    assert CostModel(graph).dense.peak_memory_bytes == 400 * 4


def test_each_named_device_has_its_own_prediction():
    phone, server = Device("arm", "onnxruntime", batch=1), Device("x86", "torch", batch=8)
    fitted = {"phone": Fitted(phone, 1.5), "server": Fitted(server, 2.0)}
    cost = CostModel(two_convolutions(), latency=fitted).cost(Architecture({"a": 4}))
    for name, device, factor in (("phone", phone, 1.5), ("server", server, 2.0)):
        median = cost.get(f"latency_ms@{name}")
        assert cost.get(f"latency_p95_ms@{name}") == pytest.approx(factor * median)
        assert cost.device_of(name) == device
    assert (cost.source, cost.names) == ("predicted", ("phone", "server"))
    assert (cost.latency_ms, cost.device) == (None, None)


def peak(*fitted: PeakMemory) -> float:
    return CostModel(two_convolutions(), memory=fitted).dense.get("peak_memory_bytes")


def test_peak_memory_is_that_of_the_runtime_that_needs_most():
    twice, with_blocks = PeakMemory(plain=2.0), PeakMemory(plain=0.0, padded=1.0)
    held = CostModel(two_convolutions()).dense.get("weight_bytes")
    # the image, and twice what is beside it at the last operator: 8x8x8 and 14x4x4
    assert peak(twice) == held + 4 * (192 + 2 * (512 + 224))
    # in blocks of 8 channels there are 16 where there were 14
    assert peak(with_blocks) == held + 4 * (192 + 512 + 256)
    assert peak(with_blocks, twice) == peak(twice)
