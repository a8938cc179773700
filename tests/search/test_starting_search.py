"""A search from two dense models, with real trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from wide_stripes import WideStripes

import autoprune
from autoprune.starting_models import search_starting_models

TASK = Path(__file__).parents[1] / "wide_stripes.py"
STARTS = {"large": {"width": 32}, "small": {"width": 8}}


@pytest.mark.usefixtures("ray_session")
def test_real_searches_of_two_networks(tmp_path: Path) -> None:
    joint = search_starting_models(
        f"{TASK}:WideStripes",
        starting_models=STARTS,
        budget={"macs": "60%"},
        output=tmp_path / "run",
        trials=4,
        epochs=0.25,
        rungs=0,
        screen=0,
        concurrent=1,
        calibration_samples=60,
        baselines={"uniform": 0, "random": 0},
    )
    assert set(joint.runs) == set(STARTS)
    limit = 0.6 * joint.dense("large").predicted.get("macs")  # type: ignore[union-attr]
    for record in joint.front.members:
        run, same = joint.pick(f"macs<={record.predicted.macs}")  # type: ignore[union-attr]
        assert same.predicted.macs <= limit  # type: ignore[union-attr, operator]
        model = autoprune.load(run.path, pick=f"trial={same.number}", trust=True)
        assert model(WideStripes().example_input()).shape == (1, 3)
    assert sum(len(run.records()) for run in joint.runs.values()) == 4
