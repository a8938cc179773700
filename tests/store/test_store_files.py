"""Single files: replaced in one step, damage said in one line."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.errors import ConfigError, StoreError, WorkError
from autoprune.store import RunFolder, files

CONFIG = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"torch": "2"})


def test_a_failed_write_leaves_the_old_file_and_no_rest(folder: RunFolder) -> None:
    folder.save_importances({"accuracy": {"lr": 1.0}})
    before = sorted(folder.path.iterdir())
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.save_importances({"accuracy": {"lr": float("nan")}})
    assert folder.importances() == {"accuracy": {"lr": 1.0}}
    assert sorted(folder.path.iterdir()) == before


def test_a_file_is_replaced_in_one_step_and_can_be_read_by_others(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    assert files.write_text(file, "ä") == file
    assert files.write_bytes(file, b"\x00b") == file
    assert file.read_bytes() == b"\x00b"
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            WorkError,
            "cannot be written: the disk is full · free some space and run the same command "
            "again, a search with: autoprune resume; what was finished is saved",
        ),
        (OSError(errno.EACCES, "Permission denied"), StoreError, "cannot be written: Perm"),
        (OSError("odd"), StoreError, "cannot be written: odd"),
    ],
)
def test_why_a_file_cannot_be_written(error: OSError, kind: type[Exception], says: str) -> None:
    found = files.unwritable(Path("a"), error)
    assert type(found) is kind
    assert str(found).startswith(f"a {says}")


def test_a_folder_in_place_of_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a" / "inside").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"/a cannot be written: Is a directory$"):
        files.write_text(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(-1e6, 1e6)
    | st.text("aä ", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.dictionaries(st.sampled_from(["a", "b", "c"]), PLAIN))
def test_json_comes_back_equal_and_without_its_checksum(tmp_path: Path, content: dict) -> None:
    file = files.write_json(tmp_path / "a.json", content)
    assert files.read_json(file) == content
    assert json.loads(file.read_text()).keys() == {*content, "crc32"}


def test_a_list_has_no_checksum(tmp_path: Path) -> None:
    file = files.write_json(tmp_path / "a.json", [1, 2])
    assert json.loads(file.read_text()) == files.read_json(file) == [1, 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "x is damaged: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": NaN}', "x is damaged: NaN is not a finite number"),
        ("[-Infinity]", "x is damaged: -Infinity is not a finite number"),
        ("[1e999]", "x is damaged: 1e999 is not a finite number"),
        ("[" * 100_000, "x is damaged: it is nested too deeply"),
        ('{"a": 1, "crc32": "00000000"}', "x is damaged: its checksum differs"),
    ],
)
def test_what_is_no_json_of_ours_is_one_line(text: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        files.parse_json(text, "x")
    assert str(caught.value) == says


def test_a_checksum_does_not_depend_on_the_order_of_keys() -> None:
    made = files.with_checksum({"a": 1, "b": {"c": 2, "d": 3}})
    turned = json.dumps({"b": {"d": 3, "c": 2}, "crc32": made["crc32"], "a": 1})
    assert files.parse_json(turned, "x") == {"a": 1, "b": {"c": 2, "d": 3}}


def test_control_characters_are_not_read() -> None:
    assert files.parse_json('{"a\\u001b[2J": "b\\u0007"}', "x") == {"a[2J": "b"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"/none\.json does not exist$"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    with pytest.raises(StoreError, match=r"/bytes\.json cannot be read: 'utf-8' codec"):
        files.read_json(tmp_path / "bytes.json")
    with pytest.raises(StoreError) as caught:
        files.read_json(tmp_path)
    assert str(caught.value) == f"{tmp_path} must be a regular file"


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 3


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts must not be empty")


def test_values_are_read_in_their_types() -> None:
    found = files.checked({"parts": [{"name": "a"}], "shares": {"x": 1}}, Whole, "f")
    assert found == Whole((Part("a"),), {"x": 1.0})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"parts": []}, "f is damaged: shares is missing"),
        ({"parts": [{}], "shares": {}}, "f is damaged: parts.0.name is missing"),
        (
            {"parts": [{"name": "a", "size": "b"}], "shares": {}},
            "f is damaged: parts.0.size: must be a valid integer, unable to parse string as an "
            "integer, got 'b'",
        ),
        ({"parts": [], "shares": {}}, "f is damaged: parts must not be empty"),
    ],
)
def test_what_does_not_fit_is_named_with_its_key(content: object, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        files.checked(content, Whole, "f")
    assert str(caught.value) == says


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(StoreError) as caught:
        files.checked("x" * 500, dict, "f")
    assert str(caught.value).endswith("'" + "x" * 79 + "…")
    assert len(str(caught.value)) < 150


class Told:
    def to_dict(self) -> dict[str, int]:
        return {"told": 1}


def test_values_become_plain() -> None:
    made = {"whole": Whole((Part("a"),), {"x": 0.5}), 3: (Told(), None)}
    assert files.plain(made) == {
        "whole": {"parts": [{"name": "a", "size": 3}], "shares": {"x": 0.5}},
        "3": [{"told": 1}, None],
    }
