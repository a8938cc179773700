"""A search that can only meet its budget by dropping residual blocks."""

from pathlib import Path

import pytest
from deep_task import Deep

import autoprune
from autoprune.cost.analytic import count_cost
from autoprune.graph import trace
from autoprune.report.read import read

TASK = Path(__file__).parents[1] / "deep_task.py"
QUICK = {"rungs": 0, "concurrent": 1, "screen": 4, "calibration_samples": 64}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Result:
    return autoprune.search(
        f"{TASK}:Deep",
        budget={"macs": "30%"},
        space={"ratios": {"max": 0.25}, "depth": {"max": 0.9}},
        trials=5,
        epochs=0.5,
        **QUICK,
        output=tmp_path_factory.mktemp("deep") / "run",
    )


def test_every_model_has_lost_blocks_and_costs_what_was_predicted(found: autoprune.Result) -> None:
    complete = [record for record in found.records if record.state == "complete"]
    assert complete
    for record in complete:
        assert record.predicted is not None
        assert record.candidate.architecture.dropped
        model = autoprune.load(found.path, pick=f"trial={record.number}")
        counted = count_cost(model, Deep().example_input())
        assert (counted.macs, counted.params) == (record.predicted.macs, record.predicted.params)


def test_what_was_dropped_is_reported_and_exported(found: autoprune.Result, tmp_path: Path) -> None:
    best = found.pick("best")
    view = read(found.path)
    dropped = best.candidate.architecture.dropped
    assert view.dropped(best) == f"{', '.join(dropped)} ({len(dropped)} of 4)"
    done = autoprune.export(found.path, pick="best", output=tmp_path / "m.onnx")
    assert done.path.is_file()


def test_a_block_can_be_kept(tmp_path: Path) -> None:
    first = next(iter(trace(Deep().build_model(), Deep().example_input()).blocks)).name
    found = autoprune.search(
        f"{TASK}:Deep",
        budget={"macs": "60%"},
        space={"ratios": {"max": 0.7}},
        keep=[first],
        trials=3,
        epochs=0.25,
        **QUICK,
        output=tmp_path / "run",
    )
    complete = [record for record in found.records if record.state == "complete"]
    assert sum(record.is_counted for record in complete) == 3
    assert not any(first in record.candidate.architecture.dropped for record in complete)
    assert any(record.candidate.architecture.dropped for record in complete)


def test_a_model_with_blocks_is_searched_for_channels_alone(tmp_path: Path) -> None:
    found = autoprune.search(
        f"{TASK}:Deep",
        budget={"macs": "50%"},
        space={"ratios": {"max": 0.7}, "depth": False},
        trials=2,
        epochs=0.25,
        **QUICK,
        output=tmp_path / "run",
    )
    complete = [record for record in found.records if record.state == "complete"]
    assert sum(record.is_counted for record in complete) == 2
    assert not any(record.candidate.architecture.dropped for record in complete)
