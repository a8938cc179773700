"""The compiled operations that oneDNN keeps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import autoprune
from autoprune.tasks import load_dense
from autoprune.tasks.primitives import VARIABLE, capacity_for, limit_kept_operations

BATCHES = [(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))]

# one convolution, then as many others as are named, then the first one again
PROGRAM = """
import sys
import torch
from torch import nn
from autoprune.tasks.primitives import limit_kept_operations

limit_kept_operations(nn.Conv2d(1, 1, 3))
with torch.no_grad():
    for width in [1, *range(2, int(sys.argv[1]) + 2), 1]:
        torch.nn.functional.conv2d(torch.zeros(32, 8, 9, 9), torch.zeros(8 * width, 8, 3, 3))
"""


def layers(count: int) -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(count)])


@pytest.mark.parametrize(("count", "kept"), [(0, 128), (5, 128), (30, 360), (200, 1024)])
def test_the_capacity_follows_the_number_of_layers(count: int, kept: int) -> None:
    assert capacity_for(layers(count)) == kept


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "7")
    limit_kept_operations(layers(30))
    assert os.environ[VARIABLE] == "7"


def test_a_dense_model_that_is_loaded_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    load_dense(autoprune.wrap(layers(20), BATCHES, BATCHES))
    assert os.environ[VARIABLE] == "240"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize(("others", "again"), [(20, "cache_hit"), (150, "cache_miss")])
def test_onednn_forgets_what_is_over_the_limit(others: int, again: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(others)],
        env={**variables, "ONEDNN_VERBOSE": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    made = [line for line in done.stdout.splitlines() if "create" in line and "convolution" in line]
    if not made:
        pytest.skip("convolutions of PyTorch do not go through oneDNN here")
    assert "cache_miss" in made[0]
    assert again in made[-1]
