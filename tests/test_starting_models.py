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
from autoprune._search.state.progress import Progress, Snapshot
from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.errors import (
    BudgetError,
    ConfigError,
    DeviceLostError,
    TaskError,
    UsageError,
    WorkError,
)
from autoprune.joint import JointFront
from autoprune.record import TrialRecord
from autoprune.starting_models import resume_starting_models, verify_starting_models
from autoprune.starting_models import search_starting_models as search
from autoprune.store import RunFolder, RunState
from autoprune.tasks import Task

STARTS = {"large": {"width": 32}, "small": {"width": 8}}


class Searches:
    """Stands in for the search of one run: writes the models of `small_run` and stopped trials."""

    def __init__(self, accuracies: Mapping[str, tuple[float, float]]) -> None:
        self.accuracies = accuracies
        self.seen: list[tuple[str, int, bool]] = []
        self.errors: dict[str, BaseException] = {}
        self.most: dict[str, int] = {}  # trials after which patience ends a run
        self.notes: list[str] = []  # told to the progress of each run

    def __call__(
        self,
        folder: Path,
        config: RunConfig,
        task: Task | None,
        progress: Progress | None,
        callbacks: Sequence[object],
        *,
        resumed: bool,
    ) -> None:
        for note in self.notes:
            assert progress is not None
            progress.update(Snapshot("search", note))
        self.seen.append((folder.name, config.search.trials, resumed))
        if folder.name in self.errors:
            raise self.errors[folder.name]
        if not resumed:
            run = small_run.make(folder.parent, folder, self.accuracies[folder.name])
            run.save_config(config)
        run = RunFolder.open(folder)
        add_trials(run, min(config.search.trials, self.most.get(folder.name, 1000)))
        run.save_state(RunState("done", 60.0))


def add_trials(run: RunFolder, total: int) -> None:
    """Stopped trials of an epoch each, up to so many in all."""
    for number in range(len(run.records()), total):
        candidate = Candidate(Architecture({"0": 4}))
        run.append(TrialRecord(number, candidate, "stopped", seed=0, epochs=1.0, origin="tpe"))


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


def test_progress_has_the_name_of_the_starting_model(searches: Searches, tmp_path: Path) -> None:
    class Shown(list[str]):
        def update(self, snapshot: Snapshot) -> None:
            self.append(snapshot.note)

    shown = Shown()
    searches.notes = ["tracing", ""]
    search("wide_stripes:WideStripes", progress=shown, **options(tmp_path))
    assert shown[:4] == ["large: tracing", "large", "small: tracing", "small"]


