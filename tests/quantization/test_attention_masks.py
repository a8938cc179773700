"""Attention behind a mask is quantized as well as attention without one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoprune.quantization import quantize
from autoprune.quantization.attention_masks import feeds_in_range, in_range, masks_of, put_back
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task

LENGTH, WIDTH = 6, 8


def added(value: float):
    return lambda scores, mask: scores + (1.0 - mask.float()) * value


KINDS = {
    "infinity": lambda scores, mask: scores.masked_fill(mask == 0, float("-inf")),
    "minimum": lambda scores, mask: scores.masked_fill(mask == 0, torch.finfo(torch.float32).min),
    "choice": lambda scores, mask: scores + torch.where(mask > 0, 0.0, float("-inf")),
    "product": added(torch.finfo(torch.float32).min),
    "as in BERT of 2018": added(-1e4),
    "as in Swin": added(-100.0),
    "an input": lambda scores, mask: scores + mask,
}


class Attention(nn.Module):
    """One head, with scores of ten and more, and a class for each sequence."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.qkv, self.head = kind, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = KINDS[self.kind](3.0 * query @ key.transpose(1, 2), mask[:, None])
        return self.head((scores.softmax(-1) @ value)[:, 0])


class Padded(Task):
    dense_epochs = 0

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def build_model(self) -> nn.Module:
        return Attention(self.kind).eval()

    def train_loader(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, LENGTH, WIDTH, generator=generator)
        lengths = torch.randint(2, LENGTH + 1, (32, 1), generator=generator)
        mask = (torch.arange(LENGTH) < lengths).long()
        if self.kind == "an input":
            mask = torch.where(mask > 0, 0.0, float("-inf"))
        return [({"x": x, "mask": mask}, torch.zeros(32, dtype=torch.int64))]

    def example_input(self):
        return {name: tensor[:1] for name, tensor in self.train_loader(0)[0][0].items()}

    def val_loader(self):
        return self.train_loader(1)

    test_loader = val_loader


@pytest.mark.parametrize("method", ["percentile", "minmax"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_costs_no_precision(kind: str, method: str) -> None:
    task = Padded(kind)
    model = task.build_model()
    made = quantize(model, task, QuantizationSettings(method, samples=32, dynamic_batch=True))
    given, _ = task.train_loader(0)[0]  # the samples of the calibration: nothing is out of range
    with torch.no_grad():
        expected = model(**given).numpy()
    feed = {name: tensor.numpy() for name, tensor in given.items()}
    (found,) = onnxruntime.InferenceSession(made.int8.data).run(None, feed)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_products_around_the_mask_are_int8() -> None:
    task = Padded("infinity")
    data = quantize(task.build_model(), task, QuantizationSettings("minmax", 8)).int8.data
    graph = onnx.load_from_string(data).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    read = {
        node.op_type: [made_by.get(name) for name in node.input]
        for node in graph.node
        if node.op_type in ("MatMul", "Softmax", "Where")
    }
    assert read["MatMul"] == ["DequantizeLinear"] * 2
    assert read["Softmax"] == ["Where"]
    assert "DequantizeLinear" in read["Where"]


def graph() -> onnx.GraphProto:
    """softmax((x + bias) @ weight + (0 or large)) + large, and relu(x + other)."""
    constants = {
        "bias": np.array([-500.0, 1.0], np.float32),
        "weight": np.eye(2, dtype=np.float32),
        "large": np.array([-np.inf], np.float32),
        "zero": np.zeros(1, np.float32),
        "other": np.array([1e6, 0.0], np.float32),
    }
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["moved"], "shift"),
        helper.make_node("MatMul", ["moved", "weight"], ["scores"], "product"),
        helper.make_node("Where", ["seen", "zero", "large"], ["mask"], "choice"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], "sum"),
        helper.make_node("Softmax", ["masked"], ["shares"], "softmax"),
        helper.make_node("Add", ["shares", "large"], ["y"], "after"),
        helper.make_node("Add", ["x", "other"], ["raised"], "aside"),
        helper.make_node("Relu", ["raised"], ["z"], "relu"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("seen", TensorProto.BOOL, [1, 2]),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "yz"]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_graph(nodes, "main", inputs, outputs, tensors)


def feeds(x: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.array([[x, 1.0]], np.float32), "seen": np.array([[True, False]])}]


def test_only_what_lies_between_the_mask_and_a_softmax_stays_float() -> None:
    found = masks_of(graph(), feeds(2.0))
    assert set(found.nodes) == {"choice", "sum", "softmax"}
    assert (found.constants, found.inputs) == (("large",), ())
    assert masks_of(graph(), feeds(-1e9)) == found  # a product lies between that and the softmax


def test_constants_are_limited_and_put_back() -> None:
    made = graph()
    before = in_range(made, masks_of(made, feeds(2.0)))
    tensors = {each.name: numpy_helper.to_array(each) for each in made.initializer}
    assert tensors["large"].tolist() == [-100.0]
    assert tensors["bias"].tolist() == [-500.0, 1.0]
    put_back(made, before)
    assert made == graph()


def test_a_mask_that_is_an_input_is_limited_in_the_feeds() -> None:
    made = graph()
    del made.node[1]
    made.node[2].input[0] = "moved"  # no product between the input and the softmax
    found = masks_of(made, feeds(-1e9))
    assert set(found.nodes) == {"shift", "choice", "sum", "softmax"}
    assert found.inputs == ("x",)
    assert feeds_in_range(feeds(-1e9), found)[0]["x"].tolist() == [[-100.0, 1.0]]
    assert feeds_in_range(feeds(-1e9), masks_of(graph(), feeds(2.0)))[0]["x"][0, 0] == -1e9


def test_constants_inside_nodes_count_too() -> None:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [-1e9])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["mask"], "fill", value=value),
        helper.make_node("Add", ["x", "mask"], ["masked"], "sum"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax"),
    ]
    made = helper.make_graph(nodes, "main", [], [])
    found = masks_of(made, [])
    assert (set(found.nodes), found.constants) == ({"sum", "softmax"}, ("mask",))
    before = in_range(made, found)
    assert numpy_helper.to_array(made.node[0].attribute[0].t).tolist() == [-100.0]
    put_back(made, before)
    assert numpy_helper.to_array(made.node[0].attribute[0].t).tolist() == [np.float32(-1e9)]
