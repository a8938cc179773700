"""Records of a run: what is bound, what shares memory, when it is freed."""

from __future__ import annotations

import pytest
import torch

from autoprune.graph.calls import Call, State, Storages, owner, same_storage

ATEN = torch.ops.aten


def test_arguments_have_the_names_and_defaults_of_the_schema() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    call = Call.of(ATEN.add.Tensor, (x, y), {})
    assert (call.name, call["alpha"], call["no such argument"]) == ("add", 1, None)
    assert call["self"] is x
    assert call["other"] is y
    assert Call.of(ATEN.add.Tensor, (x,), {"other": y, "alpha": 2})["alpha"] == 2


def test_tensors_are_the_arguments_in_order_lists_included() -> None:
    x, y, z = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
    assert [id(it) for it in Call.of(ATEN.cat.default, ([x, y, z], 0), {}).tensors] == [
        id(x),
        id(y),
        id(z),
    ]
    assert Call.of(ATEN.zeros.default, ([2, 3],), {}).tensors == []


def test_a_view_of_a_parameter_has_its_name() -> None:
    weight, x = torch.zeros(4, 2), torch.zeros(3, 4)
    call = Call.of(ATEN.mm.default, (x, weight), {})
    before = [State((None, None)), State((None, None), names=("w",), weight=True)]
    assert call.viewed(weight.t(), before) == ("w",)
    assert call.viewed(x.t(), before) == ()
    assert call.viewed(torch.zeros(2), before) == ()


def test_views_share_memory_and_copies_do_not() -> None:
    x = torch.zeros(4, 3)
    assert same_storage(x, x[1:].t())
    assert not same_storage(x, x.clone())
    sparse = torch.eye(2).to_sparse()
    assert same_storage(sparse, sparse)
    assert not same_storage(sparse, x)


def test_views_of_one_memory_have_one_number() -> None:
    storages, x = Storages(), torch.zeros(4, 3)
    other = torch.zeros(2)
    assert [storages.number(it) for it in (x, other, x[1:], other.view(1, 2))] == [0, 1, 0, 1]


def test_what_was_freed_is_noted_once_with_the_call_before() -> None:
    storages, x, stays = Storages(), torch.zeros(4), torch.zeros(4)
    assert [storages.number(it) for it in (x, stays)] == [0, 1]
    storages.note_freed(3)
    assert storages.freed == {}
    del x
    storages.note_freed(5)
    storages.note_freed(6)
    assert storages.freed == {0: 4}


def test_memory_that_is_used_again_gets_a_new_number() -> None:
    storages = Storages()
    numbers = [storages.number(torch.zeros(8)) for _ in range(4)]
    assert numbers == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("weight", ""),
        ("a.conv.weight", "a.conv"),
        ("a.conv.parametrizations.weight.original0", "a.conv"),
        ("conv.parametrizations.weight.0.scale", "conv"),
    ],
)
def test_a_parametrized_weight_belongs_to_its_layer(name: str, module: str) -> None:
    assert owner(name) == module
