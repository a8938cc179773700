"""The converter's own process, with a converter that only writes down what it was given."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost.targets import litert_convert


class Written:
    def __init__(self, shapes: list[list[int]]) -> None:
        self.shapes = shapes

    def export(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.shapes))


def convert(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    assert kwargs == {}
    return Written([list(args[0].shape), list(module(*args).shape)])


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("litert_torch")
    module.convert = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litert_torch", module)
    packages = {"litert_torch": ["litert-torch-nightly"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: packages)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2")


@pytest.mark.usefixtures("converter")
def test_every_program_is_converted_and_each_failure_is_named(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(4, 3),))
    torch.export.save(program, tmp_path / "0.pt2")
    (tmp_path / "1.pt2").write_bytes(b"no program")
    litert_convert.main(tmp_path)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert json.loads((tmp_path / "0.tflite").read_text()) == [[4, 3], [4, 2]]
    assert not (tmp_path / "1.tflite").exists()
    assert list(answer["errors"]) == ["1"]
    assert "\n" not in answer["errors"]["1"]
    assert answer["torch"] == torch.__version__
    assert answer["converter"] == "litert-torch-nightly 1.2"
