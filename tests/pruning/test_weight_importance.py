from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.pruning import weight_importance as importance
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.weight_importance import SingleWeight

WEIGHT = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.5, 0.0]], dtype=torch.float64)


def given(inputs: torch.Tensor) -> SingleWeight:
    layer = nn.Linear(3, 2, bias=False)
    moment = calibrate(nn.Sequential(layer), [inputs.float()]).moments["0.weight"]
    return SingleWeight(WEIGHT, moment=moment)


def test_wanda_is_magnitude_times_the_root_mean_square_of_the_input() -> None:
    # root mean squares 2, 1 and sqrt((16 + 4) / 2)
    found = importance.wanda(given(torch.tensor([[2.0, 1.0, 4.0], [-2.0, 1.0, 2.0]])))
    scale = torch.tensor([2.0, 1.0, 10.0**0.5], dtype=torch.float64)
    assert torch.allclose(found, WEIGHT.abs() * scale, rtol=1e-5)


def test_obs_is_the_error_of_removing_one_element_and_refitting_its_row() -> None:
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]
    )
    found = importance.obs(given(inputs))
    second = (inputs.T @ inputs / len(inputs)).double()
    for row in range(2):
        for place in range(3):
            rest = [each for each in range(3) if each != place]
            cross = second[rest, place]
            left = second[place, place] - cross @ torch.linalg.solve(second[rest][:, rest], cross)
            assert found[row, place].item() == pytest.approx(
                float(WEIGHT[row, place] ** 2 * left), rel=0.02, abs=1e-9
            )


def test_without_statistics_the_magnitude_counts_and_without_gradients_it_is_said() -> None:
    bare = SingleWeight(WEIGHT)
    for method in (importance.wanda, importance.obs):
        assert torch.equal(method(bare), WEIGHT.abs())
    for method in (importance.taylor, importance.movement):
        with pytest.raises(UsageError, match="needs gradients"):
            method(bare)


def test_movement_keeps_what_grows_and_taylor_what_matters_either_way() -> None:
    slope = SingleWeight(torch.tensor([[2.0, 2.0]]), torch.tensor([[-1.0, 1.0]]))
    assert importance.movement(slope).tolist() == [[2.0, -2.0]]
    assert importance.taylor(slope).tolist() == [[2.0, 2.0]]


def test_lamp_is_the_square_over_those_not_smaller() -> None:
    found = importance.lamp(torch.tensor([[3.0, -1.0], [2.0, 4.0]]))
    # squares ascending 1, 4, 9, 16: over 30, 29, 25, 16
    assert found.flatten().tolist() == pytest.approx([9 / 25, 1 / 30, 4 / 29, 1.0])


@pytest.mark.parametrize("score", [lambda w: w.sum(), lambda w: w / 0.0])
def test_scores_that_cannot_spread_a_sparsity_are_refused(score) -> None:
    with pytest.raises(UsageError, match=r"must be finite and of shape \(2,\), got .* for large"):
        importance.curves({"large": torch.tensor([1.0, 2.0])}, 3, score)


def test_the_importance_task_is_the_tasks_own() -> None:
    own = importance.movement
    assert importance.method_for("task", own) is own
    assert importance.method_for("task") is importance.magnitude
    assert importance.method_for("wanda", own) is importance.wanda


def test_a_sparsity_is_spread_by_one_threshold() -> None:
    weights = {"small": torch.tensor([0.1, 0.2, 0.3, 9.0]), "large": torch.tensor([1.0, 2.0])}
    assert importance.spread(weights, 0.6667, torch.abs) == {"small": "0.75", "large": "0.5"}
    assert importance.spread(weights, 0.5, torch.abs) == {"small": "0.75"}
    assert importance.spread({}, 0.5) == {}


def test_curves_share_out_one_threshold() -> None:
    weights = {"small": torch.tensor([0.1, 0.2, 0.3, 9.0]), "large": torch.tensor([1.0, 2.0])}
    found = importance.curves(weights, 7, torch.abs)
    assert found["small"] == (0.0, 0.25, 0.5, 0.75, 0.75, 0.75, 1.0)
    assert found["large"] == (0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0)
