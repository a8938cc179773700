"""What is damaged is set aside, what was left half done is removed; records are never touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_damage import FILES, RECORD, recipe
from test_damage import run as run
from torch import nn

from autoprune.errors import StoreError
from autoprune.store import GroupInfo, Groups, RunFolder, mend


@pytest.fixture
def whole(run: RunFolder) -> RunFolder:
    """The same with the model of its record."""
    run.save_model(3, nn.Linear(2, 2), recipe())
    return run


def damaged(run: RunFolder) -> set[str]:
    return {path.name for path in (run.path / "damaged").glob("*")}


@pytest.mark.parametrize("file", [*FILES[1:], "sensitivity.json", "smaller.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_a_damaged_file_is_set_aside_whole(
    whole: RunFolder, file: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = (whole.path / "records.jsonl").read_bytes()
    (whole.path / file).write_bytes(content)
    mend(whole, [""])
    assert damaged(whole) == {f"{file}.0"}
    assert (whole.path / "damaged" / f"{file}.0").read_bytes() == content
    assert file in caplog.text
    assert (whole.path / "records.jsonl").read_bytes() == before


def test_a_second_damaged_file_does_not_replace_the_first(whole: RunFolder) -> None:
    for content in ("one", "two"):
        (whole.path / "state.json").write_text(content)
        mend(whole, [""])
    kept = [(whole.path / "damaged" / f"state.json.{n}").read_text() for n in (0, 1)]
    assert kept == ["one", "two"]


@pytest.mark.parametrize("file", ["config.yaml", "records.jsonl"])
def test_what_nothing_can_stand_in_for_is_refused(whole: RunFolder, file: str) -> None:
    (whole.path / file).write_bytes(b"{\n")
    with pytest.raises(StoreError, match=file):
        mend(whole, whole.config.targets)
    assert damaged(whole) == set()


def test_groups_of_another_model_are_set_aside(whole: RunFolder) -> None:
    whole.save_groups(Groups((GroupInfo("conv", "channel", 1),)))
    mend(whole, [""])
    assert damaged(whole) == {"groups.json.0"}


def test_a_front_that_names_unknown_trials_is_set_aside(whole: RunFolder) -> None:
    text = (whole.path / "front.json").read_text()
    (whole.path / "front.json").write_text(text.replace('"number": 3', '"number": 8'))
    mend(whole, [""])
    assert damaged(whole) == {"front.json.0"}


def test_what_is_whole_stays(whole: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    mend(whole, [""])
    assert {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")} == before


def test_drafts_and_models_without_a_record_are_removed(whole: RunFolder, tmp_path: Path) -> None:
    whole.save_model(7, nn.Linear(2, 2), recipe())
    (whole.path / "models" / ".9.abcd1234").mkdir()
    (whole.path / ".dense.json.abcd1234").write_text("half")
    (whole.path / "tune").mkdir()
    kept = [whole.path / "models" / "notes", whole.path / ".notes"]
    for mine in kept:
        mine.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (whole.path / "models" / "8").symlink_to(tmp_path / "elsewhere")
    mend(whole, [""])
    names = {path.name for path in (whole.path / "models").iterdir()}
    assert names == {"3", "8", "notes"}
    assert not (whole.path / ".dense.json.abcd1234").exists()
    assert not (whole.path / "tune").exists()
    assert (tmp_path / "elsewhere").is_dir()
    assert all(mine.is_dir() for mine in kept)


def test_a_record_whose_model_is_lost_has_none(run: RunFolder) -> None:
    assert RECORD.artifact is not None
    mend(run, [""])
    assert [(r.number, r.artifact) for r in run.records()] == [(3, None)]


def test_a_folder_is_held_before_the_run_is_made_and_gone_if_it_is_not(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "run"
    with RunFolder.claim(place):
        with pytest.raises(StoreError, match="is being written by another process"):
            RunFolder.claim(place).__enter__()
        assert place.is_dir()
    assert not (tmp_path / "deep").exists()
    with RunFolder.claim(place):
        RunFolder.create(place, {"task": "digits", "budget": {"macs": "50%"}}, {})
    assert RunFolder.is_run(place)
    with pytest.raises(StoreError, match="holds another run"), RunFolder.claim(place):
        pass


def test_models_of_smaller_dense_ones_stay_and_their_drafts_do_not(whole: RunFolder) -> None:
    whole.save_model("smaller-net-20", nn.Linear(2, 2), recipe())
    (whole.path / "models" / ".smaller-net-20.abcd1234").mkdir()
    (whole.path / ".smaller.json.abcd1234").write_text("half")
    mend(whole, [""])
    assert {path.name for path in (whole.path / "models").iterdir()} == {"3", "smaller-net-20"}
    assert not (whole.path / ".smaller.json.abcd1234").exists()
