"""The sampler and the study's file, without a search around them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import toy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune._search.sampling.study import (
    BEGUN,
    MADE,
    ROUND,
    StudyFile,
    attributes,
    candidate_of,
    distribution,
    distributions,
    make_sampler,
    replay,
)
from autoprune.candidate import Candidate
from autoprune.errors import ConfigError
from autoprune.pareto import Objective
from autoprune.record import State, TrialRecord
from autoprune.space import SearchSpace
from autoprune.space.settings import Parameter
from autoprune.store import STUDY, RunFolder

PLAN = toy.make_plan()


def candidate(number: int) -> Candidate:
    """One of many within the budget."""
    params = {f"ratio.{name}": 0.5 + number / 64 for name in toy.SIZES}
    return PLAN.space.candidate({**params, "recovery.lr": 0.02})


def record(number: int, state: State = "complete", **more: object) -> TrialRecord:
    made = candidate(number)
    metrics = {"accuracy": 0.5} if state == "complete" else {}
    found = TrialRecord(number, made, state, 0, 4.0, metrics, predicted=PLAN.cost(made))
    return replace(found, **more)  # type: ignore[arg-type]


def trial(number: int, state: TrialState = TrialState.RUNNING, **marks: object) -> FrozenTrial:
    """A trial of the study in memory."""
    made = create_trial(
        state=state,
        values=[0.5, 900.0] if state == TrialState.COMPLETE else None,
        params=PLAN.variables.params(candidate(number)),
        distributions=distributions(PLAN),
        user_attrs={"candidate": candidate(number).key, **marks},
    )
    made.number = number
    return made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without trials: its tables take longer to make than to copy."""
    folder = tmp_path_factory.mktemp("empty")
    StudyFile(folder, PLAN.objectives).close()
    return folder / STUDY


@pytest.fixture
def file(tmp_path: Path, empty: Path) -> Iterator[StudyFile]:
    shutil.copy(empty, tmp_path / STUDY)
    found = StudyFile(tmp_path, PLAN.objectives)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Parameter("x", choices=("a", "b")), CategoricalDistribution(("a", "b"))),
        (Parameter("x", 1, 8, integer=True), IntDistribution(1, 8)),
        (Parameter("x", 1, 8, log=True, integer=True), IntDistribution(1, 8, log=True)),
        (Parameter("x", 0.1, 0.5), FloatDistribution(0.1, 0.5)),
        (Parameter("x", 0.1, 0.5, log=True), FloatDistribution(0.1, 0.5, log=True)),
    ],
)
def test_a_parameter_has_one_form_for_optuna(
    parameter: Parameter, expected: optuna.distributions.BaseDistribution
) -> None:
    assert distribution(parameter) == expected


def test_the_space_is_all_its_parameters_by_name() -> None:
    assert distributions(PLAN) == {
        **{f"ratio.{name}": FloatDistribution(0.0, 0.8) for name in toy.SIZES},
        "recovery.lr": FloatDistribution(0.01, 0.1),
    }


def test_a_space_in_which_nothing_varies_is_refused() -> None:
    whole = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.0}}))
    with pytest.raises(ConfigError) as caught:
        distributions(whole)
    assert str(caught.value) == (
        "nothing varies in this space: no group can be pruned and every other key is constant "
        "· raise space.ratios.max, lower space.round_to, or list several values"
    )


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        make_sampler(replace(PLAN, sampler="grid"))
    assert str(caught.value) == (
        "search.sampler must be one of tpe, nsga2, gp, front, random, got 'grid'"
    )


def asked(study: optuna.Study) -> FrozenTrial:
    found = study.ask({"x": FloatDistribution(0.0, 1.0), "y": CategoricalDistribution((1, 2, 3))})
    study.tell(found, [found.params["x"], float(found.params["y"])])
    return study.trials[-1]


def study_of(name: str, seed: int) -> optuna.Study:
    return optuna.create_study(
        sampler=make_sampler(replace(PLAN, sampler=name, seed=seed)),
        directions=["minimize", "maximize"],
    )


