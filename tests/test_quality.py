"""Limits on metrics: what may be written, and what is within."""

from __future__ import annotations

import re

import pytest

from autoprune.errors import ConfigError
from autoprune.quality import PATTERN, QualityLimit, check_qualities, parse_qualities, parse_quality

READ = [
    (">= 0.90", ">=", 0.90),
    (">=90%", ">=", 0.90),
    ("<= 0.3", "<=", 0.3),
    ("drop <= 1 pt", "drop", 0.01),
    ("drop<=0.5 pts", "drop", 0.005),
    ("drop <= 2 %", "relative drop", 0.02),
    ("drop <= 0.4", "drop", 0.4),
    ("<= 1e-3", "<=", 0.001),
]


@pytest.mark.parametrize(("text", "kind", "value"), READ)
def test_what_is_written_is_read(text: str, kind: str, value: float) -> None:
    found = parse_quality("accuracy", text, "quality")
    assert (found.metric, found.kind) == ("accuracy", kind)
    assert found.value == pytest.approx(value)


REFUSED = ["> 0.9", "0.9", "drop >= 1 pt", ">= 1 pt", ">=", "drop 1", "<= 1 %%", "", "a >= 1"]


@pytest.mark.parametrize("text", [*REFUSED, 0.9, None])
def test_anything_else_is_refused_with_the_forms(text: object) -> None:
    with pytest.raises(ConfigError, match=r"quality\.a: .* write '>= 0.90'"):
        parse_quality("a", text, "quality.a")


def test_the_pattern_of_editors_takes_what_is_read() -> None:
    assert all(re.search(PATTERN, text) for text, _, _ in READ)
    assert re.search(PATTERN, "  drop <= 1 pt ")
    assert not any(re.search(PATTERN, text) for text in REFUSED)


def test_several_limits_on_one_metric() -> None:
    found = parse_qualities({"a": [">= 0.5", "<= 0.9"], "b": "drop <= 1 %"})
    assert [(it.metric, it.kind) for it in found] == [
        ("a", ">="),
        ("a", "<="),
        ("b", "relative drop"),
    ]


@pytest.mark.parametrize(
    ("limit", "value", "maximize", "over"),
    [
        (QualityLimit("m", ">=", 0.9), 0.88, True, 0.02),
        (QualityLimit("m", "<=", 0.3), 0.25, False, -0.05),
        (QualityLimit("m", "drop", 0.01), 0.78, True, 0.01),  # dense 0.8: at least 0.79
        (QualityLimit("m", "relative drop", 0.1), 0.72, True, 0.0),  # at least 0.72
        (QualityLimit("m", "relative drop", 0.1), 0.90, False, 0.02),  # at most 0.88
    ],
)
def test_violation_is_the_distance_beyond_the_limit(
    limit: QualityLimit, value: float, maximize: bool, over: float
) -> None:
    assert limit.violation(value, 0.8, maximize) == pytest.approx(over)


def test_a_metric_that_the_task_lacks_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"quality.acuracy is no metric .* nearest: accuracy"):
        check_qualities([QualityLimit("acuracy", ">=", 0.9)], {"accuracy": 0.9}, "accuracy")


def test_a_drop_needs_a_direction() -> None:
    limits = [QualityLimit("loss", "drop", 0.1)]
    with pytest.raises(ConfigError, match="only accuracy has a direction"):
        check_qualities(limits, {"accuracy": 0.9, "loss": 1.0}, "accuracy")
    check_qualities([QualityLimit("loss", "<=", 0.1)], {"accuracy": 0.9, "loss": 1.0}, "accuracy")


def test_a_share_above_1_has_lost_its_percent() -> None:
    says = r"no model has accuracy >= 90, the dense one has 0\.97 · write '>= 0\.9' or '>= 90 %'"
    with pytest.raises(ConfigError, match=says):
        check_qualities([QualityLimit("accuracy", ">=", 90.0)], {"accuracy": 0.97}, "accuracy")
    for limit, value in ((">=", 0.99), (">=", 1.0), ("<=", 2.0)):
        check_qualities([QualityLimit("accuracy", limit, value)], {"accuracy": 0.97}, "accuracy")
    check_qualities([QualityLimit("psnr", ">=", 30.0)], {"psnr": 28.0}, "psnr")


def test_a_drop_by_more_than_there_is_has_lost_its_unit() -> None:
    with pytest.raises(ConfigError, match=r"drop of 1 allows any accuracy .* 'drop <= 1 %'"):
        check_qualities([QualityLimit("accuracy", "drop", 1.0)], {"accuracy": 0.9}, "accuracy")
    check_qualities([QualityLimit("accuracy", "drop", 0.05)], {"accuracy": 0.9}, "accuracy")
    perplexity = QualityLimit("perplexity", "drop", 2.0)
    check_qualities([perplexity], {"perplexity": 21.0}, "perplexity")
