"""The picture and the table of the layers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from views import trial, view_of

from autoprune.report import network
from autoprune.report.data import RunView
from autoprune.store import FrozenInfo, LayerCosts, LayerInfo, Network

LAYERS = (
    LayerInfo("stem", "convolution", "stem"),
    LayerInfo("block<1>.conv", "convolution", "inner", "block<1>"),
    LayerInfo("head", "addmm"),
)
DENSE = LayerCosts((8, 16, 10), (100, 400, 80), (1.0, 4.0, 0.5))
SMALL = LayerCosts((4, 0, 10), (50, 0, 40), (0.5, 0.0, 0.25))
FOUND = Network(LAYERS, {"dense": DENSE, "0": SMALL}, "latency_ms")


@pytest.fixture
def view() -> RunView:
    frozen = (FrozenInfo("head", 10, "output of the model"),)
    return replace(view_of(trial(0, 0.9, 5.0), network=FOUND), frozen=frozen)


def test_bars_are_widths_and_milliseconds_before_and_after(view: RunView) -> None:
    (figure,) = network.figures(view).values()
    bars = [trace["y"] for trace in figure["data"] if trace.get("type") == "bar"]
    assert bars == [[8, 16, 10], [4, 0, 10], [1.0, 4.0, 0.5], [0.5, 0.0, 0.25]]
    (crosses,) = [trace for trace in figure["data"] if trace.get("type") == "scatter"]
    assert crosses["x"] == [1]
    assert figure["label"] == "recommended · trial 0"
    assert figure["layout"]["xaxis"]["ticktext"] == ["stem", "block&lt;1&gt;.conv", "head"]


def test_the_table_says_why_a_layer_is_as_it_is(view: RunView) -> None:
    page = network.network(view, {"network": network.figures(view)})
    rows = re.findall(r"<tr><td class=\"l\">(.*?)</tr>", page)
    cells = [re.sub(r"<[^>]*>", "|", row) for row in rows]
    assert "8 → 4" in cells[0]
    assert "dropped with block block&lt;1&gt;" in cells[1]
    assert "not prunable: output of the model" in cells[2]
    assert "block<1>" not in page


def test_a_run_without_layers_has_no_picture() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    assert network.figures(view) == {}
    assert network.network(view, {}) == ""


def test_without_latency_there_are_widths_alone(view: RunView) -> None:
    plain = {name: replace(costs, ms=()) for name, costs in FOUND.models.items()}
    bare = replace(view, network=Network(LAYERS, plain))
    (figure,) = network.figures(bare).values()
    assert sum(trace.get("type") == "bar" for trace in figure["data"]) == 2
    assert "estimated ms" not in network.network(bare, {"network": network.figures(bare)})
