import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.record import TrialRecord
from autoprune.store import GroupInfo, Groups, RunFolder, read_model, recipe_of


def record(number: int, **changes: object) -> TrialRecord:
    blank = TrialRecord(
        number,
        Candidate(Architecture({"conv1": 8, "conv2": 24})),
        "complete",
        seed=0,
        epochs=2.0,
        metrics={"accuracy": 0.9},
        predicted=Cost(params=10, macs=100),
        times={"train_s": 1.5},
        origin="tpe",
    )
    return replace(blank, **changes)  # type: ignore[arg-type]


CONFIG = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"torch": "2"})


def test_a_run_is_found_again(folder: RunFolder) -> None:
    again = RunFolder.open(folder.path)
    assert (again.config.task, again.environment) == ("digits", {"torch": "2"})
    assert str(again.config.budget) == "macs <= 0.5 x dense"
    assert again.records() == ()


def test_records_come_back_equal_and_in_order(folder: RunFolder) -> None:
    device = Device("cpu", "torch")
    written = (
        record(2, measured=Cost(params=9, latency_ms=1.5, source="measured", device=device)),
        record(0, state="failed", error="broke\nTraceback", predicted=None),
    )
    for one in written:
        folder.append(one)
    assert folder.records() == (written[1], written[0])


def test_of_two_records_with_one_number_the_later_counts(folder: RunFolder) -> None:
    folder.append(record(0))
    folder.append(record(0, artifact="models/0"))
    assert folder.records() == (record(0, artifact="models/0"),)


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


def test_a_damaged_line_is_named(folder: RunFolder) -> None:
    folder.append(record(0))
    with (folder.path / "records.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(StoreError, match=r"records.jsonl:2 is damaged"):
        folder.records()


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


def test_a_failed_write_leaves_the_old_file_and_no_rest(folder: RunFolder) -> None:
    folder.save_importances({"accuracy": {"lr": 1.0}})
    before = sorted(folder.path.iterdir())
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.save_importances({"accuracy": {"lr": float("nan")}})
    assert folder.importances() == {"accuracy": {"lr": 1.0}}
    assert sorted(folder.path.iterdir()) == before


def test_the_table_opens_in_pandas(folder: RunFolder) -> None:
    device = Device("my cpu", "onnxruntime", threads=2)
    sure = Confidence((1.4, 1.6), ratio=0.6, ratio_ci=(0.58, 0.62), spread=0.3)
    measured = Cost(params=9, latency_ms=1.5, source="measured", device=device, confidence=sure)
    folder.append(record(0, measured=measured))
    folder.append(record(1, state="failed", metrics={}, error="out of memory\nTraceback: ..."))
    groups = [GroupInfo("conv1", "channel", 16), GroupInfo("conv2", "channel", 32)]
    folder.save_groups(Groups(tuple(groups)))
    folder.write_csv()
    table = pd.read_csv(folder.path / "trials.csv")
    assert list(table["number"]) == [0, 1]
    assert list(table["state"]) == ["complete", "failed"]
    assert table["metric.accuracy"][0] == 0.9
    assert table["metric.accuracy"].isna()[1]
    assert (table["predicted.macs"][0], table["measured.latency_ms"][0]) == (100, 1.5)
    assert table["device"][0] == str(device)
    assert (table["measured.ratio_to_dense"][0], table["measured.noise"][0]) == (0.6, sure.note)
    assert table["measured.ratio_to_dense"].isna()[1]
    assert table["error"][1] == "out of memory"
    assert (table["ratio.conv1"][0], table["schedule.kind"][0]) == (0.5, "one_shot")


def test_an_empty_run_has_a_table_with_a_header(folder: RunFolder) -> None:
    assert "state" in folder.write_csv().read_text()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)


def test_a_saved_model_comes_back_whole_with_what_was_tied(folder: RunFolder) -> None:
    model = Tied()
    recipe = recipe_of(
        Candidate(Architecture({"a": 2})), {"a": (0, 2)}, task="digits", task_args={"n": 1}
    )
    artifact = folder.save_model(7, model, recipe)
    assert artifact == "models/7"
    again, state = read_model(folder.path / artifact)
    assert again.kept_indices == {"a": (0, 2)}
    assert (again.task, again.task_args) == ("digits", {"n": 1})
    assert again.candidate == Candidate(Architecture({"a": 2}))
    assert set(again.tied.items()) == {("out.weight", "embed.weight")}
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert Tied().load_state_dict(state, strict=True)
    assert [path.name for path in (folder.path / "models").iterdir()] == ["7"]


def test_a_dropped_model_is_gone_and_the_record_says_so(folder: RunFolder) -> None:
    recipe = recipe_of(Candidate(Architecture()), {}, task="digits")
    kept = record(0, artifact=folder.save_model(0, nn.Linear(2, 2), recipe))
    folder.append(kept)
    folder.drop_model(kept)
    assert folder.records()[0].artifact is None
    assert not (folder.path / "models" / "0").exists()


def test_what_is_no_model_is_named(folder: RunFolder) -> None:
    with pytest.raises(StoreError, match="holds no saved model"):
        read_model(folder.path)
    recipe = recipe_of(Candidate(Architecture()), {}, task="digits")
    path = folder.path / folder.save_model(0, nn.Linear(2, 2), recipe)
    (path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(StoreError, match=r"weights\.safetensors is not what candidate\.json was"):
        read_model(path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"weights\.safetensors cannot be read"):
        read_model(path)
    (path / "candidate.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="must have format 2, got 99"):
        read_model(path)


def test_the_table_has_a_column_for_each_device(folder: RunFolder) -> None:
    phone, server = Device("arm", batch=4), Device("x86")
    predicted = (Timing("phone", 8.0, 9.0, phone), Timing("server", 2.0, 2.5, server))
    measured = (Timing("server", 1.5, 1.75, server),)
    folder.append(
        record(
            0,
            predicted=Cost(macs=100, source="predicted", timings=predicted),
            measured=Cost(macs=100, source="measured", timings=measured),
        )
    )
    folder.append(record(1, state="infeasible", predicted=Cost(macs=900)))
    table = pd.read_csv(folder.write_csv())
    first = table.iloc[0]
    assert (first["predicted.latency_ms@phone"], first["measured.latency_ms@server"]) == (8.0, 1.5)
    assert pd.isna(first["measured.latency_ms@phone"])
    assert (first["device@phone"], first["device@server"]) == (str(phone), str(server))
    assert folder.records()[0].predicted.names == ("phone", "server")


def test_profiles_are_found_by_the_names_of_their_devices(folder: RunFolder) -> None:
    folder.save_profile("", {"error": 1})
    folder.save_profile("phone", {"error": 2})
    assert folder.profiles([""], dict) == {"": {"error": 1}}
    assert folder.profiles(["phone", "server"], dict) == {"phone": {"error": 2}}
