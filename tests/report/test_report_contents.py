"""What a run folder holds, and what can be read off it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from views import config, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective
from autoprune.patterns import WeightCurve
from autoprune.record import TrialRecord
from autoprune.report import (
    summary,
    terminal,
)
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import DenseReport, SearchPlan


def test_a_front_that_is_empty_as_measured_says_by_how_much() -> None:
    view = view_of(trial(3, 0.88, 7.0), over={3: {"latency_ms": 0.25}})
    view = replace(view, front=replace(view.front, records=()))
    words = "all finished models are over the budget as measured: trial 3 by latency 25 %"
    assert words in str(terminal.summary(view))
    assert words[1:] in summary.head(view)
    assert "no finished model yet" in str(terminal.summary(replace(view, over={})))


def test_removed_fractions_are_in_the_models_order_and_whole_groups_lose_nothing() -> None:
    record = replace(trial(0, 0.8, 5.0), candidate=Candidate(Architecture({"b": 12, "a": 4})))
    view = replace(view_of(record, trial(1, 0.9, 6.0)), groups={"b": 16, "a": 8})
    assert list(view.removed(record).items()) == [("b", 0.25), ("a", 0.5)]
    assert set(view.removed(view.records[1]).values()) == {0.0}


def test_states_are_all_named() -> None:
    view = view_of(trial(0, 0.9, 5.0), trial(1, 0, None, state="failed"))
    assert view.states == {"complete": 1, "stopped": 0, "infeasible": 0, "failed": 1}


def test_trials_of_an_earlier_run_cost_this_one_nothing() -> None:
    own = trial(0, 0.9, 5.0, epochs=2.0, times={"train_s": 3.0, "wall_s": 4.0})
    more = trial(1, 0.8, 4.0, epochs=0.5, times={"train_s": 1.0})
    reused = trial(2, 0.8, 4.0, epochs=9.0, times={"train_s": 9.0}, origin="from_run:7 tpe")
    view = view_of(own, more, reused)
    assert view.epochs == 2.5
    assert view.times == {"train_s": 4.0, "wall_s": 4.0}


def test_reused_baselines_over_the_new_budget_are_left_out() -> None:
    """The limit is 80 macs, with a margin of 10 %: 72.7 are within, 73 are not."""
    origins = (
        *("from_run:0 seed:uniform-0", "from_run:1 baseline:uniform-1"),
        *("from_run:2 baseline:random-0", "baseline:uniform-0", "baseline:smaller net"),
    )
    macs = (73, 72, 73, 72, 900)
    records = [
        trial(n, 0.9, 5.0, origin=origin, predicted=Cost(macs=count))
        for n, (origin, count) in enumerate(zip(origins, macs, strict=True))
    ]
    space = FittedSpace.of(SearchSpace(), {"conv": 16})
    plan = SearchPlan((), (), {"macs": 80.0}, (), space, Cost(macs=100), margins={"macs": 0.1})
    view = view_of(*records[:4], smaller=(records[4],), plan=plan)
    assert [r.number for r in view.uniform] == [1, 3]
    assert [r.number for r in view.baselines] == [1, 3, 4]


def test_baselines_by_kind() -> None:
    origins = ("baseline:uniform-0", "baseline:random-0", "seed:uniform-1", "tpe")
    view = view_of(*(trial(n, 0.9, 5.0, origin=origin) for n, origin in enumerate(origins)))
    assert [r.number for r in view.baselines] == [0, 1, 2]
    assert [r.number for r in view.uniform] == [0, 2]


def test_the_first_metric_and_the_first_cost() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    assert (view.metric, view.cost) == view.front.objectives
    bare = replace(view, front=None)
    assert (bare.metric, bare.cost, bare.members) == (None, None, ())
    assert bare.metric_of(view.records[0]) is None
    assert bare.change(0.5) is None


def test_a_change_needs_both_values() -> None:
    view = view_of(trial(0, 0.85, 5.0))
    assert view.change(0.85) == pytest.approx(-0.05)
    assert view.change(None) is None
    assert view_of(dense=DenseReport()).change(0.85) is None


@pytest.mark.parametrize(
    ("task", "title"), [("digits", "digits"), ("a/b.py:Mine", "Mine"), ("b.py:", "b.py:")]
)
def test_the_title_is_the_task_without_its_file(task: str, title: str) -> None:
    view = replace(view_of(), config=config({"macs": 1}).with_task(task))
    assert view.title.rpartition("/")[2] == title


def test_commands_name_the_folder() -> None:
    assert view_of().place == "run"
    assert view_of(folder="results/run").place == "results/run"


def with_architecture(made: Architecture) -> TrialRecord:
    return replace(trial(0, 0.9, 5.0), candidate=Candidate(made))


def test_dropped_blocks_in_words() -> None:
    record = with_architecture(Architecture(dropped=["b2", "b1"]))
    assert view_of(record, blocks=("b1", "b2", "b3")).dropped(record) == "b1, b2 (2 of 3)"
    assert view_of(record).dropped(record) == "b1, b2"
    assert view_of().dropped(with_architecture(Architecture())) == ""


def plan_of(weights: dict[str, WeightCurve]) -> SearchPlan:
    space = FittedSpace.of(SearchSpace.parse({}), {"a": 8}, weights=weights)
    return SearchPlan((Objective("accuracy"),), (0.0,), {}, (), space, Cost())


def test_patterns_and_zeros_of_the_weights() -> None:
    curve = (0.0, 0.5, 1.0)
    weights = {
        "a": WeightCurve(300, 4, curve),
        "b": WeightCurve(100, 4, curve),
        "c": WeightCurve(100, 6, curve),
        "never": WeightCurve(500, 4, curve),
    }
    record = with_architecture(Architecture(patterns={"a": "0.5", "b": "0.2", "c": "2:4"}))
    other = replace(with_architecture(Architecture(patterns={"a": "0.9"})), number=1)
    view = view_of(record, other, plan=plan_of(weights))
    # 150 + 20 + a third of 100 (of six inputs four stay), of 1000
    words = "unstructured in 2 weights, 2:4 in 1 weight"
    assert view.patterns(record) == f"{words} (20 % of all are zero)"
    assert view.zeros(record) == {"a": 0.5, "b": 0.2, "c": pytest.approx(1 / 3)}
    assert view_of(record).patterns(record) == words
    plain = replace(trial(2, 0.9, 5.0), candidate=Candidate(Architecture()))
    assert view.patterns(plain) == ""
    assert view.zeros(plain) == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_a_model_is_int8_where_its_architecture_says_so() -> None:
    assert view_of().is_int8(with_architecture(Architecture(precision="int8")))
    assert not view_of().is_int8(with_architecture(Architecture()))


def test_smaller_dense_models_are_baselines_and_no_trials() -> None:
    small = trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)
    failed = trial(-2, 0.0, None, state="failed", metrics={}, origin="baseline:smaller lost")
    view = view_of(trial(0, 0.9, 5.0, epochs=1.0), smaller=(small, failed))
    assert (view.baselines, view.uniform) == ((small,), ())
    assert (view.states["complete"], view.states["failed"], view.epochs) == (1, 0, 1.0)
