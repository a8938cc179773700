"""The joint front of runs from several starting models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
from joint_run import CONFIG, make

import autoprune
from autoprune.budget import Confidence, Cost, Device
from autoprune.config import RunConfig
from autoprune.errors import StoreError, UsageError
from autoprune.joint import JointFront, beside, joined
from autoprune.pareto import Objective, ParetoFront
from autoprune.store import FrontReport, RunFolder, StartingState


def test_front_has_what_no_model_of_any_run_dominates(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))
    found = [(joint.start_of(record), record.number) for record in joint.front.members]
    assert found == [("small", 1), ("large", 0)]
    assert joint.named(joint.front.members[0]) == "small, trial 1"


def test_pick_gives_the_run_of_the_member(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))
    run, record = joint.pick("macs<=20")
    assert (run.path.name, record.number) == ("small", 1)
    run, record = joint.pick("recommended")  # the first dense model has 0.81
    assert (run.path.name, record.number) == ("large", 0)


def test_it_is_a_table_in_a_notebook(tmp_path: Path) -> None:
    page = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))._repr_html_()
    assert "<tr><th>model</th><th>accuracy</th><th>macs</th></tr>" in page
    assert "<tr><td>small, trial 1</td><td>0.5</td><td>14</td></tr>" in page
    assert "<tr><td>large, trial 0 (knee)</td><td>0.9</td><td>42</td></tr>" in page


def test_numbers_of_trials_need_the_run(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))
    with pytest.raises(UsageError, match=r"numbered in each run · name one of .*starts/large"):
        joint.pick("trial=0")
    with pytest.raises(UsageError, match="numbered in each run"):
        joint.pick("1")


def test_contribution_is_the_hypervolume_that_would_be_lost(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))
    lost = joint.contributions()
    # up to (0.1, 56): large 0.1 higher at 42, small 0.1 higher from 14 to 42
    assert lost["large"] == pytest.approx(0.1 * (56 - 42))
    assert lost["small"] == pytest.approx(0.1 * (42 - 14))


def test_a_dominated_run_contributes_nothing(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.6), small=(0.8, 0.5)))
    assert joint.contributions()["small"] == 0.0
    assert joint.contributions()["large"] > 0.0


def test_a_run_without_a_front_is_left_for_later(tmp_path: Path) -> None:
    whole = RunFolder.create(tmp_path / "whole", {**CONFIG, "base": str(tmp_path)}, {})
    with pytest.raises(StoreError, match="no front yet · resume it with: autoprune resume"):
        JointFront.read(whole)
    small_run.make(tmp_path, whole.starting_model("small").path)
    with pytest.raises(StoreError, match="no front yet"):  # of the reference
        JointFront.read(whole)
    small_run.make(tmp_path, whole.starting_model("large").path)
    assert list(JointFront.read(str(whole.path)).runs) == ["large", "small"]


def test_fronts_of_other_objectives_are_not_joined(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    fronts = dict(JointFront.read(whole).fronts)
    other = fronts["small"].__class__((Objective("params"),), fronts["small"].records)
    with pytest.raises(StoreError, match="same objectives"):
        joined({"large": fronts["large"], "small": other})


def test_load_takes_the_model_of_the_joint_front(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    model = autoprune.load(whole.path, pick="macs<=20", task=small_run.Pair())
    assert model[0].out_features == len(small_run.KEPT[1])


def test_what_needs_one_run_says_so(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    for call in (autoprune.verify, autoprune.resume, autoprune.quantize):
        with pytest.raises(StoreError, match=r"holds several runs · name one of .*starts/large"):
            call(whole.path, task=small_run.Pair())


def cost_of(ms: float, ratio: float, macs: int = 7) -> Cost:
    """A latency measured in turns with a dense model that took `ms / ratio`."""
    sure = Confidence((0.9 * ms, 1.1 * ms), ratio=ratio)
    return Cost(
        macs=macs,
        latency_ms=ms,
        latency_p95_ms=2 * ms,
        source="measured",
        device=Device("this machine"),
        confidence=sure,
    )


def dense_in_turns(large: float, small: float) -> StartingState:
    """The dense models' latencies, measured in turns."""
    found = {"large": cost_of(large, 1.0, macs=56), "small": cost_of(small, 1.0, macs=56)}
    return StartingState(dense=found)


