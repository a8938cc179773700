"""The page of the reuse benchmark, and its clock."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from scripts.benchmarks.reuse import __main__ as reuse

WHERE = {
    **{"machine": "a", "cores": 1, "threads": 1, "versions": "v", "python": "3", "commit": "c"},
    **{"command": "x", "date": "2026-11-30"},
}


def rows() -> pd.DataFrame:
    def row(search: str, epochs: float, seconds: float, volume: float | None) -> dict[str, Any]:
        return {
            **{"seed": 0, "search": search, "budget": "35%", "trained": 3, "epochs": epochs},
            **{"wall_s": seconds, "members": 9, "hypervolume": volume, **WHERE},
        }

    return pd.DataFrame(
        [
            row("first", 15.0, 240.0, None),
            row("from the beginning", 15.0, 200.0, 1.0),
            row("from_run", 1.5, 60.0, 0.985),
        ]
    )


def test_the_page_has_seconds_beside_epochs() -> None:
    page = reuse.page(rows())
    assert "seed 0: 10% of the epochs, 30% of the seconds, 98.5% of the hypervolume" in page
    assert "| 0 | from_run | 35% | 3 | 1.5 | 60 | – | 9 | 98.5% |" in page


def test_seconds_before_the_first_trial_are_shown_where_they_were_taken() -> None:
    page = reuse.page(rows().assign(preparation_s=[20.0, 19.0, 12.4]))
    assert "| 0 | from_run | 35% | 3 | 1.5 | 60 | 12 | 9 | 98.5% |" in page


def test_the_clock_holds_what_comes_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 130.0, 150.0])
    monkeypatch.setattr(reuse, "time", SimpleNamespace(monotonic=lambda: next(now)))
    clock = reuse.Clock()
    clock.on_start(None, None, Path())  # type: ignore[arg-type]
    assert (clock(), clock.preparation_s) == (50.0, 30.0)
