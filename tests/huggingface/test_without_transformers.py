"""What `load_hf` says where transformers cannot be imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import autoprune
from autoprune.errors import UsageError


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    monkeypatch.setitem(sys.modules, "transformers", None)  # its import fails
    with pytest.raises(UsageError, match=r"load_hf needs transformers: .*pip install 'autoprune"):
        autoprune.load_hf(tmp_path)
