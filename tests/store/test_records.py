"""`records.jsonl` and the table of the same."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from small_records import folder as folder
from small_records import record

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import StoreError
from autoprune.store import GroupInfo, Groups, RunFolder, records
from autoprune.store.records import csv_text


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


def test_a_damaged_line_is_named(folder: RunFolder) -> None:
    folder.append(record(0))
    with (folder.path / "records.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(StoreError, match=r"records.jsonl:2 is damaged"):
        folder.records()


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


def test_records_are_appended_a_line_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    for number in (3, 1):
        records.append(file, record(number))
    assert file.read_bytes().count(b"\n") == 2
    assert records.read(file) == (record(1), record(3))
    assert records.read(tmp_path / "none.jsonl") == ()


@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"half", b"")],
)
def test_a_half_line_is_cut_off(tmp_path: Path, content: bytes, left: bytes) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(content)
    records.cut_half_line(file)
    assert file.read_bytes() == left
    records.cut_half_line(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        records.append(tmp_path / "none" / "records.jsonl", record(0))
    file = tmp_path / "none" / "records.jsonl"
    assert str(caught.value) == f"{file} cannot be written: No such file or directory"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "done"}, "state: must be 'complete', 'stopped', 'infeasible' or 'failed'"),
        ({"number": -1}, "number: "),
        ({"artifact": "other/3"}, "artifact: must lie inside models/ of the run, got 'other/3'"),
        ({"epochs": "many"}, "epochs: "),
        ({"candidate": {}}, "candidate: architecture is missing, got {}"),
        ({"history": [{"loss": "x"}]}, "history.0.loss: "),
    ],
)
def test_a_line_with_a_wrong_value_is_named(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    file = tmp_path / "records.jsonl"
    records.append(file, record(0))
    with file.open("a") as out:
        out.write(json.dumps({**record(1).to_dict(), **change}) + "\n")
    with pytest.raises(StoreError) as caught:
        records.read(file)
    assert str(caught.value).startswith(f"{file}:2 is damaged: {says}")
    assert str(caught.value).endswith(" · remove that line")


def test_a_row_has_every_number_in_its_own_column() -> None:
    made = Candidate(
        Architecture({"a": 6}, ["body", "tail"], {"w": "2:4"}, "int8"),
        recovery=Recovery(0.05, optimizer="sgd"),
    )
    one = replace(
        record(4, history=({"epoch": 1.0}, {"epoch": 2.0, "file_bytes": 900.0})), candidate=made
    )
    (row,) = records.rows([one], {"a": 8, "gone": 4})
    expected = {
        "number": 4,
        "origin": "tpe",
        "metric.accuracy": 0.9,
        "predicted.macs": 100,
        "predicted.latency_ms": None,
        "measured.macs": None,
        "device": None,
        "measured.noise": None,
        "time.train_s": 1.5,
        "importance": "l2",
        "repair": True,
        "schedule.kind": "one_shot",
        "recovery.lr": 0.05,
        "dropped": "body tail",
        "precision": "int8",
        "pattern.w": "2:4",
        "file_bytes": 900.0,
        "ratio.a": 0.25,
        "error": None,
        "key": made.key,
    }
    assert {name: row[name] for name in expected} == expected
    (without,) = records.rows([one], {})
    assert not [name for name in without if name.startswith("ratio.")]


def test_the_columns_of_the_table_are_those_of_all_rows() -> None:
    two = [record(0), record(1, metrics={"wer": 0.5}, error='bad, "worse"\nand more')]
    header, *lines = csv_text(two, {}).splitlines()
    assert header.startswith("number,state,origin,seed,epochs,optimizer,metric.accuracy,")
    assert header.endswith("metric.wer")
    table = pd.read_csv(StringIO(csv_text(two, {})))
    assert len(lines) == 2
    assert list(table["error"].fillna("")) == ["", 'bad, "worse"']
    assert csv_text([], {}) == "number,state,origin,seed,epochs,optimizer\n"
