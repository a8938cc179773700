import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_records import folder as folder
from small_records import record
from test_quantization import REPORT
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.store import (
    RetrainingSummary,
    RunFolder,
    Spread,
    recipe_of,
    write_quantization,
)


def test_a_run_is_found_again(folder: RunFolder) -> None:
    again = RunFolder.open(folder.path)
    assert (again.config.task, again.environment) == ("digits", {"torch": "2"})
    assert str(again.config.budget) == "macs <= 0.5 x dense"
    assert again.records() == ()


def test_the_output_is_where_the_run_lies(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"task": "digits", "budget": {"macs": "50%"}, "output": "results/a"}
    run = RunFolder.create(Path("results/a"), content, {})
    assert run.config.output == str(tmp_path / "results" / "a")
    run.path.rename(tmp_path / "moved")
    assert RunFolder.open(tmp_path / "moved").config.output == str(tmp_path / "moved")


def test_a_folder_with_another_run_is_refused_and_untouched(folder: RunFolder) -> None:
    before = (folder.path / "config.yaml").read_text()
    with pytest.raises(StoreError, match="holds another run"):
        RunFolder.create(folder.path, {"task": "other"}, {})
    assert (folder.path / "config.yaml").read_text() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="is not empty"):
        RunFolder.create(tmp_path, {}, {})


def test_what_is_no_run_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a run folder"):
        RunFolder.open(tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")


def test_a_half_written_record_is_left_out_and_cut_off_by_the_next_writer(
    folder: RunFolder,
) -> None:
    folder.append(record(0))
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"number": 1, "sta')
    assert folder.records() == (record(0),)
    with folder.writing():
        folder.append(record(1))
    assert folder.records() == (record(0), record(1))


def test_two_writers_are_refused_and_a_dead_one_leaves_no_lock(folder: RunFolder) -> None:
    code = (
        "import sys, time; from autoprune.store import RunFolder\n"
        "with RunFolder.open(sys.argv[1]).writing():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="being written by another process"), folder.writing():
            pass
        other.kill()
    with folder.writing():
        folder.append(record(0))


def test_a_dropped_model_is_gone_and_the_record_says_so(folder: RunFolder) -> None:
    recipe = recipe_of(Candidate(Architecture()), {}, task="digits")
    kept = record(0, artifact=folder.save_model(0, nn.Linear(2, 2), recipe))
    folder.append(kept)
    folder.drop_model(kept)
    assert folder.records()[0].artifact is None
    assert not (folder.path / "models" / "0").exists()


def test_what_was_quantized_is_told_apart_by_model(folder: RunFolder) -> None:
    kept = record(0, artifact="models/0")
    retrained = folder.retraining(0)
    for place in (folder.path / "models" / "0", retrained.seed_folder(4)):
        place.mkdir(parents=True)
    assert folder.quantizations(kept) == {}
    write_quantization(folder.path / "models" / "0", REPORT)
    write_quantization(retrained.seed_folder(4), replace(REPORT, sha256="cd"))
    assert folder.quantizations(kept) == {"trial 0": REPORT}  # the retraining has not ended
    summary = RetrainingSummary(0, kept.candidate, 2.0, (4,), {"accuracy": Spread(0.9)})
    retrained.save_summary(summary)
    assert {name: report.sha256 for name, report in folder.quantizations(kept).items()} == {
        "trial 0": REPORT.sha256,
        "trial 0, retrained seed 4": "cd",
    }
    assert list(folder.quantizations(replace(kept, artifact=None))) == ["trial 0, retrained seed 4"]
