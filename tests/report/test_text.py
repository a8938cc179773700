"""Numbers as people read them, at the edges."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import measured, on_two

from autoprune.budget import Confidence, Cost, Limit
from autoprune.cost_fields import FIELDS
from autoprune.report import text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("macs", None, "–"),
        ("macs", 0, "0"),
        ("macs", 999, "999"),
        ("macs", 1000, "1.00 k"),
        ("macs", 999_499, "999 k"),
        ("macs", 999_500, "1.00 M"),
        ("params", 12_345_678, "12.3 M"),
        ("params", 2_000_000_000, "2.00 G"),
        ("weight_bytes", 0, "0 B"),
        ("weight_bytes", 999, "999 B"),
        ("file_bytes", 99_960, "100 kB"),
        ("peak_memory_bytes", 999_999, "1.00 MB"),
        ("latency_ms@phone", 0.09996, "0.100 ms"),
        ("latency_p95_ms", 1234.5, "1234 ms"),
    ],
)
def test_a_cost_has_three_digits_and_its_unit(name: str, value: float | None, words: str) -> None:
    assert text.cost(name, value) == words


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        (0.0, "0"),
        (0.99949, "0.999"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (-4.567, "-4.57"),
        (0.01234, "0.0123"),
    ],
)
def test_three_digits_are_three_after_rounding_up_too(value: float, digits: str) -> None:
    assert text.three_digits(value) == digits


@given(st.floats(0.1, 1e6))
def test_three_digits_are_near_and_have_no_exponent(value: float) -> None:
    shown = text.three_digits(value)
    assert re.fullmatch(r"\d+(\.\d+)?", shown)
    assert float(shown) == pytest.approx(value, rel=0.005)
    assert len(shown.replace(".", "").lstrip("0")) == max(3, len(shown.partition(".")[0]))


def test_every_cost_has_a_name() -> None:
    assert set(text.LABELS) == set(FIELDS)
    assert text.label("latency_ms@phone") == "latency on phone"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("accuracy", -0.0042, "−0.42 pt"),
        ("accuracy", 0.5, "+50.00 pt"),
        ("accuracy", -0.00001, "±0.00 pt"),
        ("accuracy", 0.0, "±0.00 pt"),
        ("loss", 0.0, "±0"),
        ("loss", -0.25, "−0.25"),
        ("loss", -1e-9, "−1e−09"),
        ("loss", None, "–"),
    ],
)
def test_a_difference_has_a_sign(name: str, value: float | None, words: str) -> None:
    assert text.change(name, value) == words


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("val_accuracy", True),
        ("acc", True),
        ("top1", True),
        ("top5_error", True),
        ("accumulated", False),
        ("f1", False),
        ("stop1", False),
    ],
)
def test_accuracies_are_percentages(name: str, share: bool) -> None:
    assert text.is_share(name) is share


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.95, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_duration(seconds: float | None, words: str) -> None:
    assert text.seconds(seconds) == words


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [(None, 0.1, "–"), (0.5, None, "50.00 %"), (0.5, 0.0, "50.00 ± 0.00 %")],
)
def test_a_spread_without_several_values_is_the_mean(
    mean: float | None, std: float | None, words: str
) -> None:
    assert text.spread("accuracy", mean, std) == words
    assert text.spread("loss", 1.23456, 0.0123) == "1.235 ± 0.012"


def test_a_share_of_nothing_is_unknown() -> None:
    assert [text.share(1, 0), text.share(1, None), text.share(0, 4)] == ["–", "–", "0 %"]


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        (Limit("latency_ms", 8.0), 8.0, "latency ≤ 8.00 ms"),
        (Limit("macs", 0.5, relative=True), None, "MACs ≤ 50 % of dense"),
        (
            Limit("latency_ms@phone", 0.125, relative=True),
            2.0,
            "latency on phone ≤ 2.00 ms (12.5 % of dense)",
        ),
    ],
)
def test_a_limit_in_its_unit(limit: Limit, value: float | None, words: str) -> None:
    assert text.limit(limit, value) == words


def test_sureness_and_noise_are_of_measured_costs() -> None:
    assert text.sure(None) == text.noise(None) == text.noise(Cost()) == ""
    assert text.sure(measured(1.0)) == ""
    sure = {"phone": Confidence((0.98, 1.02)), "server": Confidence((0.9, 1.1), spread=0.2)}
    both = on_two(1.0, 1.0, "measured", sure)
    assert (text.sure(both, "phone"), text.sure(both, "server")) == ("±2 %", "±10 %")
    assert text.noise(both) == "server noisy: spread 20%"
    assert text.noise(measured(1.0, confidence=sure["server"])) == "noisy: spread 20%"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, "no reason was recorded"),
        ("  ", "no reason was recorded"),
        ("loss is nan\nat step 3", "loss is nan"),
        ("Traceback (most recent call last):\n  x\nValueError: bad\n", "ValueError: bad"),
    ],
)
def test_the_line_that_says_what_went_wrong(error: str | None, line: str) -> None:
    assert text.last_line(error) == line
