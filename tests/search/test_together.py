"""Dense models of several runs, measured in turns."""

from __future__ import annotations

from pathlib import Path

import joint_run
import pytest
import torch
from torch import Tensor
from wide_stripes import WideStripes

from autoprune._search.measuring import together
from autoprune._search.measuring.together import dense_together
from autoprune.budget import Device
from autoprune.errors import DeviceError, UsageError
from autoprune.joint import JointFront
from autoprune.store import RunFolder


def test_dense_models_take_turns(tmp_path: Path) -> None:
    runs = JointFront.read(joint_run.make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))).runs
    found = dense_together({"large": WideStripes(512), "small": WideStripes(8)}, runs)
    assert list(found) == ["large", "small"]
    large, small = found.values()
    assert large.source == "measured"
    assert large.confidence is not None
    assert large.confidence.ratio == 1.0
    assert small.confidence is not None
    assert small.confidence.ratio < 1.0
    assert (large.macs, small.macs) == tuple(36 * 9 * w + 3 * w for w in (512, 8))


def test_other_inputs_cannot_be_compared(tmp_path: Path) -> None:
    class Larger(WideStripes):
        def example_input(self) -> Tensor:
            return torch.zeros(1, 1, 9, 9)

    runs = JointFront.read(joint_run.make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))).runs
    message = r"inputs of small are \[\[1, 1, 9, 9\]\], those of large \[\[1, 1, 8, 8\]\]"
    with pytest.raises(UsageError, match=message):
        dense_together({"large": WideStripes(), "small": Larger()}, runs)


def test_without_a_device_in_reach_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = JointFront.read(joint_run.make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))).runs
    monkeypatch.setattr(RunFolder, "devices", lambda *_: {"": Device("a phone")})
    monkeypatch.setattr(together, "load_dense", None)  # refused before the models are there
    with pytest.raises(DeviceError, match=r"^a phone, .* cannot be measured from here"):
        dense_together({"large": WideStripes(8), "small": WideStripes(8)}, runs)
