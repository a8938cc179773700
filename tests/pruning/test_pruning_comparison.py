from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.pruning.comparison import Comparison, gap, run

ONE = torch.tensor


@pytest.mark.parametrize(
    ("got", "wanted", "expected"),
    [
        ([ONE([1.0, -4.0])], [ONE([1.5, -4.0])], 0.125),
        ([ONE([1.0]), ONE([2.0])], [ONE([1.0]), ONE([4.0])], 0.5),
        ([ONE([3 + 4j])], [ONE([3 + 2j])], 2 / 3),
        ([ONE([1, 2])], [ONE([3, 4])], 0.0),
        ([ONE([1e-13])], [ONE([0.0])], 0.0),
        ([ONE([1.0])], [ONE([math.inf])], 0.0),
        ([ONE([math.nan, 1.0])], [ONE([1.0, 1.0])], math.inf),
        ([ONE([1.0])], [ONE([1.0, 2.0])], math.inf),
        ([], [], 0.0),
    ],
)
def test_the_gap_is_the_largest_difference_of_the_largest_number(
    got: list[Tensor], wanted: list[Tensor], expected: float
) -> None:
    assert gap(got, wanted) == expected


def scaled(factor: float) -> nn.Linear:
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).view(2, 3) * factor)
    return layer


def differ(example: Any, one: nn.Module, other: nn.Module) -> bool:
    comparison = Comparison(other, example)
    answers = [comparison.answers(model) for model in (one, other)]
    return comparison.differ(one, other, *answers)


@pytest.mark.parametrize("example", [torch.zeros(4, 3), torch.full((4, 3), 0.0), torch.eye(3)])
def test_a_constant_example_is_tried_with_random_numbers_too(example: Tensor) -> None:
    assert differ(example, scaled(1.1), scaled(1.0))
    assert not differ(example, scaled(1.0), scaled(1.0))


def test_random_numbers_that_a_model_refuses_are_left_out() -> None:
    class Probabilities(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert bool((x >= 0).all())
            return super().forward(x)

    example, layer, other = torch.zeros(4, 3), Probabilities(3, 2), nn.Linear(3, 2)
    assert len(Comparison(layer, example).answers(layer)) == 1
    assert len(Comparison(other, example).answers(other)) == 2


def test_what_integers_were_decided_by_is_compared() -> None:
    class Chosen(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.layer = scaled(factor)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).argmax(-1)

    x = torch.rand(4, 3)
    assert torch.equal(Chosen(1.0)(x), Chosen(1.1)(x))
    assert differ(x, Chosen(1.1), Chosen(1.0))
    assert not differ(x, Chosen(1.0), Chosen(1.0))
    assert differ(x, nn.Sequential(Chosen(1.0), nn.Unflatten(0, (2, 2))), Chosen(1.0))


def test_small_differences_are_judged_in_double_precision() -> None:
    x = torch.rand(4, 3)
    assert not differ(x, scaled(1 + 5e-6), scaled(1.0))
    assert differ(x, scaled(1 + 5e-5), scaled(1.0))  # is not 0.1 % by rounding


def test_a_model_of_one_precision_is_judged_by_that() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return super().forward(x)

    def single(factor: float) -> Single:
        layer = Single(3, 2, bias=False)
        layer.load_state_dict(scaled(factor).state_dict())
        return layer

    x = torch.rand(4, 3)
    assert not differ(x, single(1 + 5e-4), single(1.0))
    assert differ(x, single(1 + 5e-3), single(1.0))


def test_answers_leave_the_mode_and_the_precision_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    comparison = Comparison(model, torch.rand(4, 3))
    (answer,) = comparison.answers(model, double=True)
    assert answer.dtype == torch.float64
    assert model.training
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(run(model, torch.ones(2, 3))[0], model[0](torch.ones(2, 3)))
