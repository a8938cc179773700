"""What the doctor looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune import doctor


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))


def by_name(
    config: Path | None = None, flags: frozenset[str] | None = None
) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(config, look_s=0.0, flags=flags)}


def test_this_machine_can_be_used() -> None:
    found = by_name()
    assert found["torch"].state == "good"
    assert found["runtime onnxruntime"].state == "good"
    assert found["cache folder"].state == "good"
    assert not [check for check in found.values() if check.state == "bad"]


def test_a_folder_that_cannot_be_written_says_which_variable(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "ray"))
    check = by_name()["Ray's folder"]
    assert (check.state, check.remedy) == ("bad", "set RAY_TMPDIR to a folder that is")


@pytest.mark.parametrize(
    ("flags", "state"), [({"avx2", "avx512_vnni"}, "good"), ({"avx2"}, "info")]
)
def test_int8_instructions_are_told(flags: set[str], state: str) -> None:
    found = by_name(flags=frozenset(flags))
    assert found["int8"].state == state
    assert "avx2" in found["instructions"].text


def test_a_configuration_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text("task: none.py:Mine\nbudget: {macs: 50%}\ndevice: {runtime: torch}")
    found = by_name(file)
    assert found["configuration"].state == "good"
    assert "none.py does not exist" in found["task"].text
    assert found["device"].state == "good"
