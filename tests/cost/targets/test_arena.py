"""The arena's memory of a session, in a process of its own as it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.targets import arena

X = torch.zeros(1, 64)
MODEL = nn.Sequential(nn.Linear(64, 4096), nn.Sigmoid(), nn.Linear(4096, 16))


def test_a_run_needs_its_largest_activations_and_its_outputs(tmp_path: Path) -> None:
    written = to_onnx(MODEL, X)
    (tmp_path / "model.onnx").write_bytes(written.data)
    np.savez(tmp_path / "feed.npz", **written.feed(X))
    subprocess.run(
        [sys.executable, arena.__file__, str(tmp_path)],
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert json.loads((tmp_path / "arena.json").read_text()).keys() == {"run"}
    needed = json.loads((tmp_path / "arena.json").read_text())["run"]
    hidden, out = 4 * 4096, 4 * 16
    # the sigmoid may be written over its input, or beside it
    assert hidden + out <= needed <= 2 * hidden + 8 * out
    assert (tmp_path / "optimized.onnx").is_file()


def test_what_the_session_keeps_is_no_part_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "session.log").write_text(
        "Reserving memory in BFCArena for Cpu size: 100\n"
        "x\nReserving memory in BFCArena for Cpu size: 28\n"
    )
    (tmp_path / "run.log").write_text(
        "Total allocated bytes: 528\nTotal allocated bytes: 900\nTotal allocated bytes: 400\n"
    )
    assert arena._needed(tmp_path) == 900 - 128
    (tmp_path / "run.log").write_text("nothing was allocated\n")
    assert arena._needed(tmp_path) == 0
