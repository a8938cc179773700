from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.candidate import IMPORTANCES
from autoprune.errors import TrainingError, UsageError
from autoprune.graph import Group, PruningGraph, Slice
from autoprune.pruning import importance
from autoprune.pruning.compensate import calibrate


def net() -> nn.Sequential:
    """Linear(2 -> 3), BatchNorm(3), Linear(3 -> 1) with numbers that a hand can work with."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, -6.0], [1.0, 1.0]]))
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([-0.5, 0.1, 2.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    return model


def graph_of(*slices: Slice, size: int = 3) -> PruningGraph:
    group = Group(name="0", kind="channel", size=size, slices=slices)
    return PruningGraph(groups=(group,), frozen=(), ops=(), tensors=(), parameters={}, buffers={})


def each(size: int = 3) -> np.ndarray:
    return np.arange(size, dtype=np.int64)[:, None]


@pytest.fixture
def graph() -> PruningGraph:
    return graph_of(
        Slice("0.weight", 0, each(), "out"),
        Slice("0.bias", 0, each(), "out"),
        Slice("1.weight", 0, each(), "affine"),
        Slice("1.bias", 0, each(), "affine"),
        Slice("1.running_mean", 0, each(), "affine"),
        Slice("2.weight", 1, each(), "in"),
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("l1", [7.0, 6.0, 2.0]),
        ("l2", [5.0, 6.0, 2.0**0.5]),
        ("bn_scale", [0.5, 0.1, 2.0]),
    ],
)
def test_norms_agree_with_hand_arithmetic(
    graph: PruningGraph, method: str, expected: list[float]
) -> None:
    result = importance.scores(net(), graph, method)
    assert result["0"].dtype == torch.float64
    assert result["0"].tolist() == pytest.approx(expected)


def test_a_unit_owns_several_indices() -> None:
    graph = graph_of(Slice("2.weight", 1, np.array([[0, 2]]), "in"), size=1)
    assert importance.scores(net(), graph, "l1")["0"].tolist() == [4.0]


def test_group_norm_does_not_depend_on_the_scale_of_one_tensor(graph: PruningGraph) -> None:
    model = net()
    before = importance.scores(model, graph, "group")["0"]
    with torch.no_grad():
        model[2].weight *= 1000.0
    assert torch.allclose(importance.scores(model, graph, "group")["0"], before)


def test_bn_scale_of_a_group_without_norm_is_l2() -> None:
    graph = graph_of(Slice("0.weight", 0, each(), "out"))
    by_scale = importance.scores(net(), graph, "bn_scale")["0"]
    assert by_scale.tolist() == pytest.approx([5.0, 6.0, 2.0**0.5])


def test_taylor_sums_weight_times_gradient_over_all_slices(graph: PruningGraph) -> None:
    gradients = {
        "0.weight": torch.tensor([[1.0, -1.0], [0.0, 0.5], [0.0, 0.0]]),
        "2.weight": torch.tensor([[0.0, 0.0, -2.0]]),
    }
    result = importance.scores(net(), graph, "taylor", gradients=gradients)
    assert result["0"].tolist() == pytest.approx([7.0, 3.0, 6.0])


def test_movement_is_signed(graph: PruningGraph) -> None:
    gradients = {"0.weight": torch.tensor([[1.0, -1.0], [0.0, 0.5], [0.0, 0.0]])}
    result = importance.scores(net(), graph, "movement", gradients=gradients)
    # -(3 - 4), -(0 - 3), 0
    assert result["0"].tolist() == pytest.approx([1.0, 3.0, 0.0])


def test_fpgm_is_the_sum_of_distances_to_the_other_units(graph: PruningGraph) -> None:
    a, b, c = [3.0, 4.0, 0.0], [0.0, -6.0, 0.0], [1.0, 1.0, 0.0]
    near = [np.linalg.norm(np.subtract(x, y)) for x, y in ((a, b), (a, c), (b, c))]
    expected = [near[0] + near[1], near[0] + near[2], near[1] + near[2]]
    assert importance.scores(net(), graph, "fpgm")["0"].tolist() == pytest.approx(expected)


def test_wanda_weighs_what_consumes_a_unit_by_its_activation(graph: PruningGraph) -> None:
    model = net().eval()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    calibration = calibrate(model, [inputs])
    hidden = model[1](model[0](inputs)).detach()
    expected = torch.tensor([1.0, 2.0, 3.0]) * hidden.square().mean(0).sqrt()
    found = importance.scores(model, graph, "wanda", calibration=calibration)["0"]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_function_is_an_importance_and_a_table_entry_a_name(graph: PruningGraph) -> None:
    def rows(group: Group, weights: importance.Weights) -> torch.Tensor:
        return weights.parameters["0.weight"][:, 0] ** 2

    assert importance.scores(net(), graph, rows)["0"].tolist() == [9.0, 0.0, 1.0]
    importance.METHODS["rows"] = rows
    try:
        assert importance.scores(net(), graph, "rows")["0"].tolist() == [9.0, 0.0, 1.0]
    finally:
        del importance.METHODS["rows"]


def test_every_importance_of_a_candidate_has_a_method() -> None:
    assert {*importance.METHODS, "obs", "task"} == set(IMPORTANCES)


def test_taylor_gradients_are_the_mean_over_batches_and_leave_grad_alone() -> None:
    model = nn.Linear(1, 1, bias=False)
    gradients = importance.accumulate_gradients(
        model, lambda net, x: net(x).sum(), [torch.tensor([[1.0]]), torch.tensor([[5.0]])]
    )
    assert gradients["weight"].item() == pytest.approx(3.0)
    assert model.weight.grad is None


def test_frozen_weights_have_gradients_and_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(5.0)
    gradients = importance.accumulate_gradients(
        model, lambda net, x: net(x).sum(), [torch.tensor([[3.0]])]
    )
    assert gradients["0.weight"].item() == pytest.approx(15.0)  # 5 x
    assert gradients["1.weight"].item() == pytest.approx(6.0)  # 2 x
    assert [p.requires_grad for p in model.parameters()] == [False, True]


def test_gradients_in_training_mode_change_nothing_of_the_model() -> None:
    net = nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.BatchNorm1d(8))
    net.append(nn.Dropout()).append(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.arange(8).reshape(4, 2)

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().sum()

    gradients = importance.accumulate_gradients(net, loss, [x])
    assert gradients["0.weight"].abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_taylor_gradients_need_a_batch() -> None:
    with pytest.raises(UsageError, match="at least one batch"):
        importance.accumulate_gradients(nn.Linear(1, 1), lambda net, x: net(x).sum(), [])


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("taylor", "accumulate_gradients"),
        ("movement", "accumulate_gradients"),
        ("obs", "calibrate"),
        ("wanda", "calibrate"),
        ("l3", "l1, l2"),
    ],
)
def test_what_is_missing_is_named(graph: PruningGraph, method: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        importance.scores(net(), graph, method)


def test_weights_that_are_not_finite_are_refused(graph: PruningGraph) -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1, 1] = float("nan")
    with pytest.raises(TrainingError, match="group '0' must be finite"):
        importance.scores(model, graph, "l2")


def test_the_best_units_stay_in_ascending_order(graph: PruningGraph) -> None:
    scores = {"0": torch.tensor([0.3, 0.1, 0.9])}
    assert importance.best_units(scores, {"0": 2}) == {"0": (0, 2)}


def test_equals_are_kept_from_the_front() -> None:
    assert importance.best_units({"g": torch.ones(6)}, {"g": 4}) == {"g": (0, 1, 2, 3)}
