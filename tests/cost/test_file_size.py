"""What is predicted of a packed file, against packing."""

from __future__ import annotations

import hashlib

import pytest
import stripes
import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.cost.file_size import MARGIN, FileSize
from autoprune.graph import trace
from autoprune.store import pack, recipe_of


def packed(model: nn.Module, sizes: dict[str, int], task: str) -> int:
    kept = {name: range(size) for name, size in sizes.items()}
    recipe = recipe_of(Candidate(Architecture.dense(sizes)), kept, task=task)
    return len(pack(recipe, model.state_dict()))


def test_the_dense_file_is_predicted_exactly() -> None:
    model, graph = stripes.dense()
    fitted = FileSize.of(model.state_dict(), graph, "stripes")
    raw = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert fitted.total(raw) == pytest.approx(packed(model, graph.sizes(), "stripes"))
    assert 0.0 < fitted.density <= 1.05
    assert fitted.fixed > 0


def test_a_longer_task_makes_a_longer_head() -> None:
    model, graph = stripes.dense()
    digits = hashlib.sha256(b"x").hexdigest()  # 64 of 4 bits, which nothing compresses
    short, long = (FileSize.of(model.state_dict(), graph, task) for task in ("", digits))
    assert long.density == short.density
    assert 32 <= long.fixed - short.fixed <= 64


def test_a_narrower_models_file_is_within_the_margin() -> None:
    torch.manual_seed(0)

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64))

    dense, small = net(128), net(48)
    x = torch.zeros(1, 64)
    fitted = FileSize.of(dense.state_dict(), trace(dense, x))
    raw = sum(t.numel() * 4 for t in small.state_dict().values())
    actual = packed(small, {"0": 48}, "")
    assert fitted.total(raw) == pytest.approx(actual, rel=MARGIN)


def test_the_share_of_a_pattern_is_its_values_and_where_they_are() -> None:
    fitted = FileSize(100.0, 0.5)
    # half of the values, and one bit a place (1.02 of its entropy): of 4 x 0.5 bytes
    assert fitted.share("0.5", (10, 8), 4.0) == pytest.approx(0.5 + 1.02 / 8.0 / 2.0)
    # two of four: 6 choices for four places
    bits = 2.584962500721156 / 4.0
    assert fitted.share("2:4", (10, 8), 4.0) == pytest.approx(0.5 + 1.02 * bits / 8.0 / 2.0)


def test_inputs_of_an_incomplete_group_are_kept() -> None:
    fitted = FileSize(0.0, 1e12)  # places cost nothing
    # 6 inputs: two of the first four, and the last two
    assert fitted.share("2:4", (10, 6), 4.0) == pytest.approx(4 / 6)
    assert fitted.share("0.25", (10,), 4.0) == pytest.approx(0.75)


def test_a_file_has_its_head_a_line_for_each_pattern_and_its_values() -> None:
    assert FileSize(100.0, 0.5).total(1000.0, 3) == 100.0 + 15.0 + 500.0
