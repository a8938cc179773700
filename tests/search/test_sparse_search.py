"""A search whose budget is the size of a file: patterns from the space to the report."""

import csv
from pathlib import Path

import pytest
from deep_task import Deep

import autoprune
from autoprune.candidate import Candidate
from autoprune.cli import main
from autoprune.errors import StoreError
from autoprune.patterns import overall
from autoprune.report.figures import ratios
from autoprune.report.html import page
from autoprune.report.read import read
from autoprune.store import pack, read_model

TASK = Path(__file__).parents[1] / "deep_task.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Result:
    return autoprune.search(
        f"{TASK}:Deep",
        budget={"file_bytes": "35%"},
        space={
            "ratios": {"max": 0.5},
            "depth": {"max": 0.5},
            "patterns": {"kinds": ["dense", "unstructured", "2:4"], "sparsity": {"max": 0.9}},
            "importance": ["obs", "wanda"],
            "schedule": {"kind": ["one_shot", "cubic"], "steps": 3},
            "recovery": {"optimizer": ["sgd", "adamw"]},
        },
        trials=8,
        epochs=1,
        rungs=0,
        concurrent=1,
        screen=8,
        calibration_samples=64,
        output=tmp_path_factory.mktemp("sparse") / "run",
    )


def complete(found: autoprune.Result) -> list[autoprune.TrialRecord]:
    return [record for record in found.records if record.state == "complete"]


def kept(found: autoprune.Result) -> list[autoprune.TrialRecord]:
    """Those whose models were not deleted: the front's, and the next best."""
    records = [record for record in complete(found) if record.artifact]
    assert len(records) > 1
    return records


def test_seeds_have_a_candidate_for_each_kind(found: autoprune.Result) -> None:
    by_origin = {record.origin: record.candidate.architecture for record in complete(found)}
    assert set(by_origin["seed:2:4-0"].patterns.values()) == {"2:4"}
    sparse = by_origin["seed:unstructured-0"]
    assert all(":" not in pattern for pattern in sparse.patterns.values())
    assert set(sparse.widths.values()) == {12}  # zeros alone suffice
    assert not sparse.dropped


def test_files_are_within_the_budget_and_near_the_prediction(found: autoprune.Result) -> None:
    assert found.front.members
    for record in kept(found):
        folder = found.path / str(record.artifact)
        true = len(pack(*read_model(folder)))
        assert record.history[-1]["file_bytes"] == true
        assert record.predicted is not None
        assert record.predicted.file_bytes == pytest.approx(true, rel=0.03, abs=300)
    for record in found.front.members:
        assert record.measured is not None
        assert record.measured.file_bytes == record.history[-1]["file_bytes"]


def test_weights_hold_their_zeros(found: autoprune.Result) -> None:
    plan = found.plan
    assert plan is not None
    for record in kept(found):
        patterns = record.candidate.architecture.patterns
        weights = dict(found.model(record).named_parameters())
        for name, pattern in patterns.items():
            share = float((weights[name] == 0).float().mean())
            if ":" not in pattern:
                assert share == pytest.approx(
                    float(pattern), abs=0.5 / weights[name].numel() + 1e-6
                )
            elif weights[name].shape[1] % 4 == 0:
                assert share == 0.5
        assert overall(plan.space.weights, patterns) < 0.95
        assert Candidate.from_dict(record.candidate.to_dict()).key == record.candidate.key


def test_table_and_report_show_them_and_say_that_it_is_no_faster(found: autoprune.Result) -> None:
    view = read(found.path)
    sparse = [record for record in view.members if record.candidate.architecture.patterns]
    assert sparse
    assert "% of all are zero" in view.patterns(sparse[0])
    text = page(view)
    assert "not the model faster" in text
    assert any(name.startswith("zeros in ") for name in ratios(view)["layout"]["yaxis"]["ticktext"])
    rows = list(csv.DictReader((found.path / "trials.csv").read_text().splitlines()))
    row = next(row for row in rows if int(row["number"]) == sparse[0].number)
    name, pattern = next(iter(sparse[0].candidate.architecture.patterns.items()))
    assert row[f"pattern.{name}"] == pattern
    assert float(row["file_bytes"]) == sparse[0].history[-1]["file_bytes"]


def test_a_packed_file_is_loaded_and_exported_like_its_folder(
    found: autoprune.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.packed"
    done = autoprune.export(found.path, pick="best", output=file)
    assert (done.format, done.size_bytes) == ("packed", file.stat().st_size)
    assert done.size_bytes == found.best().history[-1]["file_bytes"]
    task = Deep()
    one, other = autoprune.load(found.path, pick="best"), autoprune.load(file)
    assert task.evaluate(one, "val") == task.evaluate(other, "val")
    assert autoprune.export(file, format="onnx").path == tmp_path / "model.onnx"
    with pytest.raises(SystemExit, match="0"):
        main(["export", str(file), "-o", str(tmp_path / "again.packed")])
    assert "bit for bit" in capsys.readouterr().out
    assert (tmp_path / "again.packed").read_bytes() == file.read_bytes()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"small\.packed is damaged"):
        autoprune.load(file)


def test_patterns_without_a_use_for_them_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    autoprune.search(
        f"{TASK}:Deep",
        budget={"macs": "60%"},
        space={"patterns": {"kinds": ["2:4"]}},
        trials=1,
        epochs=0.2,
        rungs=0,
        concurrent=1,
        screen=0,
        output=tmp_path / "run",
    )
    assert "patterns lower file_bytes only" in caplog.text
