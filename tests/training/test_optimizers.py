from __future__ import annotations

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import TaskError
from autoprune.graph import trace
from autoprune.training import RecoveryRun
from autoprune.training.optimizers import (
    Optimization,
    built_in,
    has_attention,
    optimizer_for,
    rate_share,
)


@pytest.mark.parametrize(("name", "cls"), [("sgd", SGD), ("adamw", AdamW)])
def test_only_matrices_decay(name: str, cls: type[Optimizer]) -> None:
    model = Stripes().build_model()
    optimizer = built_in(model, name, 0.1, 0.25)
    assert type(optimizer) is cls
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert found["0.weight"] == found["9.weight"] == 0.25
    assert found["1.weight"] == found["1.bias"] == found["9.bias"] == 0.0


def test_frozen_parameters_are_not_trained() -> None:
    model = Stripes().build_model()
    model[0].weight.requires_grad_(False)
    optimizer = built_in(model, "sgd", 0.1, 0.0)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model[0].weight) not in trained
    assert len(trained) == 7


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_the_rate_is_positive_reaches_its_peak_and_falls(total: int, warmup: float) -> None:
    rates = [rate_share(step, total, warmup) for step in range(total)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert peak == max(1, round(warmup * total)) - 1
    assert min(rates) > 0.0
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


class Attention(nn.Module):
    """One head of attention, written out or by PyTorch's function."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, 2)[..., :6]).chunk(3, -1)
        if self.fused:
            out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            out = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.head(out.mean(1))


class Gate(nn.Module):
    """A softmax without attention: at the end, or as weights of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x[:, 0, 0])
        return self.two(hidden * hidden.softmax(-1)).softmax(-1)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_seen_and_trained_with_adamw(fused: bool) -> None:
    model, x = Attention(fused).eval(), torch.zeros(1, 1, 8, 8)
    graph = trace(model, x)
    assert has_attention(graph)
    run = RecoveryRun(Stripes(), model, graph, Candidate(Architecture()), epochs=1, seed=0)
    run.advance(0.1)
    assert run.optimizer == "AdamW"
    assert run._optimization.peak == 0.0003


def test_a_model_without_attention_is_trained_with_sgd() -> None:
    model, graph = dense()
    assert not has_attention(graph)
    assert not has_attention(trace(Gate().eval(), torch.zeros(1, 1, 8, 8)))
    assert optimizer_for(Stripes(), model, graph) == "sgd"


class Own(Stripes):
    """Two parameter groups, the head ten times as fast, and a rate that halves at each step."""

    def configure_optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
        groups = [{"params": model[:9].parameters()}, {"params": model[9].parameters()}]
        groups[1]["lr"] = 10 * lr
        return AdamW(groups, lr=lr, betas=(0.8, 0.9), weight_decay=weight_decay)

    def configure_schedule(self, optimizer: Optimizer, steps: int, warmup: float) -> LRScheduler:
        self.seen = steps, warmup
        return StepLR(optimizer, 1, gamma=0.5)


def test_a_tasks_own_optimizer_and_schedule_are_used() -> None:
    (model, graph), task = dense(), Own()
    recovery = Recovery(lr=0.04, weight_decay=0.3, warmup=0.2)
    run = RecoveryRun(
        task, model, graph, Candidate(Architecture(), recovery=recovery), epochs=1, seed=0
    )
    assert run.optimizer == ""
    rates = [run.advance(1 / 6)["lr"] for _ in range(3)]
    assert run.optimizer == "AdamW"
    assert rates == pytest.approx([0.4, 0.2, 0.1])
    groups = run._optimization.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.005, 0.05])
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]
    assert task.seen == (6, 0.2)


def test_a_named_optimizer_is_used_in_the_place_of_the_tasks() -> None:
    model, graph = dense()
    candidate = Candidate(Architecture(), recovery=Recovery(optimizer="sgd"))
    run = RecoveryRun(Own(), model, graph, candidate, epochs=1, seed=0)
    run.build()
    assert run.optimizer == "SGD"


def one_step(grad_clip: float) -> float:
    """How far one step of SGD without momentum at rate 1 moves weights of gradient (30, 40)."""

    class Plain(Stripes):
        def configure_optimizers(self, model: nn.Module, lr: float, decay: float) -> Optimizer:
            return SGD(model.parameters(), lr=lr)

    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    recovery = Recovery(1.0, optimizer="task", weight_decay=0.0, grad_clip=grad_clip)
    Optimization(Plain(), model, recovery, 1).step(
        (model.weight * torch.tensor([30.0, 40.0])).sum()
    )
    return (model.weight - before).norm().item()


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    assert one_step(0.0) == pytest.approx(50.0)
    assert one_step(100.0) == pytest.approx(50.0)
    assert one_step(5.0) == pytest.approx(5.0, rel=1e-4)


def test_what_a_task_configures_must_fit() -> None:
    model, recovery = Stripes().build_model(), Recovery(optimizer="task").resolved("task")

    class Others(Stripes):
        def configure_optimizers(self, model: nn.Module, lr: float, decay: float) -> Optimizer:
            return SGD(nn.Linear(1, 1).parameters(), lr=lr)

    class Metric(Own):
        def configure_schedule(self, optimizer: Optimizer, steps: int, warmup: float) -> object:
            return ReduceLROnPlateau(optimizer)

    with pytest.raises(TaskError, match=r"must return a torch optimizer .* got NoneType"):
        Optimization(Stripes(), model, recovery, 1)
    with pytest.raises(TaskError, match=r"must take the parameters of the model .* got 2 others"):
        Optimization(Others(), model, recovery, 1)
    with pytest.raises(TaskError, match="stepped without a metric, got ReduceLROnPlateau"):
        Optimization(Metric(), model, recovery, 1)


def test_an_optimizer_that_cannot_train_is_found_when_it_is_chosen() -> None:
    model = Stripes().build_model()
    graph = trace(model, Stripes().example_input())

    class Closure(Stripes):
        def configure_optimizers(self, model: nn.Module, lr: float, decay: float) -> Optimizer:
            return LBFGS(model.parameters(), lr=lr)

    class Pair(Stripes):
        def configure_optimizers(self, model: nn.Module, lr: float, decay: float) -> object:
            return {"optimizer": SGD(model.parameters(), lr=lr)}

    with pytest.raises(TaskError, match="steps without a closure, got LBFGS"):
        optimizer_for(Closure(), model, graph)
    with pytest.raises(TaskError, match=r"must return a torch optimizer .* got dict"):
        optimizer_for(Pair(), model, graph)
