"""The model card: front matter, table, what was pruned, how to load."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from configured import Config, Net, without
from torch import nn

from autoprune.cards.measured import Measured, Row
from autoprune.huggingface.card import base_model, card_of
from autoprune.pruning.configuration import remember
from autoprune.pruning.depth import Removed


class Wide(Net):
    """Its layers have two linear ones, 6 units between them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.body = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))


def narrow() -> Wide:
    """Layers of 6, 3 and 2 units, and a last one without its body."""
    model = Wide(Config()).eval()
    remember(model, Wide(Config()))
    for layer, width in zip(model.layers, (6, 3, 2, 6), strict=True):
        layer.body = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4))
    model.layers[3].body = Removed(model.layers[3].body, (None,))
    return model


def front_matter(card: str) -> Any:
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def rows(card: str, after: str) -> list[list[str]]:
    """The cells of the first table after some words, without its head."""
    lines = card[card.index(after) :].splitlines()
    table = [line for line in lines if line.startswith("|")]
    count = next((n for n, line in enumerate(lines) if line.startswith("|")), 0)
    length = next(
        (n for n, line in enumerate(lines[count:]) if not line.startswith("|")), len(lines)
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:length]]


def test_sizes_come_from_the_model_and_its_dense_configuration() -> None:
    card = card_of(narrow(), has_config=False)
    # a layer: 4 w + w + 4 w + 4; dense 4 x 58; pruned 58 + 31 + 22
    assert rows(card, "|  | dense") == [["parameters", "232", "111"]]
    assert rows(card, "## What was pruned") == [
        ["`layers.1.body.0.weight`", "6 × 4", "3 × 4"],
        ["`layers.1.body.1.weight`", "4 × 6", "4 × 3"],
        ["`layers.2.body.0.weight`", "6 × 4", "2 × 4"],
        ["`layers.2.body.1.weight`", "4 × 6", "4 × 2"],
    ]
    assert "Removed: `layers.3.body`." in card


def test_a_model_that_was_not_pruned_has_no_such_section() -> None:
    card = card_of(without(), has_config=True)
    assert rows(card, "|  | dense") == [["parameters", "80", "80"]]  # 4 x (4 x 4 + 4)
    assert "pruned\n" not in card.partition("|---|")[2]
    assert "## What was pruned" not in card


def test_a_class_that_cannot_be_built_without_weights_has_no_dense_sizes() -> None:
    class Reading(Net):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.mean = float(self.layers[0].body.weight.detach().mean())  # there is none on meta

    card = card_of(Reading(Config()), has_config=True)
    assert rows(card, "|  | dense") == [["parameters", "–", "80"]]


def test_the_front_matter_has_what_is_known() -> None:
    model = without(1)
    assert front_matter(card_of(model, has_config=False)) == {
        "library_name": "autoprune",
        "tags": ["autoprune", "pruning"],
    }
    model.config._name_or_path = "someone/small-net"
    measured = Measured((Row("latency", "2.00 ms", "1.00 ms"),), ("accuracy", "loss"), ("Of it.",))
    card = card_of(model, has_config=True, measured=measured)
    assert front_matter(card) == {
        "library_name": "transformers",
        "base_model": "someone/small-net",
        "tags": ["autoprune", "pruning"],
        "metrics": ["accuracy"],
    }
    assert "of [someone/small-net](https://huggingface.co/someone/small-net)," in card
    assert rows(card, "|  | dense")[1] == ["latency", "2.00 ms", "1.00 ms"]
    assert "\n\nOf it.\n\n" in card


def test_the_hub_can_read_it() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(card_of(without(), has_config=True, measured=Measured((), ("f1",))))
    assert (card.data.library_name, card.data.metrics) == ("transformers", ["f1"])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("org/name_1.5", "org/name_1.5"),
        ("", None),
        (None, None),
        ("/tmp/model", None),
        ("./model", None),
        ("a/b/c", None),
        ("folder", None),
    ],
)
def test_folders_are_no_base_model(
    name: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_model(SimpleNamespace(_name_or_path=name)) == found
    assert base_model(SimpleNamespace()) is None


def test_how_it_is_loaded() -> None:
    model = without()
    own = f"from {Net.__module__} import Net"
    assert f"{own}\n\nmodel = Net.from_pretrained(folder)" in card_of(model, has_config=True)
    recipe = card_of(model, has_config=False)
    assert (
        f"import autoprune\n{own}\n\nmodel = autoprune.load_hf(folder, model_class=Net)" in recipe
    )

    class Known(Net):
        pass

    Known.__module__ = "transformers.models.known"
    known = Known(Config())
    assert "from transformers import Known\n" in card_of(known, has_config=True)
    assert "import autoprune\n\nmodel = autoprune.load_hf(folder)" in card_of(
        known, has_config=False
    )
