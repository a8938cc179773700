"""The cache folder: found, or refused in one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import TaskError
from autoprune.tasks import folders


def test_a_cache_that_cannot_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TaskError, match=r"cannot be written .* set the environment variable AUTO"):
        folders.check_writable(tmp_path / "file" / "dense")
    folders.check_writable(tmp_path / "new" / "dense")
    assert list((tmp_path / "new" / "dense").iterdir()) == []


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("AUTOPRUNE_CACHE", raising=False)
    monkeypatch.setattr(folders.Path, "home", no_home)
    with pytest.raises(TaskError, match=r"no home folder · set .* AUTOPRUNE_CACHE"):
        folders.cache_folder()
