"""One run of a model with ids, asked directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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


def asked(**options: Any) -> Flow:
    return Flow(two(), RULES, **options)


def test_a_split_dimension_is_carried_by_its_last_part_of_more_than_one() -> None:
    flow = asked()
    label = flow.ids.fresh(24)
    assert [flow.choose(label, parts) for parts in ((4, 6), (24, 1), (1, 24), (2, 3, 4))] == [
        1,
        0,
        1,
        2,
    ]
    assert [(site.key, site.choice, site.carried) for site in flow.sites] == [(0, 0, 6), (3, 0, 4)]


def test_a_choice_that_was_refused_takes_the_part_before() -> None:
    flow = asked(choices={0: 1, 1: 9})
    label = flow.ids.fresh(24)
    assert flow.choose(label, (2, 3, 4)) == 1
    assert flow.choose(label, (2, 3, 4)) == 0  # the first part is the last resort
    assert [site.key for site in flow.sites] == [0]


def test_known_heads_carry_a_split() -> None:
    flow = asked(heads={"0": 2})
    run(two(), torch.zeros(1, 4))
    with flow.following(), torch.no_grad():
        flow.state(next(iter(flow.modules["0"].parameters())))
    label = flow.owned["0.weight", 0]
    assert flow.choose(label, (2, 3)) == 0
    assert flow.choose(flow.ids.fresh(6), (2, 3)) == 1
    assert flow.choose(label, (3, 2)) == 1


def test_heads_rank_above_larger_dimensions_and_blocked_ones_below() -> None:
    flow = asked()
    small, large, head, blocked = (flow.ids.fresh(n) for n in (2, 8, 3, 64))
    flow.heads_seen.append(head)
    flow.block(blocked, "fixed")
    assert flow.rank(head) > flow.rank(large) > flow.rank(small) > flow.rank(blocked)
    assert (flow.rank(small), flow.rank(blocked)) == (2, 0)


def test_a_part_that_is_refused_flips_the_split_that_made_it() -> None:
    flow = asked()
    label = flow.ids.fresh(12)
    flow.choose(label, (3, 4))
    flow.choose(label, (2, 6))
    flow.refuse_parts(None)
    flow.refuse_parts(flow.ids.fresh(4))
    assert flow.flips == set()
    flow.refuse_parts(label[:4])  # as long as what the first split carries
    assert flow.flips == {0}
    flow.refuse_parts(label[:5])  # as long as none: the last
    assert flow.flips == {0, 1}


def test_a_size_is_noted_where_the_attribute_has_the_value_before() -> None:
    model = two()
    flow = Flow(model, RULES)
    ids = flow.ids.fresh(6)
    flow.note(["0.weight"], "out_features", ids, 6)
    flow.note(["0.weight"], "out_features", ids, 7)
    flow.note(["2.weight"], "no_such_attribute", ids, 6)
    assert [(note.module, note.name, note.scalar) for note in flow.notes] == [
        ("0", "out_features", True)
    ]
    flow.note_layer("2", in_features=ids, out_features=None)
    assert [(note.module, note.name) for note in flow.notes[1:]] == [("2", "in_features")]


def test_numbers_of_a_module_that_equal_a_size_are_guesses() -> None:
    model = two()
    model.width, model.two, model.groups, model.flag = 16, 2, 2, True
    flow = Flow(model, RULES)
    wide, narrow = flow.ids.fresh(16), flow.ids.fresh(2)
    flow.note_sizes((wide, narrow, None), (16, 2, 16))
    assert sorted((note.name, note.guessed) for note in flow.notes) == [
        ("groups", True),  # small numbers count under such names only
        ("width", True),
    ]
    before = len(flow.notes)
    flow.note_sizes((wide,), (16,), known={0})
    flow.caller = "linear"
    flow.note_sizes((wide,), (16,))
    assert len(flow.notes) == before


def test_two_dimensions_that_meet_are_united_or_fixed() -> None:
    flow = asked()
    left, right = flow.ids.fresh(3), flow.ids.fresh(3)
    assert flow.join(left, right) is left
    assert flow.ids.classes(np.concatenate([left, right])) == 3
    flow.join(left, None)
    assert set(flow.ids.reasons().values()) == {"meets a dimension of fixed size"}
