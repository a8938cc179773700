from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stripes import Stripes, dense

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.schedule import Schedule
from autoprune.training import Precision, RecoveryRun, choose

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CHOSEN = Candidate.planned(
    Architecture({"0": 8, "3": 8}),
    {"0": 16, "3": 16},
    schedule=Schedule("linear", 0.0, 0.5, 3),
    selection=Selection("obs"),
    recovery=Recovery(lr=0.05, distillation=0.5, regularizer=0.5),
)


def run_on(device: str, chosen: Candidate = CHOSEN, **options: object) -> RecoveryRun:
    model, graph = dense()
    return RecoveryRun(
        Stripes(), model, graph, chosen, **{"epochs": 2, "seed": 0, "device": device, **options}
    )


@pytest.mark.parametrize("importance", ["l2", "taylor", "obs"])
def test_the_same_code_trains_on_cuda(importance: str) -> None:
    run = run_on("cuda", replace(CHOSEN, importance=importance))
    entry = run.advance(2)
    assert run.finished
    assert next(run.model.parameters()).is_cuda
    assert entry["accuracy"] > 0.5
    assert run.result()[0].weight.shape == (8, 1, 3, 3)
    assert not next(run.result().parameters()).is_cuda


def test_the_same_units_leave_first_on_both_devices() -> None:
    cpu, cuda = run_on("cpu"), run_on("cuda")
    cpu.build()
    cuda.build()
    assert cpu.kept_indices == cuda.kept_indices
    expected, found = cpu.model.state_dict(), cuda.model.state_dict()
    assert all(torch.allclose(expected[n], found[n].cpu(), atol=1e-3) for n in expected)


def test_a_run_on_cuda_is_resumed(tmp_path: Path) -> None:
    whole, first, second = run_on("cuda"), run_on("cuda"), run_on("cuda")
    whole.advance(0.7)
    whole.advance(2)
    first.advance(0.7)
    first.save(tmp_path)
    second.restore(tmp_path)
    second.advance(2)
    assert second.kept_indices == whole.kept_indices
    expected, found = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.allclose(expected[n], found[n], atol=1e-3) for n in expected)


def test_bf16_and_channels_last_on_cuda() -> None:
    run = run_on("cuda", precision=Precision(True, True))
    assert run.advance(2)["accuracy"] > 0.5
    assert isinstance(choose(Stripes(), dense()[0], "cuda", steps=1), Precision)
