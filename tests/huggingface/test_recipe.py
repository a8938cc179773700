"""Models that no configuration gives: from their class and what differs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from configured import Config, Net
from torch import nn

from autoprune.errors import ExportError, StoreError
from autoprune.graph.blocks import Slot
from autoprune.huggingface.recipe import HFRecipe, _packed, _unpacked, rebuilt, recipe_of
from autoprune.pruning.configuration import remember
from autoprune.pruning.depth import Removed
from autoprune.pruning.nothing import nothing

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Wide(Net):
    """Its layers have two linear ones."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.body = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))


def narrow() -> Wide:
    dense = Wide(Config()).eval()
    model = Wide(Config()).eval()
    remember(model, dense)
    for layer, width in zip(model.layers, (6, 3, 2, 5), strict=True):
        layer.body = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4)).eval()
    model.layers[1].layer_idx = 9
    model.layers[3].body = Removed(model.layers[3].body, (Slot(2), [None, 2]))
    model.config.width = 3
    return model


def through_json(recipe: HFRecipe) -> HFRecipe:
    return HFRecipe(**json.loads(json.dumps(asdict(recipe))))


def test_what_differs_is_in_the_recipe() -> None:
    recipe, tensors = recipe_of(narrow())
    assert recipe.architecture == "Wide"
    assert recipe.config["width"] == 4  # the dense one's
    assert recipe.attributes["layers.1"] == {"layer_idx": 9}
    assert recipe.attributes["layers.1.body.0"] == {"out_features": 3}
    assert recipe.attributes["layers.1.body.1"] == {"in_features": 3}
    assert "layers.0" not in recipe.attributes
    assert recipe.entries == (("", ("width",), 3),)
    assert recipe.removed == {"layers.3.body": {"tuple": [{"nothing": 2}, [None, 2]]}}
    assert tensors["layers.2.body.0.weight"].shape == (2, 4)


def test_the_model_is_made_again_from_it() -> None:
    model = narrow()
    recipe, tensors = recipe_of(model)
    again = rebuilt(through_json(recipe), tensors, Wide, "here")
    assert not again.training
    assert (again.config.width, again.layers[1].layer_idx) == (3, 9)
    assert again.layers[1].body[0].out_features == 3
    assert again.layers[3].body._result == (nothing(2), [None, 2])
    found = again.state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], t) for name, t in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again.layers[1](X), model.layers[1](X))
    once_more = recipe_of(again)[0]  # it can be saved again
    assert replace(once_more, config=recipe.config) == recipe
    assert once_more.config == through_json(recipe).config


def test_tensors_are_copied() -> None:
    recipe, tensors = recipe_of(narrow())
    again = rebuilt(recipe, tensors, Wide, "here")
    with torch.no_grad():
        again.layers[0].body[0].weight.zero_()
    assert tensors["layers.0.body.0.weight"].any()


def test_what_does_not_fit_the_class_is_one_line() -> None:
    recipe, tensors = recipe_of(narrow())
    with pytest.raises(StoreError) as caught:
        rebuilt(replace(recipe, removed={"layers.9": None}), tensors, Wide, "here")
    assert str(caught.value) == "here: Wide has no module 'layers.9'"
    del tensors["layers.0.body.0.bias"]
    with pytest.raises(StoreError) as caught:
        rebuilt(recipe, tensors, Wide, "here")
    assert str(caught.value) == "here holds no tensor 'layers.0.body.0.bias'"


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, "a", (1, (2, None)), [1, (2,)], (), [], nothing(3), (nothing(3), [1])],
)
def test_plain_values_come_back_with_their_kinds(value: object) -> None:
    again = _unpacked(json.loads(json.dumps(_packed(value))))
    assert again is value or again == value
    assert type(again) is type(value)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ExportError) as caught:
        _packed((1, {2}))
    assert str(caught.value) == "a removed module that returns a set cannot be written"
