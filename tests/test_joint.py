"""The joint front of runs from several starting models."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_run
from joint_run import CONFIG, make

import autoprune
from autoprune.errors import StoreError, UsageError
from autoprune.joint import JointFront, joined
from autoprune.pareto import Objective
from autoprune.store import RunFolder


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


def test_numbers_of_trials_need_the_run(tmp_path: Path) -> None:
    joint = JointFront.read(make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)))
    with pytest.raises(UsageError, match=r"numbered in each run · name one of .*starts/large"):
        joint.pick("trial=0")


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
    assert list(JointFront.read(whole).runs) == ["small"]


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
