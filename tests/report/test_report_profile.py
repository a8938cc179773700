"""A dense model's profile in the terminal."""

from __future__ import annotations

from dataclasses import replace

from views import line_of, text_of

from autoprune.budget import Cost, Device
from autoprune.cost.latency import Latency
from autoprune.graph.types import Frozen
from autoprune.profile import Layer, Profile
from autoprune.pruning.restrictions import Restrictions
from autoprune.report.profile import render

COST = Cost(params=1090, macs=40_000, weight_bytes=4360, peak_memory_bytes=9000)
LAYERS = (
    Layer("conv", 1000, 30_000, "conv", 16),
    Layer("norm", 32, 0, "conv", 16),
    Layer("[head]", 58, 10_000),
)
PROFILE = Profile(COST, (), (), LAYERS, ())


def test_costs_and_layers_have_their_units_and_shares() -> None:
    shown = text_of(render("digits", PROFILE))
    assert shown.splitlines()[0] == "digits, dense"
    assert line_of(shown, "parameters") == ["parameters", "1.09", "k"]
    assert line_of(shown, "MACs") == ["MACs", "40.0", "k"]
    assert line_of(shown, "peak memory") == ["peak", "memory", "9.00", "kB"]
    assert line_of(shown, "conv") == ["conv", "1.00", "k", "30.0", "k", "75", "%", "conv", "(16)"]
    assert line_of(shown, "norm") == ["norm", "32", "–", "conv", "(16)"]
    assert line_of(shown, "[head]") == ["[head]", "58", "10.0", "k", "25", "%", "–"]
    assert "not prunable" not in shown
    assert "residual blocks" not in shown
    assert "keep, bounds" not in shown


def test_units_of_several_channels_say_so() -> None:
    heads = Layer("embedding", 1024, 0, "embedding", 4, 16)
    shown = text_of(render("m", replace(PROFILE, layers=(heads,))))
    assert "embedding (4 × 16 channels)" in shown


def test_measured_memory_and_noisy_latencies_are_said() -> None:
    # its quartiles are 0.8 and 1.2
    latency = Latency(1.0, 1.2, (0.6, 0.8, 1.0, 1.2, 1.4), Device("x", "torch"))
    made = replace(PROFILE, latencies=(latency,), memory=(("torch", 9500), ("onnxruntime", None)))
    shown = text_of(render("digits", made))
    assert "9.50 kB measured (torch)" in shown
    assert "onnxruntime" not in shown
    assert f"{latency} · noisy: spread 40%" in shown


def test_what_is_not_prunable_and_what_is_kept_is_listed() -> None:
    frozen = (Frozen("head", 10, "output of the model"),)
    restrictions = Restrictions(ranges={"conv": (0.0, 0.25)})
    shown = text_of(render("digits", replace(PROFILE, frozen=frozen, restrictions=restrictions)))
    assert "  head (10): output of the model" in shown
    assert "keep, bounds" in shown
    assert restrictions.words("conv") in shown


def test_times_of_layers_and_of_all_else_have_a_column() -> None:
    layers = (replace(LAYERS[0], ms=0.25), *LAYERS[1:])
    shown = text_of(render("digits", replace(PROFILE, layers=layers, other_ms=0.0125)))
    assert "ms (onnxruntime)" in shown
    assert line_of(shown, "conv")[6:8] == ["%", "0.250"]
    assert line_of(shown, "norm") == ["norm", "32", "–", "–", "conv", "(16)"]
    assert line_of(shown, "all else") == ["all", "else", "0.013"]
    assert "onnxruntime" not in text_of(render("digits", PROFILE))