def timed(whole: RunFolder, name: str, latencies: Mapping[int, tuple[float, float]]) -> None:
    """Give the models of a run latencies, each with its ratio to the dense model."""
    run = whole.starting_model(name)
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    records = tuple(
        replace(record, measured=cost_of(*latencies[record.number])) for record in run.records()
    )
    for record in records:
        run.append(record)
    run.save_front(FrontReport(ParetoFront(objectives, records, (0.1, 20.0), "measured")))


def members(whole: RunFolder) -> list[str]:
    joint = JointFront.read(whole)
    return [joint.named(record) for record in joint.front.members]


def test_a_latency_keeps_its_ratio_to_the_dense_model() -> None:
    found = beside(cost_of(3.0, 0.5), cost_of(8.0, 1.0))
    assert (found.latency_ms, found.latency_p95_ms) == (4.0, 8.0)
    assert found.confidence is not None
    assert found.confidence.ci_ms == pytest.approx((3.6, 4.4))
    assert found.confidence.ratio == 0.5
    unknown = Cost(macs=7)
    assert beside(unknown, cost_of(8.0, 1.0)) == unknown
    assert beside(cost_of(3.0, 0.5), unknown) == cost_of(3.0, 0.5)


def test_latencies_of_other_times_are_compared_by_dense_models_in_turns(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    timed(whole, "large", {0: (4.0, 0.4), 1: (2.0, 0.2)})  # dense took 10 ms
    timed(whole, "small", {0: (6.0, 1.0), 1: (3.0, 0.5)})  # dense took 6 ms, beside other work
    assert members(whole) == ["large, trial 1", "small, trial 1", "large, trial 0"]
    whole.save_starting(dense_in_turns(large=10.0, small=2.0))
    joint = JointFront.read(whole)
    found = {joint.named(r): r.measured.latency_ms for r in joint.front.members if r.measured}
    assert found == {"small, trial 1": 1.0, "small, trial 0": 2.0, "large, trial 0": 4.0}
    assert joint.dense("small").measured == cost_of(2.0, 1.0, macs=56)


def test_baselines_are_compared_likewise_and_only_those_off_the_front(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    timed(whole, "large", {0: (4.0, 0.4), 1: (2.0, 0.2)})
    timed(whole, "small", {0: (6.0, 1.0), 1: (3.0, 0.5)})
    small = whole.starting_model("small")
    member = replace(small.records()[1], origin="seed:uniform-0")
    small.append(member)
    narrow = replace(member, number=-1, origin="baseline:smaller narrow")
    small.save_smaller([narrow])
    whole.save_starting(dense_in_turns(large=10.0, small=2.0))
    found = JointFront.read(whole).baselines
    assert [record.title for record in found["small"]] == ["narrow"]  # the uniform one is a member
    assert found["small"][0].measured == cost_of(1.0, 0.5)  # 3 ms of a dense model that took 6
    assert found["large"] == ()


def test_what_is_over_the_budget_beside_the_first_dense_model_is_left_out(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.95, 0.5))
    limited = {**whole.config.to_dict(), "budget": {"latency_ms": "30%"}}
    whole.save_config(RunConfig.from_dict(limited, resolved=True))
    timed(whole, "large", {0: (2.9, 0.29), 1: (2.0, 0.2)})
    timed(whole, "small", {0: (2.5, 0.5), 1: (2.0, 0.4)})
    assert "small, trial 0" in members(whole)
    whole.save_starting(dense_in_turns(large=10.0, small=7.0))  # 3.5 ms then, of 3 ms allowed
    assert members(whole) == ["large, trial 1", "small, trial 1", "large, trial 0"]
    (note,) = JointFront.read(whole).notes
    assert note == (
        "small, trial 0 is 17 % over the limit on latency_ms beside the first dense model"
    )


def test_a_front_that_was_not_measured_is_noted(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    run = whole.starting_model("small")
    run.save_front(replace(run.front(), not_measured="the device is lost"))
    notes = JointFront.read(whole).notes
    assert notes == ("the front of small could not be measured: the device is lost",)


def test_equal_models_of_two_runs_can_be_picked(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.5), small=(0.9, 0.5)))
    assert joint.pick("accuracy>=0.4, min params")[1].number == 1


def test_a_run_must_not_be_a_link(tmp_path: Path) -> None:
    whole = make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))
    place = whole.starting_model("small").path
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="starts/small must not be a link"):
        JointFront.read(whole)


def test_one_starting_model_has_no_joint_front(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has one starting model"):
        JointFront.read(small_run.make(tmp_path))
