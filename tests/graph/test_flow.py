"""One run of a model with ids, asked directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow, table
from autoprune.graph.rules import RULES


class Broken:
    """The usual rules, but for one operator."""

    def __init__(self, name: str, rule: Callable[[Flow, Call], None] | None) -> None:
        self._name, self._rule = name, rule

    unknown = RULES.unknown

    def rule_for(self, func: Any) -> Any:
        broken = func._schema.name == f"aten::{self._name}"
        return (self._rule or RULES.unknown) if broken else RULES.rule_for(func)

    def finish(self, flow: Flow, path: str, module: nn.Module) -> None:
        RULES.finish(flow, path, module)


def run(model: nn.Module, x: Tensor, flow: Flow | None = None) -> tuple[Flow, Tensor]:
    flow = flow or Flow(model, RULES)
    with torch.no_grad(), flow.following():
        return flow, model(x)


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def test_one_rule_may_have_several_operators() -> None:
    def rule(flow: Flow, call: Call) -> None:
        """Do nothing."""

    assert table(rule, "add  sub\nmul") == {"add": rule, "sub": rule, "mul": rule}


def test_a_result_carries_the_ids_of_the_layer_that_made_it() -> None:
    model = two()
    flow, y = run(model, torch.zeros(3, 4))
    batch, width = flow.labels(y)
    assert batch is None
    assert width is not None
    assert flow.ids.find(width).tolist() == flow.ids.find(flow.owned["2.weight", 0]).tolist()
    joined = flow.ids.find(flow.owned["2.weight", 1])
    assert joined.tolist() == flow.ids.find(flow.owned["0.weight", 0]).tolist()
    assert flow.owner_of("0", "weight", 0) is flow.owned["0.weight", 0]
    assert flow.owner_of("0", "weight", 5) is None


def test_what_the_run_has_not_seen_has_no_labels() -> None:
    flow, _ = run(two(), torch.zeros(3, 4))
    other = torch.zeros(2, 6)
    assert flow.known_labels(other) == ()
    assert flow.labels(other) == (None, None)


def test_calls_are_recorded_with_layer_tensors_and_parameters() -> None:
    flow, _ = run(two(), torch.zeros(3, 4))
    product = [record for record in flow.records if record.macs]
    assert [(it.layer, it.parameters) for it in product] == [
        ("0", ("0.bias", "0.weight")),
        ("2", ("2.bias", "2.weight")),
    ]
    assert flow.layer == ""
    (tanh,) = [record for record in flow.records if record.name == "tanh"]
    assert tanh.inputs == product[0].outputs
    assert flow.tensors[tanh.outputs[0]].shape == (3, 6)


def test_nothing_is_recorded_once_recording_is_off() -> None:
    model = two()
    flow = Flow(model, RULES)
    flow.recording = False
    _, y = run(model, torch.zeros(3, 4), flow)
    assert (flow.records, flow.tensors) == ([], [])
    assert flow.labels(y)[1] is not None


def test_a_rule_that_fails_keeps_what_entered_and_says_so() -> None:
    def fails(flow: Flow, call: Call) -> None:
        raise ValueError("no such thing\nsecond line")

    model = two()
    flow, _ = run(model, torch.zeros(3, 4), Flow(model, Broken("tanh", fails)))
    reasons = flow.ids.reasons()
    hidden = flow.ids.find(flow.owned["0.weight", 0]).tolist()
    assert {reasons[root] for root in hidden} == {"tanh is not understood (no such thing) in 1"}
    assert not {reasons.get(it) for it in flow.ids.find(flow.owned["2.weight", 0]).tolist()} & {
        reasons[hidden[0]]
    }


def test_an_error_leaves_no_hook_and_no_layer_behind() -> None:
    model = two()
    flow = Flow(model, RULES)
    with pytest.raises(RuntimeError):
        run(model, torch.zeros(3, 5), flow)
    assert flow.layer == ""
    records = len(flow.records)
    model(torch.zeros(3, 4))
    assert len(flow.records) == records


def test_outputs_of_ignored_layers_stay_whole() -> None:
    model = two()
    flow, _ = run(model, torch.zeros(3, 4), Flow(model, RULES, ignored={"0"}))
    hidden = flow.ids.find(flow.owned["0.weight", 0]).tolist()
    ignored = [root for root, why in flow.ids.reasons().items() if why == "ignored_layers"]
    assert sorted(ignored) == sorted(hidden)
