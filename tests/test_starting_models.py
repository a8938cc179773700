"""How one search is divided among several dense models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import small_run
from wide_stripes import WideStripes

import autoprune
from autoprune import api
from autoprune.config import RunConfig
from autoprune.errors import BudgetError, ConfigError, UsageError, WorkError
from autoprune.joint import JointFront
from autoprune.starting_models import config_of, divided, first_round, resume_starting_models
from autoprune.starting_models import search_starting_models as search
from autoprune.store import RunFolder, RunState
from autoprune.tasks import Task

STARTS = {"large": {"width": 32}, "small": {"width": 8}}


class Searches:
    """Stands in for the search of one run: writes the two models of `small_run`."""

    def __init__(self, accuracies: Mapping[str, tuple[float, float]]) -> None:
        self.accuracies = accuracies
        self.seen: list[tuple[str, int, bool]] = []
        self.errors: dict[str, Exception] = {}

    def __call__(
        self,
        folder: Path,
        config: RunConfig,
        task: Task | None,
        progress: object,
        callbacks: Sequence[object],
        *,
        resumed: bool,
    ) -> None:
        self.seen.append((folder.name, config.search.trials, resumed))
        if folder.name in self.errors:
            raise self.errors[folder.name]
        if not resumed:
            run = small_run.make(folder.parent, folder, self.accuracies[folder.name])
            run.save_config(config)
        RunFolder.open(folder).save_state(RunState("done", 60.0))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    found = Searches({"large": (0.9, 0.6), "small": (0.8, 0.5)})
    monkeypatch.setattr(api, "search_into", found)
    return found


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "budget": {"macs": "80%"},
        "trials": 12,
        "output": folder / "run",
        "starting_models": STARTS,
        **more,
    }


def config(folder: Path, **keys: Any) -> RunConfig:
    data = {"task": "wide_stripes:WideStripes", "budget": {"macs": "80%"}, **keys}
    return RunConfig.from_dict({"starting_models": STARTS, **data}, base=folder)


def test_the_second_half_goes_to_who_adds_to_the_joint_front(
    searches: Searches, tmp_path: Path
) -> None:
    joint = search("wide_stripes:WideStripes", **options(tmp_path))
    assert searches.seen == [
        *(("large", 3, False), ("small", 3, False)),
        ("large", 9, True),  # small is dominated: all 6 that are left
    ]
    assert [joint.start_of(record) for record in joint.front.members] == ["large", "large"]


def test_more_trials_are_divided_likewise(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    searches.seen.clear()
    resume_starting_models(tmp_path / "run", trials="+4")
    assert searches.seen == [("large", 13, True)]
    with pytest.raises(UsageError, match="trials must be more than the 16"):
        resume_starting_models(tmp_path / "run", trials=16)


def test_an_interrupted_search_goes_on_where_it_was(searches: Searches, tmp_path: Path) -> None:
    searches.errors["small"] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        search("wide_stripes:WideStripes", **options(tmp_path))
    searches.errors.clear()
    searches.seen.clear()
    resume_starting_models(tmp_path / "run")
    assert searches.seen == [("small", 3, False), ("large", 9, True)]


@pytest.mark.parametrize("error", [BudgetError("too large"), WorkError("no trial")])
def test_a_starting_model_without_a_model_is_left_out(
    searches: Searches, tmp_path: Path, error: Exception
) -> None:
    searches.errors["small"] = error
    joint = search("wide_stripes:WideStripes", **options(tmp_path))
    assert joint.left_out == {"small": str(error)}
    assert searches.seen[-1] == ("large", 12, True)  # with the trials of the other, too


def test_nothing_is_left_behind_where_the_first_one_does_not_fit(
    searches: Searches, tmp_path: Path
) -> None:
    searches.errors["large"] = BudgetError("too large")
    with pytest.raises(BudgetError):
        search("wide_stripes:WideStripes", **options(tmp_path))
    assert not (tmp_path / "run").exists()


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
        search={"levels": ["40%"]},
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


def test_starting_models_may_be_other_tasks(searches: Searches, tmp_path: Path) -> None:
    here = Path(__file__).parent
    starts = {"large": f"{here}/wide_stripes.py:WideStripes", "small": {"width": 8}}
    search("wide_stripes:WideStripes", **options(tmp_path, starting_models=starts))
    runs = JointFront.read(RunFolder.open(tmp_path / "run")).runs
    assert runs["large"].config.task == starts["large"]
    assert (runs["small"].config.task, runs["small"].config.task_args) == (
        "wide_stripes:WideStripes",
        {"width": 8},
    )


def test_a_single_trial_is_one_for_each(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path, trials=1))
    assert searches.seen == [("large", 1, False), ("small", 1, False)]
    searches.seen.clear()
    resume_starting_models(tmp_path / "run")
    assert not searches.seen


def test_first_round_is_half_of_the_trials(tmp_path: Path) -> None:
    assert first_round(config(tmp_path, search={"trials": 30})) == {"large": 7, "small": 7}
    assert first_round(config(tmp_path, search={"trials": 1})) == {"large": 1, "small": 1}


def test_trials_are_divided_whole() -> None:
    assert divided(5, {"a": 1.0, "b": 1.0}) == {"a": 3, "b": 2}
    assert sum(divided(7, {"a": 0.2, "b": 0.3, "c": 0.123}).values()) == 7


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ({"only": {}}, "must name two or more"),
        ({"a/b": {}, "c": {"width": 4}}, "a name may hold letters"),
        ({"a": {"width": 4}, "b": {"width": 4}}, "a and b must differ"),
    ],
)
def test_wrong_starting_models(
    searches: Searches, tmp_path: Path, starts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search("wide_stripes:WideStripes", **options(tmp_path, starting_models=starts))
    assert not searches.seen


def test_an_earlier_run_has_one_dense_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from_run and starting_models exclude each other"):
        config(tmp_path, from_run="elsewhere")


def test_search_names_the_function_to_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="search_starting_models"):
        autoprune.search("wide_stripes:WideStripes", **options(tmp_path))
    with pytest.raises(UsageError, match="starting_models are missing"):
        search("wide_stripes:WideStripes", budget={"macs": "50%"}, output=tmp_path / "run")


def test_objects_are_needed_again(searches: Searches, tmp_path: Path) -> None:
    tasks = {name: WideStripes(**args) for name, args in STARTS.items()}
    search(tasks, budget={"macs": "80%"}, trials=4, output=tmp_path / "run")
    with pytest.raises(UsageError, match=r"give tasks=\{'large': \.\.\., 'small': \.\.\.\}"):
        resume_starting_models(tmp_path / "run")
