"""Why a layer of a model is as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import config, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.record import TrialRecord
from autoprune.report.data import RunView
from autoprune.report.layer_remarks import LayerRemarks
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import FrozenInfo, LayerCosts, LayerInfo, Network, SearchPlan

SIZES = {"a": 8, "b": 8, "c": 8}
LAYERS = (
    LayerInfo("a", "convolution", "a"),
    LayerInfo("a2", "convolution", "a"),
    LayerInfo("b", "convolution", "b", "body"),
    LayerInfo("c", "convolution", "c"),
    LayerInfo("head", "addmm"),
)
HALVES = {"a": 0.02, "b": 0.4, "c": 0.3}


def remarks(
    widths: dict[str, int], sensitivity: dict[str, float], latency: str = "", **changes: object
) -> list[str]:
    """Of the layers of a model with these widths; every layer but `b` takes 5 % of the cost."""
    kept = {**SIZES, **widths}
    channels = (kept["a"], kept["a"], kept["b"], kept["c"], 10)
    costs = LayerCosts(channels, (5, 5, 80, 5, 5), (5.0, 5.0, 80.0, 5.0, 5.0) if latency else ())
    network = Network(LAYERS, {"0": costs}, latency, HALVES)
    record = replace(trial(0, 0.9, 5.0), candidate=Candidate(Architecture(widths)))
    view = view_of(record, network=network, sensitivity=sensitivity)
    return LayerRemarks(replace(view, groups=SIZES, **changes), network).of(record)


def test_a_layer_that_costs_much_quality_for_little_time_is_kept_wide() -> None:
    found = remarks({"b": 2, "c": 2}, {"a": 0.9, "b": 0.1, "c": 0.2}, "latency_ms@phone")
    assert found[0] == (
        "kept wide: pruning half of it would change the outputs most of all groups and save 2 % of "
        "the latency on phone; same channels as a2"
    )
    assert found[1] == "same channels as a"  # said once a group
    assert found[2] == "among the slowest"


def test_a_wide_layer_that_would_save_much_for_little_is_named_as_such() -> None:
    # per share of the cost, b changes the outputs by 0.25 and a and c by 25 and 2
    found = remarks({"a": 2, "c": 2}, {"a": 0.5, "b": 0.1, "c": 0.6})
    assert found[2] == (
        "wide, although pruning half of it would change the outputs least of all groups and save "
        "40 % of the MACs; among the largest"
    )
    more = remarks({"a": 2, "c": 2}, {"a": 0.05, "b": 0.1, "c": 0.6})[2]
    assert "change the outputs more than for 1 of 2 other groups and save 40 %" in more


@pytest.mark.parametrize("widths", [{}, {"a": 4, "b": 4, "c": 4}, {"a": 6, "b": 5, "c": 4}])
def test_a_layer_is_wide_beside_the_others_of_its_model_alone(widths: dict[str, int]) -> None:
    found = remarks(widths, {"a": 0.9, "b": 0.1, "c": 0.2})
    assert not any("wide" in words for words in found)


def test_without_sensitivities_nothing_is_said_of_wide_layers() -> None:
    assert not any("wide" in words for words in remarks({"b": 2, "c": 2}, {}))
    assert not any("wide" in words for words in remarks({"b": 2, "c": 2}, {"a": 0.9}))


def test_what_keeps_a_layer_from_being_pruned_is_named() -> None:
    space = FittedSpace.of(
        SearchSpace.parse({}), SIZES, 4, None, None, {"a": (0.0, 0.0), "c": (0.0, 0.4)}
    )
    run = config({"latency_ms": "80%"})
    plan = SearchPlan.of((), (), (run.budget,), space, Cost(latency_ms=1.0, device=DEVICE))
    found = remarks({}, {}, plan=plan, frozen=(FrozenInfo("head", 10, "model output"),))
    assert found[0] == "kept (keep); same channels as a2"
    assert found[3] == "at most 40 % pruned (bounds)"
    assert found[4] == "not prunable: model output"
    assert remarks({}, {})[4] == "outputs are not prunable"


def record_of(view: RunView) -> TrialRecord:
    return view.members[0]


def test_a_layer_that_is_gone_went_with_its_block() -> None:
    costs = LayerCosts((8, 8, 0, 8, 10), (1, 1, 0, 1, 1))
    network = Network(LAYERS, {"0": costs}, "", HALVES)
    view = view_of(trial(0, 0.9, 5.0), network=network)
    assert LayerRemarks(view, network).of(record_of(view))[2] == "dropped with block body"


def test_a_layer_that_is_called_several_times_is_named_once() -> None:
    layers = (LayerInfo("attn", "mm", "a"), LayerInfo("attn", "mm", "a"), LayerInfo("b", "mm", "a"))
    costs = LayerCosts((8, 8, 8), (1, 1, 1))
    network = Network(layers, {"dense": costs, "0": costs}, "", {})
    view = view_of(trial(0, 0.9, 5.0), network=network)
    assert LayerRemarks(view, network).of(record_of(view))[2].startswith("same channels as attn;")
