"""Choosing among a search's models for one runtime, and what the choice costs in another."""

from __future__ import annotations

import pandas as pd
import pytest

from scripts.benchmarks.runtimes.searched import choices, spread

ROWS = pd.DataFrame(
    [
        ("a", 1, 0.9, 0.55),
        ("a", 2, 0.8, 0.30),
        ("a", 3, 0.7, 0.20),
        ("b", 1, 0.9, 0.70),
        ("b", 2, 0.8, 0.45),
        ("b", 3, 0.7, 0.41),
    ],
    columns=["runtime", "trial", "accuracy", "ratio"],
)


def test_the_most_accurate_model_within_the_limit_of_each_runtime_is_chosen() -> None:
    chosen = choices(ROWS, 0.6)
    assert chosen.trial.to_dict() == {"a": 1, "b": 2}
    assert chosen.accuracy.to_dict() == pytest.approx({"a": 0.9, "b": 0.8})
    assert chosen.loc["a", "b"] == 0.70  # too slow there
    assert chosen.loc["b", "a"] == 0.30


def test_a_runtime_in_which_nothing_is_within_the_limit_has_no_choice() -> None:
    assert choices(ROWS, 0.25).trial.to_dict() == {"a": 3}


def test_models_are_spread_over_all_accuracies() -> None:
    assert spread(100, 3) == [0, 50, 99]
    assert spread(2, 3) == [0, 1]