@pytest.mark.parametrize("name", ["random", "nsga2", "tpe"])
def test_draws_depend_on_the_seed_and_the_trials_before_alone(name: str) -> None:
    whole = study_of(name, 3)
    first = [asked(whole) for _ in range(14)]  # TPE begins to model after 10
    again = study_of(name, 3)
    again.add_trials(first[:12])
    assert [asked(again).params for _ in range(2)] == [it.params for it in first[12:]]
    other = study_of(name, 4)
    assert [asked(other).params for _ in range(3)] != [it.params for it in first[:3]]


def test_what_is_put_is_on_disk_in_its_newest_state(file: StudyFile, tmp_path: Path) -> None:
    file.put(trial(0))
    file.put(trial(1, TrialState.COMPLETE))
    file.put(trial(0, TrialState.PRUNED, mark=1))
    file.flush()
    loaded = optuna.load_study(study_name="autoprune", storage=f"sqlite:///{tmp_path / STUDY}")
    assert [it.state for it in loaded.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert loaded.trials[0].user_attrs["mark"] == 1
    assert loaded.trials[1].values == [0.5, 900.0]
    assert loaded.metric_names == ["accuracy", "macs"]
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_a_finished_trial_on_disk_is_not_changed(file: StudyFile) -> None:
    file.put(trial(0, TrialState.COMPLETE))
    file.put(trial(0, TrialState.FAIL, mark=1))
    (found,) = file.trials()
    assert (found.state, found.values, "mark" in found.user_attrs) == (
        TrialState.COMPLETE,
        [0.5, 900.0],
        False,
    )


def test_a_study_is_opened_again_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    for number in range(2):
        file = StudyFile.mended(folder, PLAN.objectives)
        assert len(file.trials()) == number
        file.put(trial(number, TrialState.COMPLETE))
        file.close()


def test_a_study_of_other_objectives_is_set_aside(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    file = StudyFile.mended(folder, PLAN.objectives)
    file.put(trial(0, TrialState.COMPLETE))
    file.close()
    less = (Objective("error", "minimize"), Objective("macs"))
    file = StudyFile.mended(folder, less)
    assert file.trials() == []
    file.close()
    kept = optuna.load_study(
        study_name="autoprune", storage=f"sqlite:///{folder.path / 'damaged' / STUDY}.0"
    )
    assert [it.values for it in kept.trials] == [[0.5, 900.0]]


def test_what_the_file_lacks_is_made_from_the_records(file: StudyFile) -> None:
    plan = replace(PLAN, concurrent=2)
    states: tuple[State, ...] = ("complete", "stopped", "infeasible", "failed")
    records = {number: record(number, state) for number, state in enumerate(states)}
    records[4] = record(4, metrics={})  # complete without the metric
    found = replay(file, records, plan)
    expected = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, *[TrialState.FAIL] * 2]
    assert [it.state for it in found] == expected
    assert [(it.number, it.state) for it in file.trials()] == list(enumerate(expected))
    limit = 0.5 * (toy.DENSE.macs or 0)
    for number, made in enumerate(found):
        assert candidate_of(made, plan) == candidate(number)
        assert made.user_attrs["candidate"] == candidate(number).key
        macs = PLAN.cost(candidate(number)).get("macs")
        assert made.values == ([0.5, macs] if number == 0 else None)
        assert made.system_attrs["constraints:macs"] == pytest.approx(macs / limit - 1.0)


def test_records_count_where_the_file_says_otherwise(file: StudyFile) -> None:
    file.put(trial(0, TrialState.FAIL))
    file.put(trial(1, TrialState.COMPLETE, kept=True))
    found = replay(file, {0: record(0), 1: record(1)}, replace(PLAN, concurrent=2))
    assert [it.state for it in found] == [TrialState.COMPLETE] * 2
    assert "kept" in found[1].user_attrs  # as on disk where both agree


def test_what_was_running_is_asked_again_and_what_is_unknown_has_failed(file: StudyFile) -> None:
    file.put(trial(0))
    file.put(trial(1, TrialState.PRUNED))
    found = replay(file, {3: record(3)}, replace(PLAN, concurrent=2))
    assert [it.number for it in found] == [0, 1, 2, 3]
    assert [it.state for it in found] == [
        TrialState.RUNNING,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]


def test_proposals_of_a_round_that_chose_none_are_made_again(file: StudyFile) -> None:
    file.put(trial(0, TrialState.COMPLETE, **{ROUND: 0, BEGUN: True}))
    for number in (1, 2):
        file.put(trial(number, TrialState.PRUNED, **{ROUND: 1}))
    alone, two = PLAN, replace(PLAN, concurrent=2)
    assert [it.number for it in replay(file, {0: record(0)}, alone)] == [0]
    assert [it.number for it in replay(file, {0: record(0)}, two)] == [0, 1, 2]


def test_a_round_that_chose_one_is_kept(file: StudyFile) -> None:
    file.put(trial(0, TrialState.PRUNED, **{ROUND: 0}))
    file.put(trial(1, TrialState.COMPLETE, **{ROUND: 0, BEGUN: True}))
    assert [it.number for it in replay(file, {1: record(1)}, PLAN)] == [0, 1]


def test_a_trained_trial_that_the_file_lost_ends_no_round(file: StudyFile) -> None:
    file.put(trial(0, TrialState.PRUNED, **{ROUND: 0}))
    assert replay(file, {}, PLAN) == []
    assert len(replay(file, {1: record(1)}, PLAN)) == 2


def test_the_whole_candidate_is_kept_only_where_parameters_say_it_nearly() -> None:
    made = candidate(2)
    assert attributes(made, "tpe", PLAN) == {"candidate": made.key, "origin": "tpe"}
    nearly = replace(PLAN, allocated=PLAN.space)
    kept = attributes(made, "tpe", nearly)
    assert kept[MADE] == made.to_dict()
    other = create_trial(
        state=TrialState.FAIL,
        params=PLAN.variables.params(candidate(3)),
        distributions=distributions(PLAN),
        user_attrs=kept,
    )
    assert candidate_of(other, nearly) == made


class Renamed:
    """The ratio of a group under the name that a later version gives it."""

    parameters = (Parameter("share.a", 0.0, 0.8),)

    def params(self, made: Candidate) -> dict[str, object]:
        return {"share.a": made.architecture.ratios(toy.SIZES)["a"]}

    def candidate(self, params: dict[str, object]) -> Candidate:
        raise AssertionError("the candidate is in the trial")


def test_trials_with_parameters_of_an_earlier_version_get_those_of_today(file: StudyFile) -> None:
    for number, state in enumerate((TrialState.COMPLETE, TrialState.RUNNING)):
        file.put(trial(number, state, **{MADE: candidate(number).to_dict()}))
    plan = replace(PLAN, concurrent=2, allocated=Renamed())  # type: ignore[arg-type]
    found = replay(file, {0: record(0)}, plan)
    assert [it.state for it in found] == [TrialState.COMPLETE, TrialState.RUNNING]
    ratios = [candidate(number).architecture.ratios(toy.SIZES)["a"] for number in (0, 1)]
    assert [it.params for it in found] == [{"share.a": ratio} for ratio in ratios]
    assert [it.distributions for it in found] == [distributions(plan)] * 2
    assert [candidate_of(it, plan) for it in found] == [candidate(0), candidate(1)]


class Narrowed(Renamed):
    """The same parameters as before, the first in a range that begins higher."""

    parameters = tuple(
        replace(it, low=0.5) if it.name == "ratio.a" else it for it in PLAN.variables.parameters
    )

    def params(self, made: Candidate) -> dict[str, object]:
        found = PLAN.variables.params(made)
        return {**found, "ratio.a": max(0.5, float(found["ratio.a"]))}


def test_trials_of_a_wider_range_are_set_to_the_end_of_todays(file: StudyFile) -> None:
    file.put(trial(0, TrialState.COMPLETE, **{MADE: candidate(0).to_dict()}))
    plan = replace(PLAN, allocated=Narrowed())  # type: ignore[arg-type]
    [found] = replay(file, {0: record(0)}, plan)
    assert found.distributions == distributions(plan)
    assert found.params == {**PLAN.variables.params(candidate(0)), "ratio.a": 0.5}
    assert candidate_of(found, plan) == candidate(0)
