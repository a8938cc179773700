"""Zeros through training: held at every step, by schedule, with any optimizer, when resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.graph import Group
from autoprune.pruning.importance import Weights, unit_sums
from autoprune.pruning.weight_importance import SingleWeight
from autoprune.schedule import Schedule
from autoprune.training import RecoveryRun

STEP = 1 / 6  # epochs: one batch


def run_of(
    optimizer: str = "sgd", schedule: Schedule | None = None, importance: str = "l2", **rest: object
) -> RecoveryRun:
    model, graph = dense()
    chosen = Candidate.planned(
        Architecture({"0": 12, "3": 13}, patterns={"3.weight": "2:4", "9.weight": "0.75"}),
        graph.sizes(),
        selection=Selection(importance, repair=bool(rest.pop("repair", True))),
        schedule=schedule,
        recovery=Recovery(lr=0.02, distillation=0.0, optimizer=optimizer, **rest),
    )
    return RecoveryRun(Stripes(), model, graph, chosen, epochs=2, seed=3)


def zeros(run: RecoveryRun) -> dict[str, Tensor]:
    weights = dict(run.model.named_parameters())
    return {name: weights[name].detach() == 0.0 for name in ("3.weight", "9.weight")}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_are_exactly_zero_after_every_step_and_the_share_is_exact(optimizer: str) -> None:
    run = run_of(optimizer)
    run.advance(STEP)
    first = zeros(run)
    # 13 outputs, 12 inputs: two of four; 3 outputs, 13 inputs: 29.25 of 39
    assert int(first["3.weight"].sum()) == 13 * 6 * 9
    assert int(first["9.weight"].sum()) == 29
    while not run.finished:
        run.advance(STEP)
        assert all(torch.equal(first[name], found) for name, found in zeros(run).items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gradual_schedule_only_adds_zeros_while_channels_leave(optimizer: str) -> None:
    run = run_of(optimizer, Schedule("cubic", 0.0, 0.6, 3))
    counts = []
    while not run.finished:
        run.advance(STEP)
        counts.append([float(found.float().mean()) for found in zeros(run).values()])
    # 2:4 passes 3:4; 0.75 passes 19/27 of it, then 26/27
    assert [round(share, 2) for share, _ in counts[:3]] == [0.23] * 3
    assert counts[0][1] == pytest.approx(0.5278, abs=0.02)
    assert counts[5][1] == pytest.approx(0.7222, abs=0.02)
    assert counts[-1] == [0.5, pytest.approx(0.75, abs=0.01)]
    assert dict(run.model.named_parameters())["3.weight"].shape == (13, 12, 3, 3)


@pytest.mark.parametrize("importance", ["wanda", "obs", "taylor", "movement", "fpgm"])
def test_every_importance_chooses_zeros_without_repair_too(importance: str) -> None:
    run = run_of(importance=importance, repair=False)
    run.build()
    assert float(zeros(run)["3.weight"].float().mean()) == 0.5


@pytest.mark.parametrize("stop_at", [2, 7])
@pytest.mark.parametrize("penalty", ["group_lasso", "slimming"])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int, penalty: str) -> None:
    schedule = Schedule("cubic", 0.0, 0.6, 3)
    whole, first, second = (
        run_of("adamw", schedule, regularizer=0.5, penalty=penalty) for _ in range(3)
    )
    entries = [whole.advance(stop_at * STEP), whole.advance(2)]
    first.advance(stop_at * STEP)
    first.save(tmp_path)
    second.restore(tmp_path)
    second.advance(2)
    assert second.history == entries
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


class Own(Stripes):
    """A task with an importance and a regularizer of its own."""

    def importance(self, group: Group, weights: Weights) -> Tensor:
        made = (p for p in group.slices if p.role == "out" and p.tensor in weights.parameters)
        return sum(unit_sums(weights.parameters[p.tensor] ** 4, p) for p in made)

    def regularize(
        self, model: nn.Module, pruned_units: dict[str, list[int]], share: float
    ) -> None:
        for name, units in pruned_units.items():
            model.get_submodule(name).weight[units] *= 1.0 - share


class First(Own):
    """Of each row the first elements become zero."""

    def weight_importance(self, weight: SingleWeight) -> Tensor:
        return torch.arange(weight.weight.shape[1]).expand_as(weight.weight).float()


def test_a_task_chooses_its_own_zeros() -> None:
    model, graph = dense()
    chosen = Candidate(
        Architecture(patterns={"9.weight": "0.5"}),
        Selection("task", repair=False),
        recovery=Recovery(lr=0.01, optimizer="sgd", distillation=0.0),
    )
    run = RecoveryRun(First(), model, graph, chosen, epochs=1, seed=0)
    run.build()
    mask = zeros(run)["9.weight"]
    assert mask.shape == (3, 16)
    assert mask[:, :8].all()
    assert not mask[:, 8:].any()


def test_a_task_brings_its_own_importance_and_regularizer() -> None:
    model, graph = dense()
    chosen = Candidate(
        Architecture({"0": 8}),
        selection=Selection("task"),
        schedule=Schedule("one_shot", 0.75, 0.75),
        recovery=Recovery(lr=1e-6, regularizer=1.0, penalty="task"),
    )
    run = RecoveryRun(Own(), model, graph, chosen, epochs=2, seed=0)
    run.advance(8 * STEP)
    sizes = run.model[0].weight.detach().flatten(1).square().sum(1)
    before = model[0].weight.detach().flatten(1)
    order = (before**4).sum(1).argsort()
    shares = (sizes / before.square().sum(1)).sqrt()
    assert shares[order[:8]].tolist() == pytest.approx([(1 - 1 / 9) ** 8] * 8, rel=1e-2)
    assert shares[order[8:]].tolist() == pytest.approx([1.0] * 8, rel=1e-2)
    run.advance(2)
    assert run.kept_indices["0"] == tuple(sorted(order[8:].tolist()))


def test_slimming_takes_its_share_of_the_mean_scale_unless_the_loss_pulls_back() -> None:
    model, graph = dense()
    chosen = Candidate(
        Architecture({"0": 8}),
        selection=Selection("bn_scale"),
        schedule=Schedule("one_shot", 0.75, 0.75),
        recovery=Recovery(lr=1e-6, regularizer=0.5, penalty="slimming"),
    )
    run = RecoveryRun(Stripes(), model, graph, chosen, epochs=2, seed=0)
    run.advance(8 * STEP)  # of nine steps before the removal
    before, after = model[1].weight.detach(), run.model[1].weight.detach()
    expected = (before.abs() - 8 / 9 * 0.5 * before.abs().mean()).clamp_min(0.0)
    assert torch.allclose(after.abs(), expected, atol=1e-3)