def test_more_trials_are_divided_likewise(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    searches.seen.clear()
    resume_starting_models(tmp_path / "run", trials="+4")
    assert searches.seen == [("large", 13, True)]
    with pytest.raises(UsageError, match="trials must be more than the 16"):
        resume_starting_models(tmp_path / "run", trials=16)


def test_an_interrupted_search_goes_on_where_it_was(searches: Searches, tmp_path: Path) -> None:
    searches.errors["small"] = KeyboardInterrupt()
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


def test_dense_models_are_measured_in_turns_and_again_by_verify(
    searches: Searches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[str]] = []

    def together(
        tasks: Mapping[str, Task], runs: Mapping[str, RunFolder], before: set[str]
    ) -> dict[str, Cost]:
        taken.append(list(runs))
        return {name: Cost(macs=len(taken)) for name in tasks}

    monkeypatch.setattr("autoprune._search.measuring.together.dense_together", together)
    budget = {"macs": "80%", "latency_ms": 5}
    search("wide_stripes:WideStripes", **options(tmp_path, budget=budget))
    assert taken == [["large", "small"]] * 2  # after each round
    resume_starting_models(tmp_path / "run")  # nothing is searched
    assert len(taken) == 2
    joint = verify_starting_models(tmp_path / "run")
    assert joint.dense("small").measured == Cost(macs=3)


def test_a_verify_that_fails_leaves_what_was_measured(
    searches: Searches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([{"large": Cost(macs=1, latency_ms=2.0, device=Device("a board"))} for _ in "ab"])

    def together(*_: object) -> dict[str, Cost]:
        if (found := next(taken, None)) is None:
            raise DeviceLostError("the board is off")
        return found

    monkeypatch.setattr("autoprune._search.measuring.together.dense_together", together)
    budget = {"macs": "80%", "latency_ms": 5}
    search("wide_stripes:WideStripes", **options(tmp_path, budget=budget))
    before = RunFolder.open(tmp_path / "run").starting()
    with pytest.raises(DeviceLostError, match="the board is off"):
        verify_starting_models(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").starting() == before


def test_tasks_are_named_once(tmp_path: Path) -> None:
    tasks = {name: WideStripes(**args) for name, args in STARTS.items()}
    for given in (tasks, {}):
        with pytest.raises(UsageError, match="or Task objects by name"):
            search(given, **options(tmp_path))


def test_objects_are_needed_again(searches: Searches, tmp_path: Path) -> None:
    tasks = {name: WideStripes(**args) for name, args in STARTS.items()}
    search(tasks, budget={"macs": "80%"}, trials=4, output=tmp_path / "run")
    with pytest.raises(UsageError, match=r"give tasks=\{'large': \.\.\., 'small': \.\.\.\}"):
        resume_starting_models(tmp_path / "run")


def test_trials_that_did_not_take_place_are_not_made_up_for(
    searches: Searches, tmp_path: Path
) -> None:
    searches.most["large"] = 5  # the front has not grown: patience
    search("wide_stripes:WideStripes", **options(tmp_path, trials=100))
    assert searches.seen == [("large", 25, False), ("small", 25, False), ("large", 55, True)]
    searches.seen.clear()
    searches.most.clear()
    resume_starting_models(tmp_path / "run", trials="+4")  # on top of 5 and 25
    assert searches.seen == [("large", 9, True)]


def test_epochs_are_limited_in_every_round(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path, trials=40, total_epochs=80.0))
    runs = JointFront.read(tmp_path / "run").runs
    assert runs["large"].config.search.total_epochs == 80.0 * 30 / 40
    assert runs["small"].config.search.total_epochs == 80.0 * 10 / 40


def test_without_time_left_a_run_gets_no_more_trials(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path, minutes=1.0))  # each takes one
    assert searches.seen == [("large", 3, False), ("small", 3, False)]


def test_an_interrupted_search_may_end_with_what_it_has(searches: Searches, tmp_path: Path) -> None:
    searches.errors["small"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        search("wide_stripes:WideStripes", **options(tmp_path))
    searches.errors.clear()
    searches.seen.clear()
    resume_starting_models(tmp_path / "run", trials=4)
    assert searches.seen == [("small", 1, False)]


def test_a_run_extended_by_itself_is_counted(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    run = RunFolder.open(tmp_path / "run" / "starts" / "large")
    add_trials(run, 20)
    run.save_state(RunState("done", 60.0))
    searches.seen.clear()
    resume_starting_models(tmp_path / "run", trials="+4")
    assert searches.seen == [("large", 24, True)]


def test_what_was_left_out_after_trials_is_tried_again(searches: Searches, tmp_path: Path) -> None:
    run = tmp_path / "run" / "starts" / "small"
    searches.errors["small"] = WorkError("all trials failed")
    joint = search("wide_stripes:WideStripes", **options(tmp_path))
    assert joint.left_out == {"small": "all trials failed"}
    searches.errors.clear()
    RunFolder.create(run, config(tmp_path, starting_models={}).to_dict(), {})  # as a real one
    small_run.make(tmp_path, tmp_path / "other", (0.95, 0.9))
    for file in (tmp_path / "other").iterdir():
        if file.name != "config.yaml" and not (run / file.name).exists():
            file.rename(run / file.name)
    assert not resume_starting_models(tmp_path / "run", trials="+1").left_out


def test_a_failure_after_a_trial_was_complete_is_raised(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    (tmp_path / "run" / "starts" / "small" / "front.json").write_text("{")
    searches.errors["small"] = WorkError("the disk is full")
    with pytest.raises(WorkError, match="the disk is full"):
        resume_starting_models(tmp_path / "run")


def test_a_damaged_run_is_resumed(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    (tmp_path / "run" / "starts" / "small" / "front.json").unlink()
    searches.seen.clear()
    resume_starting_models(tmp_path / "run")
    assert searches.seen == [("small", 3, True)]


def test_code_that_a_run_alone_names_needs_trust(searches: Searches, tmp_path: Path) -> None:
    search("wide_stripes:WideStripes", **options(tmp_path))
    file = tmp_path / "run" / "starts" / "small" / "config.yaml"
    theirs = f"task: {tmp_path}/theirs.py:Task"
    file.write_text(file.read_text().replace("task: wide_stripes:WideStripes", theirs))
    with pytest.raises(TaskError, match=r"theirs\.py, which was not named on this machine"):
        resume_starting_models(tmp_path / "run")
