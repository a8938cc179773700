"""Example inputs as arguments, and models that are only looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.cost.inputs import (
    array_of,
    as_call,
    batch_size,
    batched,
    dtype_of,
    evaluating,
    frozen_copy,
    moved,
    tensors,
)
from autoprune.errors import DeviceError

X, Y = torch.zeros(2, 3), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X, Y), (X, Y), {}),
        ([X, 1], (X, 1), {}),
        ({"x": X, "scale": 2.0}, (), {"x": X, "scale": 2.0}),
        ((), (), {}),
    ],
)
def test_inputs_are_arguments(inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found = as_call(inputs)
    assert len(found[0]) == len(args)
    assert all(one is other for one, other in zip(found[0], args, strict=True))
    assert found[1] == kwargs


def test_tensors_are_found_in_nested_containers_in_order() -> None:
    found = tensors({"b": [X, (Y, 3)], "a": "text", "c": X})
    assert [id(it) for it in found] == [id(X), id(Y), id(X)]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(X, 2), ((torch.tensor(1.0), X), 2), ({"n": 3}, 1), (torch.tensor(1.0), 1), ((), 1)],
)
def test_the_batch_is_the_first_dimension_of_the_first_tensor(inputs: Any, expected: int) -> None:
    assert batch_size(inputs) == expected


def test_a_larger_batch_repeats_what_holds_the_batch() -> None:
    table, scalar = torch.arange(3.0), torch.tensor(2.0)
    x = torch.tensor([[1.0], [2.0]])
    found = batched({"x": x, "table": table, "scale": scalar, "mode": "fast"}, 4)
    assert found["x"].tolist() == [[1.0], [2.0], [1.0], [2.0]]  # type: ignore[call-overload,index]
    assert found["table"] is table  # type: ignore[call-overload,index]
    assert found["scale"] is scalar  # type: ignore[call-overload,index]
    assert found["mode"] == "fast"  # type: ignore[call-overload,index]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_is_no_multiple_is_refused(batch: int) -> None:
    with pytest.raises(DeviceError) as caught:
        batched(X, batch)
    assert str(caught.value) == (
        f"device.batch must be a multiple of the example input's batch (2), got {batch}"
    )


def test_bfloat16_is_no_array_and_says_what_helps() -> None:
    assert array_of(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    with pytest.raises(DeviceError, match=r"takes no bfloat16, .* device: \{runtime: torch\}$"):
        array_of(torch.ones(2, dtype=torch.bfloat16))


def test_the_type_is_that_of_the_first_floating_point_parameter() -> None:
    mixed = nn.Module()
    mixed.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    assert dtype_of(mixed) == "float32"
    mixed.weight = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    assert dtype_of(mixed) == "bfloat16"
    assert dtype_of(nn.ReLU()) == "float32"


def test_moved_inputs_are_detached_and_other_values_stay() -> None:
    x = torch.ones(2, requires_grad=True) * 2.0
    found = moved([x, "text", {"n": 3}], "cpu")
    assert not found[0].requires_grad  # type: ignore[index]
    assert list(found)[1:] == ["text", {"n": 3}]  # type: ignore[arg-type]


def test_a_frozen_copy_is_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    copy = frozen_copy(model)
    assert not copy.training
    assert not any(it.requires_grad for it in copy.parameters())
    assert model.training
    assert all(it.requires_grad for it in model.parameters())
    copy[0].weight.zero_()  # type: ignore[index,union-attr,operator]
    assert model[0].weight.abs().sum() > 0


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


def test_each_modules_own_mode_returns_after_an_error_too() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), Fails()).train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(RuntimeError, match="broken"), evaluating(model):
        model(X)
    assert [module.training for module in model.modules()] == [True, False, True]
