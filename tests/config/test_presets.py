"""The spaces that come with the package, and what a configuration's `space` stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from autoprune.config.presets import presets, resolve_space
from autoprune.errors import ConfigError
from autoprune.space import FittedSpace, SearchSpace

NAMES = ["channels", "channels_and_schedule", "int8", "quick", "standard", "unstructured"]
KINDS = "b.yaml: space must be a preset, a .yaml file or a mapping"
LISTED = f"presets: {', '.join(NAMES)}"


def test_presets_are_spaces() -> None:
    spaces = {
        name: SearchSpace.parse(yaml.safe_load(file.read_text()))
        for name, file in presets().items()
    }
    assert list(spaces) == NAMES
    assert spaces["channels"].varied == ()
    assert spaces["quick"].per == "global"
    assert spaces["int8"].precisions == ("float32", "int8")
    assert not spaces["unstructured"].patterns.is_dense
    for optimizer, lowest in (("sgd", 0.001), ("adamw", 0.00005)):
        space = spaces["channels_and_schedule"].for_optimizer(optimizer)
        (rate,) = (p for p in space.varied if p.name.startswith("recovery.lr"))
        assert (rate.name, rate.low) == ("recovery.lr", lowest)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_something_to_search(name: str) -> None:
    space = SearchSpace.parse(resolve_space(name, Path()))
    assert "ratio" in FittedSpace.of(space, {"conv": 16}).parameters[0].name


def test_nothing_is_the_standard_space() -> None:
    assert resolve_space(None, Path()) == resolve_space("standard", Path())
    assert resolve_space(None, Path()) == yaml.safe_load(presets()["standard"].read_text())


def test_a_mapping_is_copied() -> None:
    written = {"ratios": {"max": 0.5}}
    found = resolve_space(written, Path())
    assert found == written
    assert found is not written


@pytest.mark.parametrize("name", ["mine.yaml", "folder/../mine.yaml", "mine.yml"])
def test_a_file_is_meant_from_the_configurations_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_text("round_to: 4")
    assert resolve_space(name, tmp_path) == {"round_to": 4}


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (
            "chanels",
            f"{KINDS}, got 'chanels' · {LISTED}",
        ),
        (3, f"{KINDS}, got 3 · {LISTED}"),
        (
            ["quick"],
            f"{KINDS}, got ['quick'] · {LISTED}",
        ),
        ("none.yaml", f"b.yaml: space {{base}}/none.yaml is not a file · {LISTED}"),
        ("list.yaml", "list.yaml must hold a search space's keys, got ['quick']"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path: Path, space: object, says: str) -> None:
    (tmp_path / "list.yaml").write_text("[quick]")
    with pytest.raises(ConfigError) as caught:
        resolve_space(space, tmp_path, "b.yaml")
    assert str(caught.value) == says.format(base=tmp_path)
