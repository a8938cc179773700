"""The page of the depth benchmark, and its models measured together."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from deep_task import Deep

from autoprune.architecture import Architecture
from scripts.benchmarks.depth import __main__ as depth
from scripts.benchmarks.depth import together
from scripts.benchmarks.harness import Rows
from scripts.benchmarks.matching import Match, Matches

BLOCKS = ("3", "4")
WHERE = {
    **{"machine": "a", "cores": 1, "threads": 1, "versions": "v", "python": "3", "commit": "c"},
    **{"command": "x", "date": "2026-11-30"},
}


def row(kind: str, share: float, measured: float, macs: float = 0.08) -> dict[str, object]:
    return {
        **{"kind": kind, "share": share, "epochs": 0.0, "seed": 0, "measured_share": measured},
        **{"predicted_share": 0.3, "macs_share": macs, "dropped": 0},
        **{"val_accuracy": 0.2, "test_accuracy": 0.2, **WHERE},
    }


def test_the_page_says_how_far_sessions_differ_for_one_model() -> None:
    rows = pd.DataFrame(
        [
            row("channels", 0.3, 0.3722),
            row("channels", 0.2, 0.3031),
            row("channels", 0.12, 0.3176),
            row("both", 0.3, 0.29, macs=0.2),
            row("both", 0.2, 0.19, macs=0.1),
        ]
    )
    text = depth.sessions(rows)
    assert "channels (0 blocks dropped) 30.3, 31.8, 37.2 %" in text
    assert "both" not in text
    assert depth.sessions(rows[rows.kind == "both"]) == ""
    assert text in depth.page(rows)


def trained(*found: tuple[str, float, int, float, float]) -> pd.DataFrame:
    names = ["kind", "epochs", "seed", "measured_share", "test_accuracy"]
    return pd.DataFrame(found, columns=names).assign(share=0.12)


REVERSED = trained(
    *(("both", 1.0, 0, 0.12, 0.62), ("both", 8.0, 0, 0.12, 0.81)),
    *(("blocks", 1.0, 0, 0.11, 0.57), ("blocks", 8.0, 0, 0.11, 0.82)),
)


def test_the_page_says_where_longer_training_changes_the_order() -> None:
    assert depth.reversals(REVERSED).startswith(
        "At 12%, both is ahead of blocks after 1 epoch (62.0% and 57.0%) and behind it after 8 "
        "(81.0% and 82.0%)"
    )
    assert depth.reversals(REVERSED.iloc[::-1]) == depth.reversals(REVERSED)
    assert depth.reversals(REVERSED[REVERSED.kind == "both"]) == ""
    assert depth.reversals(REVERSED[REVERSED.epochs == 8.0]) == ""


def test_kinds_of_other_latencies_are_not_compared() -> None:
    slower = REVERSED.assign(
        measured_share=REVERSED.measured_share.where(REVERSED.kind == "blocks", 0.122)
    )
    assert depth.reversals(slower) == ""  # 0.122 is 10.9 % above 0.11


def test_kinds_are_compared_over_the_seeds_that_both_have() -> None:
    more = trained(("both", 1.0, 1, 0.12, 0.10), ("blocks", 8.0, 1, 0.11, 0.10))
    assert depth.reversals(pd.concat([REVERSED, more])) == depth.reversals(REVERSED)
    other = REVERSED.assign(seed=[0, 0, 0, 1])  # no seed has both trainings of both
    assert depth.reversals(other) == ""


def test_all_models_are_measured_in_one_session_and_equal_ones_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sessions: list[int] = []
    real = together.measure_together

    def counted(models: list[object], *rest: object) -> object:
        sessions.append(len(models))
        return real(models, *rest)

    monkeypatch.setattr(together, "measure_together", counted)
    monkeypatch.setattr(depth, "OUT", tmp_path)
    monkeypatch.setattr(depth, "Cifar10ResNet56", Deep)
    monkeypatch.setattr("sys.argv", [str(depth.__file__), "--together"])
    narrow, shallow = Architecture({"0": 6}), Architecture({"0": 12}, BLOCKS)
    matches = Matches(tmp_path / "chosen.json")
    matches.get("channels 0.2", lambda: Match(narrow, 0.5, 1))
    matches.get("channels 0.3", lambda: Match(narrow, 0.6, 1))
    matches.get("blocks 0.3", lambda: Match(shallow, 0.7, 1))
    Rows(tmp_path / "depth.csv", depth.KEY).put(row("channels", 0.3, 0.6))
    depth.main()
    assert sessions == [3]  # the dense model, and two others
    found = pd.read_csv(tmp_path / "together.csv")
    assert list(found.kind) == ["blocks", "channels", "channels"]
    assert list(found.share) == [0.3, 0.3, 0.2]
    assert list(found.when_chosen) == [0.7, 0.6, 0.5]
    assert found.measured_share[1] == found.measured_share[2] > 0
    assert (found.low <= found.high).all()
    page = (tmp_path / "README.md").read_text()
    assert "## Measured together" in page
    assert "| 20% | channels | 50.0% |" in page


def test_measuring_together_needs_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(depth, "OUT", tmp_path)
    monkeypatch.setattr("sys.argv", [str(depth.__file__), "--together"])
    with pytest.raises(SystemExit):
        depth.main()
    assert "--together needs what an earlier call has chosen" in capsys.readouterr().err


def test_two_processes_keep_the_matches_of_both_and_the_first_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "chosen.json"
    one, other = Matches(file), Matches(file)
    first, second = Match(Architecture({"a": 8}), 0.2, 1), Match(Architecture({"a": 9}), 0.3, 2)

    def overtaken() -> Match:
        assert other.get("both 0.2", lambda: first) == first
        return second

    assert one.get("both 0.2", overtaken) == first
    assert other.get("both 0.3", lambda: second) == second
    assert one.read() == {"both 0.2": first, "both 0.3": second}
    assert json.loads(file.read_text())["both 0.3"]["rounds"] == 2
