"""Packed files are read again and compared bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune._export import packed
from autoprune._export.exported import Exported
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import ExportError
from autoprune.store import Recipe, read_packed

RECIPE = Recipe("digits", {}, Candidate(Architecture()), {})
STATE = {
    "weight": torch.tensor([[0.0, -0.0, float("nan")], [1.0, 0.0, 2.0]]),
    "steps": torch.tensor(3),
    "none": torch.empty(0, 2),
}


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    made = packed.export_packed(tmp_path / "m.packed", RECIPE, STATE)
    size = (tmp_path / "m.packed").stat().st_size
    assert made == Exported(tmp_path / "m.packed", "packed", "autoprune", 0.0, size)
    _, found = read_packed(tmp_path / "m.packed")
    assert found.keys() == STATE.keys()


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([[0.0, 0.0, float("nan")], [1.0, 0.0, 2.0]]),  # a zero without its sign
        STATE["weight"].T.contiguous(),
        STATE["weight"].double(),
    ],
    ids=["sign", "shape", "type"],
)
def test_a_single_bit_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: torch.Tensor
) -> None:
    monkeypatch.setattr(packed, "read_packed", lambda path: (RECIPE, {**STATE, "weight": other}))
    with pytest.raises(ExportError) as caught:
        packed.export_packed(tmp_path / "m.packed", RECIPE, STATE)
    assert str(caught.value) == (
        f"{tmp_path / 'm.packed'} does not hold the weights of the model: weight differs"
    )
