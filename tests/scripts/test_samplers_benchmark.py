"""The benchmark of samplers: what it replays, what all samplers begin with, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost.model import CostModel
from autoprune.graph import trace
from scripts.benchmarks.samplers import __main__ as samplers
from scripts.benchmarks.samplers import replay
from scripts.benchmarks.samplers.replay import Problem, Recorded


@pytest.fixture
def problem() -> Problem:
    """Two groups of 16; the accuracy falls with the units that are gone."""
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    costs = CostModel(trace(net, torch.zeros(1, 8)))
    return Problem("toy", costs, lambda it: 0.5 + sum(it.architecture.widths.values()) / 64)


def test_all_samplers_begin_with_the_same_candidates_within_the_budget(problem: Problem) -> None:
    found = {name: samplers.first(problem.plan(name, 3, 40)) for name in samplers.SAMPLERS}
    assert all(it == found["random"] for it in found.values())
    plan = problem.plan("random", 3, 40)
    assert len({it.candidate.key for it in found["random"]}) == samplers.FIRST
    assert all(plan.fits(it.candidate) for it in found["random"])
    assert samplers.first(problem.plan("random", 4, 40)) != found["random"]


def test_a_run_has_the_volume_after_10_20_and_40_trials(tmp_path: Path, problem: Problem) -> None:
    row = samplers.run(problem, "random", 0)
    points = samplers.play(problem.plan("random", 0, 40), problem, tmp_path / "run")
    assert len(points) == row["trials"] == 40
    by_hand = [(share, accuracy) for share, accuracy in points[:10] if accuracy > 0.5]
    edges = np.array(sorted(by_hand))
    best = np.maximum.accumulate(edges[:, 1])
    widths = np.diff([*edges[:, 0], 1.0])
    assert row["volume_10"] == pytest.approx(float(((best - 0.5) * widths).sum() / 0.5))
    assert row["volume_10"] <= row["volume_20"] <= row["volume_40"]


def line(widths: dict[str, int], *, repair: bool, state: str = "complete", lr: float = 0.03):
    made = Candidate(Architecture(widths), Selection("l2", repair=repair), recovery=Recovery(lr))
    text = json.dumps(made.to_dict())
    return {"task": "t", "state": state, "candidate": text, "method": "m", "seed": 0} | {
        "macs_share": 0.5,
        "val_accuracy": 0.75,
    }


def test_trials_of_one_recipe_without_repair_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = line({"b": 4, "a": 2}, repair=False)
    others = [
        line({"b": 1, "a": 1}, repair=True),
        line({"b": 1, "a": 1}, repair=False, state="stopped"),
        line({"b": 1, "a": 1}, repair=False, lr=0.01),
        {**kept, "task": "other"},
    ]
    pd.DataFrame([*others, kept]).to_csv(tmp_path / "trials.csv")
    monkeypatch.setattr(replay, "RECORDED", tmp_path / "trials.csv")
    found = Recorded.of("t")
    assert (found.groups, found.runs) == (("a", "b"), ("m 0",))
    assert found.rows == pytest.approx(np.log([[2.0, 4.0, 0.5]]))
    assert found.targets == pytest.approx(np.log([1.02 - 0.75]))


def test_what_is_left_beyond_the_cost_is_ranked() -> None:
    cost = np.linspace(-2.0, 0.0, 50)
    wave = np.sin(40.0 * cost)
    assert replay._rank(replay._beyond(cost, cost**3 + wave), wave) > 0.95
    assert np.abs(replay._beyond(cost, cost**3)).max() < 1e-9


def test_the_table_compares_equal_seeds() -> None:
    rows = [
        {"task": "t", "sampler": name, "seed": seed, "seconds": 1.0, "volume_10": 0.5}
        | {"volume_20": 0.5, "volume_40": volume + seed / 10}
        for name, volume in (("tpe", 0.1), ("front", 0.3))
        for seed in range(3)
    ]
    found = samplers.table(pd.DataFrame(rows)).splitlines()
    assert found[2].split(" | ")[1:2] == ["tpe"]
    assert found[3].split(" | ")[5:7] == ["0.4000 ± 0.2484", "0.2000 ± 0.0000"]
