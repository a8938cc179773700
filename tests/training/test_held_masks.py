"""Zeros that no optimizer moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.pruning.sparsity import choose
from autoprune.training.held_masks import HeldMasks


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_held_weights_stay_zero_under_any_optimizer(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    optimizer = kind(layer.parameters(), lr=0.1, weight_decay=0.1)  # type: ignore[call-arg]
    layer(torch.randn(3, 8)).sum().backward()
    optimizer.step()  # momentum of what is pruned next
    mask = choose(layer.weight.detach().abs(), "0.5", 1)
    held = HeldMasks(layer, {"weight": mask})
    held.clear_weights()
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(3, 8)).square().sum().backward()
        held.clear_gradients()
        assert layer.weight.grad is not None
        assert not layer.weight.grad[mask].any()
        assert layer.weight.grad[~mask].all()
        optimizer.step()
        held.clear_weights()
        assert torch.equal(layer.weight.detach() == 0.0, mask)


def test_only_what_is_in_a_mask_is_held() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
            parameter.grad = torch.ones_like(parameter)
    mask = torch.tensor([[True, False], [False, False]])
    held = HeldMasks(model, {"1.weight": mask})
    held.clear_gradients()
    held.clear_weights()
    assert model[1].weight.tolist() == [[0.0, 3.0], [3.0, 3.0]]
    assert model[1].weight.grad.tolist() == [[0.0, 1.0], [1.0, 1.0]]  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if name != "1.weight":
            assert (parameter == 3.0).all()
            assert parameter.grad is not None
            assert (parameter.grad == 1.0).all()


def test_a_parameter_without_a_gradient_and_no_masks_at_all_are_fine() -> None:
    layer = nn.Linear(2, 2)
    HeldMasks(layer, {"weight": torch.ones(2, 2, dtype=torch.bool)}).clear_gradients()
    before = layer.weight.clone()
    HeldMasks(layer, {}).clear_weights()
    assert torch.equal(layer.weight, before)
    with pytest.raises(KeyError):
        HeldMasks(layer, {"wait": torch.ones(2, 2, dtype=torch.bool)})
