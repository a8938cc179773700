from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.pruning.row_solve import refit_rows


def problem(seed: int, rows: int = 5, inputs: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    data = torch.randn(400, inputs, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    pruned = torch.rand(rows, inputs, generator=generator) < 0.5
    return weight, pruned, data.T @ data / len(data)


def error(change: Tensor, second: Tensor) -> float:
    return float(((change @ second) * change).sum())


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_least_squares_solution_on_what_each_keeps(seed: int) -> None:
    weight, pruned, second = problem(seed)
    found = refit_rows(weight, pruned, second, ridge=1e-9, steps=400)
    for row, lost, fresh in zip(weight, pruned, found, strict=True):
        kept = ~lost
        expected = row[kept] + torch.linalg.solve(
            second[kept][:, kept], second[kept][:, lost] @ row[lost]
        )
        assert torch.allclose(fresh[kept], expected, rtol=1e-3, atol=1e-3)
        assert not fresh[lost].any()


@pytest.mark.parametrize("seed", range(5))
def test_more_steps_never_raise_the_error_and_one_is_better_than_none(seed: int) -> None:
    weight, pruned, second = problem(seed)
    errors = [
        error(refit_rows(weight, pruned, second, steps=steps) - weight, second)
        for steps in (0, 1, 3, 10, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_nothing_pruned_changes_nothing_and_constant_inputs_are_no_error() -> None:
    weight, pruned, second = problem(0)
    assert torch.equal(refit_rows(weight, torch.zeros_like(pruned), second), weight)
    assert torch.equal(refit_rows(weight, pruned, torch.zeros_like(second)), weight * ~pruned)
