"""Equal cost as measured: which share is asked for next, and which round is kept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from autoprune.architecture import Architecture
from scripts.benchmarks.ablation.__main__ import same_models
from scripts.benchmarks.equal_cost.bench import TASKS
from scripts.benchmarks.equal_cost.table import TESTED, at_equal_cost, binomial, summary
from scripts.benchmarks.matching import Match, Matches, matched, nearer, rescaled


def named(width: int) -> Architecture:
    return Architecture({"a": width})


def test_the_next_share_is_in_proportion_to_what_was_measured() -> None:
    assert rescaled(asked=0.25, measured=0.5, wanted=0.25) == 0.125
    assert rescaled(asked=0.2, measured=0.16, wanted=0.24) == pytest.approx(0.3)
    assert rescaled(asked=0.3, measured=0.25, wanted=0.25) == 0.3


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        (0.20, 0.24, 0.24),  # both within: the larger one
        (0.26, 0.10, 0.10),  # only one within, however far
        (0.26, 0.31, 0.26),  # none within: the smaller one
        (0.25, 0.26, 0.25),  # at the wanted share is within
    ],
)
def test_the_nearest_at_or_below_is_kept(one: float, other: float, kept: float) -> None:
    pair = [Match(named(8), one, 1), Match(named(9), other, 2)]
    assert nearer(*pair, wanted=0.25).measured == kept
    assert nearer(*reversed(pair), wanted=0.25).measured == kept


def run(wanted: float, shares: dict[float, tuple[int, float]]) -> tuple[Match, list[float]]:
    """`shares` has for each share that may be asked for a width, and what that takes."""
    asked: list[float] = []
    taken = dict(shares.values())

    def choose(share: float) -> Architecture:
        asked.append(round(share, 6))
        return named(shares[asked[-1]][0])

    return matched(wanted, choose, lambda it: taken[it.widths["a"]]), asked


def rows_of(measured: float, predicted: float = 0.25) -> pd.DataFrame:
    return pd.DataFrame(
        {"share": [0.25], "measured_share": [measured], "predicted_share": [predicted]}
    )


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (rows_of(0.25), rows_of(0.24), True),
        (rows_of(0.42), rows_of(0.25), False),
        (rows_of(0.2), rows_of(0.25), False),
        (rows_of(0.42), rows_of(0.42), False),  # equal, but not at the share
        (rows_of(float("nan")), rows_of(float("nan"), 0.24), True),
        (rows_of(float("nan")), rows_of(float("nan"), 0.3), False),
    ],
)
def test_methods_are_compared_at_equal_cost_within_the_share_only(
    one: pd.DataFrame, other: pd.DataFrame, equal: bool
) -> None:
    assert at_equal_cost(one, other) is equal


def test_the_binomial_error_is_of_the_tasks_test_samples() -> None:
    rows = pd.DataFrame({"task": ["keywords"] * 2, "test_accuracy": [0.85, 0.95]})
    assert binomial(rows) == pytest.approx((0.9 * 0.1 / 1238) ** 0.5)
    assert set(TESTED) == set(TASKS)


def test_a_method_is_not_compared_with_itself() -> None:
    names = ["precision", "dropped", "macs_share", "file_bytes", "lr", "test_accuracy"]
    one = pd.DataFrame({"seed": [0, 1], **{name: [1.0, 2.0] for name in names}})
    assert same_models(one, one.copy())
    assert not same_models(one, one.assign(test_accuracy=[1.0, 3.0]))
    assert not same_models(one, one.iloc[:0])


def test_it_ends_where_a_round_is_near_enough() -> None:
    found, asked = run(0.25, {0.25: (8, 0.247)})
    assert (found, asked) == (Match(named(8), 0.247, 1), [0.25])


def test_it_is_chosen_again_for_a_rescaled_share() -> None:
    # twice what was asked for: 0.25 * 0.2475 / 0.5; then too little: 0.12375 * 0.2475 / 0.2
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (4, 0.2), 0.153141: (5, 0.246)})
    assert (found, asked) == (Match(named(5), 0.246, 3), [0.25, 0.12375, 0.153141])


def test_three_rounds_are_the_most_and_the_nearest_below_is_kept() -> None:
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (4, 0.2), 0.153141: (5, 0.3)})
    assert (found, len(asked)) == (Match(named(4), 0.2, 3), 3)


def test_the_same_architecture_is_not_measured_twice() -> None:
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (8, 0.5)})
    assert (found, asked) == (Match(named(8), 0.5, 1), [0.25, 0.12375])


def test_a_match_in_the_file_is_kept(tmp_path: Path) -> None:
    first, other = Match(named(8), 0.247, 1), Match(named(9), 0.2, 2)
    assert Matches(tmp_path / "chosen.json").get("both 0.25", lambda: first) == first
    again = Matches(tmp_path / "chosen.json")
    assert again.get("both 0.25", lambda: other) == first
    assert again.get("both 0.12", lambda: other) == other


def test_a_search_is_compared_with_the_best_baseline_but_limits_what_is_predicted() -> None:
    def row(method: str, accuracy: float) -> dict[str, object]:
        return {
            **{"task": "resnet20", "cost": "latency_ms", "share": 0.25, "epochs": 12.0},
            **{"rates": "[0.02]", "matched": True, "seed": 0, "lr": 0.02, "dropped": 0},
            **{"measured_share": 0.25, "predicted_share": 0.25, "file_share": 0.2},
            **{"macs_share": 0.2, "method": method},
            **{"val_accuracy": accuracy, "test_accuracy": accuracy},
        }

    rows = [row("FastNAS rule", 0.8), row("knapsack of units", 0.81), row("search", 0.85)]
    lines = summary(pd.DataFrame(rows)).set_index("method")
    assert list(lines.equal) == ["measured", "measured", "predicted"]
    assert list(lines.lead) == ["", "", "+4.00 pt"]
