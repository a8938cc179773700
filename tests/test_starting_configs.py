"""What each of several starting models gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import small_run

from autoprune.config import RunConfig
from autoprune.starting_configs import config_of, divided, first_round
from autoprune.store import RunFolder

STARTS = {"large": {"width": 32}, "small": {"width": 8}}


def config(folder: Path, **keys: Any) -> RunConfig:
    data = {"task": "wide_stripes:WideStripes", "budget": {"macs": "80%"}, **keys}
    return RunConfig.from_dict({"starting_models": STARTS, **data}, base=folder)


def test_time_is_divided_like_trials(tmp_path: Path) -> None:
    found = config(tmp_path, search={"trials": 10, "minutes": 20.0, "total_epochs": 30.0})
    whole = RunFolder.create(tmp_path / "run", found.to_dict(), {})
    of_run = config_of(found, whole, "large", 4).search
    assert (of_run.trials, of_run.minutes, of_run.total_epochs) == (4, 8.0, 12.0)


def test_what_is_relative_to_dense_is_so_to_the_first_model(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        quality={"accuracy": "drop <= 1 pt"},
        recommend="drop <= 10 %",
        search={"levels": ["40%"], "baselines": {"smaller": {"tiny": {"width": 4}}}},
    )
    whole = RunFolder.create(tmp_path / "run", found.to_dict(), {})
    small_run.make(tmp_path, whole.starting_model("large").path)  # dense: 0.81 at 56 MACs
    first, second = (config_of(found, whole, name, 4) for name in STARTS)
    assert str(first.budget) == "macs <= 0.8 x dense"
    assert first.task_args == {"width": 32}
    assert str(second.budget) == f"macs <= {0.8 * small_run.DENSE_MACS:.4g}"
    assert [str(level) for level in second.levels] == [f"macs <= {0.4 * small_run.DENSE_MACS:.4g}"]
    assert [str(limit) for limit in second.quality_limits] == ["accuracy >= 0.8"]
    assert second.recommend == f">= {0.81 * 0.9!r}"
    assert not second.starting_models
    assert [list(each.search.baselines.smaller) for each in (first, second)] == [["tiny"], []]


def test_first_round_is_half_of_the_trials(tmp_path: Path) -> None:
    assert first_round(config(tmp_path, search={"trials": 30})) == {"large": 7, "small": 7}
    assert first_round(config(tmp_path, search={"trials": 1})) == {"large": 1, "small": 1}


def test_trials_are_divided_whole() -> None:
    assert divided(5, {"a": 1.0, "b": 1.0}) == {"a": 3, "b": 2}
    assert sum(divided(7, {"a": 0.2, "b": 0.3, "c": 0.123}).values()) == 7


def test_a_quota_of_disk_is_divided(tmp_path: Path) -> None:
    found = config(tmp_path, search={"max_disk": "3 GB"})
    whole = RunFolder.create(tmp_path / "run", found.to_dict(), {})
    assert config_of(found, whole, "large", 4).max_disk_bytes == 1.5e9
