"""Smaller files that compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from autoprune.quantization.compact import compact


def graph() -> onnx.ModelProto:
    """x -> If(flag) { x + weight } else { x - weight } + weight's equal twin, with long names."""
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32), "a/long/name/of/weight")
    twin = numpy_helper.from_array(np.arange(6, dtype=np.float32), "another/long/name")
    value = helper.make_tensor_value_info("inner/out", TensorProto.FLOAT, [6])
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["x", "a/long/name/of/weight"], ["inner/out"])], name, [], [value]
        )
        for name, op in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [
        helper.make_node("If", ["flag"], ["picked/by/if"], name="the/if/node", **branches),
        helper.make_node("Add", ["picked/by/if", "another/long/name"], ["y"], name="the/add/node"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])]
    made = helper.make_graph(nodes, "main", inputs, outputs, [weight, twin])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, doc_string="notes", ir_version=9)


def test_same_outputs_names_outside_stay_and_the_file_is_smaller() -> None:
    data = graph().SerializeToString()
    small = compact(data)
    assert len(small) < len(data)
    made = onnx.load_from_string(small)
    assert [each.name for each in (*made.graph.input, *made.graph.output)] == ["x", "flag", "y"]
    assert {each.domain for each in made.opset_import} == {""}
    sessions = [onnxruntime.InferenceSession(each) for each in (data, small)]
    for flag in (True, False):
        feed = {"x": np.ones(6, np.float32), "flag": np.array(flag)}
        before, after = (session.run(None, feed)[0] for session in sessions)
        sign = 1 if flag else -1
        np.testing.assert_array_equal(after, 1 + sign * np.arange(6) + np.arange(6))
        np.testing.assert_array_equal(before, after)


def test_compacting_twice_changes_nothing() -> None:
    once = compact(graph().SerializeToString())
    assert compact(once) == once
