"""What the table of parts says where methods cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from scripts.benchmarks.ablation import __main__ as ablation
from scripts.benchmarks.ablation.__main__ import EQUAL_COST, RECIPES, SAMPLERS, SEARCH, Part, line
from scripts.benchmarks.equal_cost import table

ROWS = pd.DataFrame(
    {
        **{"method": ["a", "b", "b"], "seed": [0, 0, 1], "value": [50.0, 52.0, 90.0]},
        "commit": ["1a", "1a", "2b"],
    }
)


def test_a_part_without_rows_is_listed_as_not_run() -> None:
    known, unknown = Part("size", "a", "b"), Part("size", "b", "c")
    lines = list(line(known, "digits", "accuracy", ROWS))
    assert [(one["seeds"], one["difference"]) for one in lines] == [("1", "+2.00")]
    assert list(line(unknown, "digits", "accuracy", ROWS)) == []
    [missing] = ablation.not_run([known, unknown], lines)
    about = (missing["part"], missing["without"], missing["with"], missing["difference"])
    assert about == ("size", "b", "c", "not run")
    shown = ablation.harness.table(pd.DataFrame([*lines, missing]), ablation.SHOWN)
    assert shown.endswith("\n| size | – | – | b | c | – | not run | – |")
    assert lines[0]["commits"] == "1a and 1a/2b"


@pytest.mark.parametrize(
    ("share", "accuracy", "difference"),
    [
        (0.25, 0.91, "+1.00"),
        (0.30, 0.91, "not at equal cost"),  # more than a tenth above the wanted share
        (0.25, 0.90, "the same model"),
    ],
)
def test_rows_that_are_not_compared_are_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, accuracy: float, difference: str
) -> None:
    common = {
        **{"task": "resnet8", "cost": "weight_bytes", "share": 0.25, "epochs": 12.0},
        **{"rates": "[0.02]", "matched": False, "seed": 0, "measured_share": None},
        **{"precision": "float32", "dropped": 0, "macs_share": 0.3, "file_bytes": 9, "lr": 0.02},
        "commit": "1a",
    }
    rows = [
        {**common, "method": "channels", "predicted_share": 0.25, "test_accuracy": 0.90},
        {**common, "method": "channels + blocks", "predicted_share": share}
        | {"test_accuracy": accuracy},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.setattr(table, "OUT", tmp_path)
    found = [(each["part"], each["difference"]) for each in ablation.equal_costs()]
    assert found == [("dropped blocks", difference)]


def test_no_part_stands_twice() -> None:
    parts = [*SEARCH, *SAMPLERS, *EQUAL_COST, *RECIPES]
    assert len(set(parts)) == len(parts)
