"""The picture and the table of the layers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import trial, view_of

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.report import network
from autoprune.report.data import RunView
from autoprune.report.style import Figure
from autoprune.store import FrozenInfo, LayerCosts, LayerInfo, Network, ProfileSummary

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


def drawn(view: RunView) -> Figure:
    found = network.figure(view)
    assert found is not None
    return found


def page_of(view: RunView) -> str:
    return network.network(view, {"network": network.figure(view)})


def test_bars_are_widths_and_milliseconds_before_and_after(view: RunView) -> None:
    figure = drawn(view)
    own = figure["models"]["0"]["put"]
    assert [figure["data"][place]["y"] for place in (0, 3)] == [[8, 16, 10], [1.0, 4.0, 0.5]]
    assert (own["data.1.y"], own["data.4.y"]) == ([4, 0, 10], [0.5, 0.0, 0.25])
    assert (own["data.2.x"], own["data.2.y"]) == ([1], [0])
    assert own["data.0.text"][1] == "block&lt;1&gt;.conv: 16 channels → gone · block block&lt;1&gt;"
    assert figure["layout"]["xaxis"]["ticktext"] == ["stem", "block&lt;1&gt;.conv", "head"]
    assert figure["layout"]["yaxis2"]["title"]["text"] == "ms"


def test_layers_of_one_module_can_be_told_apart(view: RunView) -> None:
    layers = (LayerInfo("attn", "addmm"), LayerInfo("attn", "flash_attention"), LAYERS[2])
    twice = replace(view, network=replace(FOUND, layers=layers))
    assert drawn(twice)["layout"]["xaxis"]["ticktext"] == [
        *("attn #1 (addmm)", "attn #2 (attention)", "head")
    ]
    page = page_of(twice)
    assert ">attn #1 (addmm)<" in page
    assert ">attn #2 (attention)<" in page


def test_every_model_of_the_front_has_a_picture_and_a_table(view: RunView) -> None:
    records = [trial(n, 0.8 + 0.01 * n, 1.0 + n) for n in range(12)]
    records[3] = replace(records[3], candidate=Candidate(Architecture(precision="int8")))
    models = {"dense": DENSE, **{str(n): SMALL for n in range(12)}}
    many = view_of(*records, network=replace(FOUND, models=models))
    assert list(drawn(many)["models"]) == ["10", *map(str, range(10)), "11"]
    names = re.findall("<option.*?>(.*?)</option>", page_of(many))
    assert (names[0], names[1]) == ("trial 10 · recommended", "trial 0 · fastest")
    assert (names[4], names[11]) == ("trial 3 · int8", "trial 11 · knee, best")


def test_the_table_says_what_changed_and_why(view: RunView) -> None:
    page = page_of(view)
    rows = re.findall(r"<tr><td class=\"l full\">(.*?)</tr>", page)
    cells = [re.sub(r"<[^>]*>", "|", row) for row in rows]
    assert "8 → 4" in cells[0]
    assert "dropped with block block&lt;1&gt;" in cells[1]
    assert "not prunable: output of the model" in cells[2]
    assert "block<1>" not in page
    # of the 0.75 ms that are left, 0.5 are the stem's
    assert drawn(view)["models"]["0"]["rows"][0][:4] == [
        "8 → 4",
        "100 → 50",
        "1.00 → 0.500",
        "67 %",
    ]


def test_a_run_without_layers_has_no_picture() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    assert network.figure(view) is None
    assert network.network(view, {}) == ""


def test_the_page_says_on_which_device_a_layer_takes_how_long(view: RunView) -> None:
    named = replace(FOUND, latency="latency_ms@phone")
    devices = {"phone": ProfileSummary(DEVICE), "server": None}
    page = page_of(replace(view, network=named, devices=devices))
    assert "part of the latency predicted on phone: Intel Xeon 8488C, onnxruntime" in page


def test_without_latency_the_lower_bars_are_multiply_accumulates(view: RunView) -> None:
    plain = {name: replace(costs, ms=()) for name, costs in FOUND.models.items()}
    bare = replace(view, network=Network(LAYERS, plain))
    figure = drawn(bare)
    assert figure["data"][3]["y"] == [100, 400, 80]
    assert figure["models"]["0"]["put"]["data.4.y"] == [50, 0, 40]
    assert figure["layout"]["yaxis2"]["title"]["text"] == "MACs"
    # 50 of the 90 that are left
    assert figure["models"]["0"]["rows"][0][:3] == ["8 → 4", "100 → 50", "56 %"]
    page = page_of(bare)
    assert "of all MACs" in page
    assert "estimated ms" not in page


def test_a_model_without_predicted_latency_has_dashes(view: RunView) -> None:
    models = {**FOUND.models, "0": replace(SMALL, ms=())}
    figure = drawn(replace(view, network=replace(FOUND, models=models)))
    assert figure["models"]["0"]["put"]["data.4.y"] == []
    assert figure["models"]["0"]["rows"][0][2:4] == ["1.00 → –", "–"]


def test_measured_times_have_a_column_of_their_own(view: RunView) -> None:
    models = {
        "dense": replace(DENSE, measured=(0.25, 0.5, None)),
        "0": replace(SMALL, measured=(0.125, 0.5, None)),
    }
    timed = replace(view, network=replace(FOUND, models=models))
    rows = drawn(timed)["models"]["0"]["rows"]
    # the second layer is gone, the third was not told apart
    assert [row[4] for row in rows] == ["0.250 → 0.125", "0.500 → –", "–"]
    page = page_of(timed)
    assert "measured ms" in page
    assert "ONNX Runtime's profiler" in page
    assert "measured ms" not in page_of(view)
