"""Inputs described by shape and type, and made again."""

import json

import pytest
import torch

from autoprune.errors import StoreError
from autoprune.store.example_inputs import described, made


def test_an_input_comes_back_with_its_structure_and_without_its_data() -> None:
    example = {
        "x": (torch.rand(1, 3), [torch.tensor([[5, 7]]), torch.tensor([True])]),
        "scale": 2.0,
        "none": None,
    }
    again = made(json.loads(json.dumps(described(example))))
    assert torch.equal(again["x"][0], torch.zeros(1, 3))
    assert torch.equal(again["x"][1][0], torch.tensor([[7, 7]]))
    assert again["x"][1][1].dtype == torch.bool
    assert (type(again["x"]), again["scale"], again["none"]) == (tuple, 2.0, None)


@pytest.mark.parametrize("example", [object(), {"x": object()}, torch.zeros(1).to_sparse().dtype])
def test_what_is_no_nest_of_tensors_is_not_described(example: object) -> None:
    assert described(example) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"tensor": [1 << 40, 1 << 40], "dtype": "float32"},
        {"tensor": [-1], "dtype": "float32"},
        {"tensor": [1], "dtype": "float7"},
        {"tensor": ["x"], "dtype": "float32"},
        {"tensor": [1], "dtype": "uint8", "fill": 10**30},
        {"other": 1},
        [],
        7,
        None,
        {"dict": []},
        {"list": {"list": 3}},
    ],
    ids=str,
)
def test_a_damaged_description_is_refused(damage: object) -> None:
    with pytest.raises(StoreError, match="inputs of the recipe are damaged"):
        made(damage)
