from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from stripes import Stripes, dense
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.schedule import Schedule
from autoprune.training import RecoveryRun
from autoprune.training.regularizer import GroupLasso, unit_norms

STAYS = {"0": tuple(range(4, 16))}  # units 0 to 3 of group "0" are about to leave


def lasso(model: nn.Module, graph: object, strength: float, steps: int) -> GroupLasso:
    made = GroupLasso(strength, 10, 10 + steps)
    made.choose(model, graph, STAYS)
    return made


def test_unit_norms_count_every_slice_of_a_unit() -> None:
    model, graph = dense()
    unit = 5
    parts = [model[0].weight[unit], model[1].weight[unit], model[1].bias[unit]]
    parts.append(model[3].weight[:, unit])
    expected = sum(part.detach().double().square().sum() for part in parts).sqrt()
    assert unit_norms(model, graph.group("0"))[unit].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_strength_one_alone_brings_a_unit_to_zero_over_the_stretch(steps: int) -> None:
    model, graph = dense()
    before = unit_norms(model, graph.group("0"))
    made = lasso(model, graph, 1.0, steps)
    for step in range(10, 10 + steps):
        made.shrink(step)
    after = unit_norms(model, graph.group("0"))
    assert float((after[:4] / before[:4]).max()) < 1e-3
    assert torch.equal(after[4:], before[4:])


def test_half_the_strength_takes_half_the_norm_and_it_takes_more_each_step() -> None:
    model, graph = dense()
    norms = [unit_norms(model, graph.group("0"))]
    made = lasso(model, graph, 0.5, 4)
    for step in range(10, 14):
        made.shrink(step)
        norms.append(unit_norms(model, graph.group("0")))
    lost = [(a - b)[:4] / norms[0][:4] for a, b in itertools.pairwise(norms)]
    # 0.5 split in the proportions 1 : 2 : 3 : 4
    for found, expected in zip(lost, (0.05, 0.1, 0.15, 0.2), strict=True):
        assert found.tolist() == pytest.approx([expected] * 4, rel=1e-4)


def test_all_slices_of_a_unit_shrink_by_the_same_factor() -> None:
    model, graph = dense()
    first, second = model[0].weight[0].clone(), model[3].weight[:, 0].clone()
    made = lasso(model, graph, 0.4, 1)
    made.shrink(10)
    assert torch.allclose(model[0].weight[0], 0.6 * first, rtol=1e-4)
    assert torch.allclose(model[3].weight[:, 0], 0.6 * second, rtol=1e-4)


def test_in_training_what_is_about_to_leave_gets_small_and_the_rest_does_not() -> None:
    plain = Candidate(
        Architecture({"0": 8}),
        schedule=Schedule("one_shot", 0.75, 0.75),
        recovery=Recovery(lr=0.02, distillation=0.0),
    )
    model, graph = dense()
    rest = {}
    for strength in (0.0, 1.0):
        chosen = replace(plain, recovery=replace(plain.recovery, regularizer=strength))
        run = RecoveryRun(Stripes(), model, graph, chosen, epochs=4, seed=0)
        run.advance(17 / 6)  # the step before the removal
        norms = unit_norms(run.model, run.graph.group("0")).sort().values
        rest[strength] = norms[:8].mean() / norms[8:].mean()
    assert rest[0.0] > 0.3
    assert rest[1.0] < 0.25 * rest[0.0]
