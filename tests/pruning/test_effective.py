from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from autoprune.pruning.effective import effective
from autoprune.pruning.one_shot import prune_model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda m: prune.random_unstructured(m, "weight", 0.5), "weight_orig"),
        (nn.utils.weight_norm, "weight_v"),
        (nn.utils.spectral_norm, "weight_orig"),
        (parametrizations.weight_norm, "parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
    ],
)
def test_the_weight_that_counts_is_that_of_the_forward_pass(
    make: Callable[[nn.Module], nn.Module], name: str
) -> None:
    layer = make(nn.Linear(4, 6, bias=False)).eval()
    answered = layer(torch.eye(4)).T  # (6, 4): the weight that was used
    held = effective(layer)
    assert list(held) == [name]
    torch.testing.assert_close(held[name], answered.detach())


def test_units_that_a_mask_turned_off_leave_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[:8] *= 3
    mask = torch.ones(16, 8)
    mask[:8] = 0
    prune.custom_from_mask(net[0], "weight", mask)
    x = torch.randn(4, 8)
    torch.testing.assert_close(prune_model(net, x, 0.5)(x), net(x), atol=1e-6, rtol=0)
