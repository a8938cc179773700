"""The page's plot of the front: its axes, its legend, its note."""

from __future__ import annotations

import re
from dataclasses import replace

from synthetic_run import DEVICE
from views import trial, view_of

from autoprune.report.front_section import _MARKS, front, front_alone

AXES = {
    "measured.latency_ms": {"label": "Latency, measured", "legend": ["front", "dense"]},
    "macs": {"label": "MACs <b>", "legend": ["front", "failed"]},
}


def test_every_axis_has_a_button_and_the_first_is_pressed() -> None:
    page = front(view_of(trial(0, 0.9, 5.0)), {"front": AXES})
    buttons = re.findall(r'<button [^>]*data-key="([^"]+)" aria-pressed="(\w+)">([^<]+)<', page)
    assert buttons == [
        ("measured.latency_ms", "true", "Latency, measured"),
        ("macs", "false", "MACs &lt;b&gt;"),
    ]
    assert 'data-figure="front" data-axis="measured.latency_ms"' in page
    assert f"{DEVICE}" in page


def test_marks_of_other_axes_are_there_but_hidden() -> None:
    page = front_alone(AXES, view_of(trial(0, 0.9, 5.0)))
    marks = re.findall(r'<li data-mark="(\w+)"( hidden)?>', page)
    assert marks == [("front", ""), ("dense", ""), ("failed", " hidden")]


def test_every_kind_of_mark_has_a_picture_and_words() -> None:
    legend = {"x": {"label": "x", "legend": list(_MARKS)}}
    page = front_alone(legend, replace(view_of(trial(0, 0.9, 5.0)), front=None))
    assert page.count("<svg ") == page.count("<li ") == len(_MARKS) == 11


def test_without_a_finished_trial_it_says_so() -> None:
    page = front(view_of(), {})
    assert page == (
        '<section><h2>Pareto front</h2><p class="note">No trial has finished yet.</p></section>'
    )


def test_it_says_where_not_every_trial_is_drawn() -> None:
    few = [trial(n, 0.5, 9.0) for n in range(500)]
    words = "Of each kind of trial the newest 500 are drawn."
    assert words not in front(view_of(*few), {"front": AXES})
    assert words in front(view_of(*few, trial(500, 0.9, 5.0)), {"front": AXES})
