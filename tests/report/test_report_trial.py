"""One trial in the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import line_of, measured, on_two, text_of, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import StoreError
from autoprune.record import TrialRecord
from autoprune.report import trial as trials
from autoprune.report.data import RunView
from autoprune.schedule import Schedule
from autoprune.store import PrecisionReport, QuantizationReport, QuantizationSettings


def test_trial_in_detail_lists_every_group_and_evaluation(view) -> None:
    member = view.members[0]
    text = text_of(trials.trial(view, member.number))
    for name, ratio in member.candidate.architecture.ratios(view.groups).items():
        assert line_of(text, name)[1] == f"{100 * ratio:.0f}"
    assert f"{100 * member.metrics['accuracy']:.2f} %" in text
    assert member.candidate.schedule.kind in text


def test_unknown_trial_is_refused(view) -> None:
    with pytest.raises(StoreError, match="demo has no trial 99 · trials: 0 to "):
        trials.trial(view, 99)


def facts(view: RunView, number: int) -> dict[str, str]:
    """The table of facts: name and value of each line that has a name."""
    lines = text_of(trials.trial(view, number), width=300).splitlines()
    end = next(k for k, line in enumerate(lines) if line.startswith("group"))
    pairs = [line.split("  ", 1) for line in lines[:end] if line and not line.startswith(" ")]
    return {name: value.strip() for name, value in (pair for pair in pairs if len(pair) == 2)}


def full() -> TrialRecord:
    made = Candidate.planned(
        Architecture({"a": 6}, ["body"], {"w": "0.5"}),
        {"a": 8},
        selection=Selection("obs", repair=False),
        schedule=Schedule("linear", 0.0, 0.5, 2),
        recovery=Recovery(0.05, 0.25, 0.5, "sgd"),
    )
    predicted = Cost(
        params=40, macs=2000, latency_ms=5.0, source="predicted", device=DEVICE, file_bytes=900
    )
    sure = Confidence((3.9, 4.1), ratio=0.4, spread=0.3)
    record = trial(
        3,
        0.85,
        None,
        predicted=predicted,
        measured=measured(4.0, confidence=sure),
        epochs=1.5,
        times={"wall_s": 75.0},
        artifact="models/3",
        origin="tpe",
        history=({"epoch": 1.0, "params": 50}, {"epoch": 1.5, "accuracy": 0.85, "params": 40}),
    )
    return replace(record, candidate=made)


def test_everything_that_is_known_has_a_line() -> None:
    record = full()
    view = replace(view_of(record), groups={"a": 8})
    assert facts(view, 3) == {
        "trial": f"3 ({record.candidate.key}), seed 0, tpe",
        "state": "complete",
        "validation": "accuracy 85.00 %",
        "predicted": f"parameters 40, MACs 2.00 k, file 900 B, latency 5.00 ms ({DEVICE})",
        "measured": f"latency 4.00 ms ±2.5 % ({DEVICE})",
        "noise": "noisy: spread 30%",
        "verdict": "2.5× faster than dense, measured",
        "precision": "float32",
        "dropped blocks": "body",
        "patterns": "unstructured in 1 weight; a smaller file, no faster",
        "schedule": "linear, progress 0 to 0.5, 2 steps",
        "importance": "obs",
        "recovery": "sgd, lr 0.05, distillation 0.25, regularizer 0.5",
        "training": "1.5 epochs, 1 min 15 s",
        "model": "models/3",
    }


def test_groups_and_zeros_have_bars_and_evaluations_rows() -> None:
    shown = text_of(trials.trial(replace(view_of(full()), groups={"a": 8}), 3))
    assert line_of(shown, "a ") == ["a", "25", "%", "█" * 6 + "░" * 18]
    assert line_of(shown, "zeros in w") == ["zeros", "in", "w", "50", "%", "█" * 12 + "░" * 12]
    assert line_of(shown, "epoch") == ["epoch", "params", "accuracy"]
    rows = [line.split() for line in shown.splitlines()[-2:]]
    assert rows == [["1", "50", "–"], ["1.5", "40", "85.00", "%"]]


def test_a_trial_that_failed_says_why_and_has_no_verdict() -> None:
    record = trial(0, 0, None, state="failed", metrics={}, predicted=None, error="OOM [x]\nmore")
    found = facts(view_of(record), 0)
    assert found["state"] == "failed: OOM [x]"
    assert not {"verdict", "predicted", "measured", "validation", "model"} & set(found)
    assert "no evaluation was reached" in text_of(trials.trial(view_of(record), 0))


def test_an_int8_model_has_both_precisions() -> None:
    report = QuantizationReport(
        "model.int8.onnx",
        "ab" * 32,
        "accuracy",
        "maximize",
        QuantizationSettings("minmax", 64),
        PrecisionReport({"accuracy": 0.85}, 4000),
        PrecisionReport({"accuracy": 0.84}, 1500),
    )
    record = trial(0, 0.85, 5.0)
    shown = text_of(trials.trial(view_of(record, quantized={0: {"trial 0": report}}), 0))
    assert "int8     val accuracy 84.00 %" in shown
    assert "minmax of 64 samples, 7-bit weights; model.int8.onnx, sha256 abababababab…" in shown
    better = replace(report, int8=PrecisionReport({"accuracy": 0.89}, 1500))
    found = {"trial 0": report, "trial 0, retrained seed 4": better}
    shown = text_of(trials.trial(view_of(record, quantized={0: found}), 0))
    words = [" ".join(line.split()) for line in shown.splitlines()]
    own, retrained = words.index("int8 trial 0"), words.index("trial 0, retrained seed 4")
    assert words[own + 2].startswith("int8 val accuracy 84.00 %")
    assert words[retrained + 2].startswith("int8 val accuracy 89.00 %")


def test_of_several_devices_each_has_its_latency_and_its_conditions() -> None:
    record = trial(0, 0.9, None, measured=on_two(4.0, 2.0, "measured"))
    view = replace(view_of(record), devices={"phone": None, "server": None})
    assert facts(view, 0)["measured"] == (
        f"MACs 100, latency on phone 4.00 ms, latency on server 2.00 ms "
        f"(phone: {DEVICE}; server: {DEVICE})"
    )


def test_all_trials_are_named_where_there_is_no_such() -> None:
    many = view_of(*(trial(n, 0.9, 5.0) for n in (*range(9), 17, 79, 80)))
    with pytest.raises(StoreError) as caught:
        trials.trial(many, 99)
    assert str(caught.value) == "run has no trial 99 · trials: 0 to 8, 17, 79, 80"
    with pytest.raises(StoreError, match="run has no trial 0 · trials: none yet"):
        trials.trial(view_of(), 0)
