from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stripes import Stripes, dense
from torch import nn
from torch.optim import LBFGS, SGD, Adafactor, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import StoreError, TrainingError
from autoprune.schedule import Schedule
from autoprune.training import Precision, RecoveryRun, checkpoint

GRADUAL = Schedule("linear", begin=0.0, end=0.5, steps=3)  # 12 steps: prunes before 0, 3 and 6


def groups(model: nn.Module) -> list[dict[str, object]]:
    return [
        {"params": model[:9].parameters()},
        {"params": model[9].parameters(), "lr": 0.02, "weight_decay": 0.0},
    ]


class Configured(Stripes):
    make: Callable[[nn.Module, float], Optimizer]

    def configure_optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
        return type(self).make(model, lr)


class Plain(Configured):
    make = staticmethod(lambda model, lr: SGD(model.parameters(), lr=lr, momentum=0.9))


class Grouped(Configured):
    make = staticmethod(lambda model, lr: AdamW(groups(model), lr=lr, amsgrad=True))


class Factored(Configured):
    make = staticmethod(lambda model, lr: Adafactor(groups(model), lr=lr))


class Cyclic(Configured):
    """The schedule moves the learning rate and the first of AdamW's betas."""

    make = staticmethod(lambda model, lr: AdamW(model.parameters(), lr=lr))

    def configure_schedule(self, optimizer: Optimizer, steps: int, warmup: float) -> LRScheduler:
        return OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)


class Centered(Configured):
    make = staticmethod(lambda model, lr: RMSprop(model.parameters(), lr=lr, momentum=0.5))


def run_of(task: Stripes, **recovery: object) -> RecoveryRun:
    model, graph = dense()
    chosen = Candidate.planned(
        Architecture({"0": 8, "3": 8}),
        graph.sizes(),
        selection=Selection("l2", repair=False),
        schedule=GRADUAL,
        recovery=Recovery(**{"lr": 0.01, "distillation": 0.0, "grad_clip": 1.0, **recovery}),
    )
    options = {"precision": Precision(channels_last=True)}
    return RecoveryRun(task, model, graph, chosen, epochs=2, seed=3, **options)


@pytest.mark.parametrize("stop_at", [4, 7])
@pytest.mark.parametrize(
    ("task", "optimizer"),
    [
        (Stripes(), "sgd"),
        (Stripes(), "adamw"),
        (Plain(), "auto"),
        (Grouped(), "auto"),
        (Factored(), "auto"),
        (Cyclic(), "auto"),
        (Centered(), "auto"),
    ],
    ids=["sgd", "adamw", "plain", "grouped", "factored", "cyclic", "centered"],
)
def test_resumed_equals_uninterrupted(
    tmp_path: Path, task: Stripes, optimizer: str, stop_at: int
) -> None:
    whole, first, second = (run_of(task, optimizer=optimizer) for _ in range(3))
    entries = [whole.advance(stop_at / 6), whole.advance(2)]
    first.advance(stop_at / 6)
    first.save(tmp_path)
    second.restore(tmp_path)
    second.advance(2)
    assert second.history == entries
    found = second.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(found[name], tensor), name
    mine, theirs = (run._optimization.optimizer for run in (second, whole))
    assert len(mine.state) == len(theirs.state) > 0
    for one, other in zip(mine.param_groups, theirs.param_groups, strict=True):
        options = {name for name in other if name != "params"}
        assert {name: one[name] for name in options} == {name: other[name] for name in options}
    for one, other in zip(mine.state.values(), theirs.state.values(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)


def test_files_are_safetensors_and_json(tmp_path: Path) -> None:
    run = run_of(Grouped())
    run.advance(0.2)
    run.save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "weights.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "state.json",
    }
    written = json.loads((tmp_path / "optimizer.json").read_text())
    assert written["class"] == "AdamW"
    assert [group["weight_decay"] for group in written["groups"]] == [0.01, 0.0]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    run_of(Plain()).save(tmp_path)
    with pytest.raises(StoreError, match="its optimizer is SGD"):
        run_of(Grouped()).restore(tmp_path)


def test_state_that_is_no_tensor_or_number_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = LBFGS(model.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(TrainingError, match="the state of LBFGS must be tensors and numbers"):
        checkpoint.write(tmp_path, {}, {}, model, optimizer)
    assert not (tmp_path / "state.json").exists()
