"""The named search spaces that come with autoprune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config.limited_yaml import read_yaml
from autoprune.config.yaml_file import anchored
from autoprune.errors import ConfigError
from autoprune.printable import shown


def presets() -> dict[str, Path]:
    """The named search spaces that come with autoprune: name -> file."""
    here = Path(__file__).resolve().parents[1]
    folders = (here / "search_spaces", here.parent / "search_spaces")  # installed, then a checkout
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def resolve_space(space: object, base: Path, place: str = "config") -> dict[str, Any]:
    """The mapping that a preset's name, a path or an inline mapping stands for.

    Raises ConfigError that lists the presets.
    """
    if isinstance(space, Mapping):
        return dict(space)
    name = "standard" if space is None else space
    known = presets()
    if isinstance(name, str) and name in known:
        file = known[name]
    elif isinstance(name, str) and name.endswith((".yaml", ".yml")):
        file = Path(anchored(name, base) or name)
    else:
        raise ConfigError(
            f"{place}: space must be a preset, a .yaml file or a mapping, got {shown(name)} · "
            f"presets: {', '.join(known)}"
        )
    if not file.is_file():
        raise ConfigError(f"{place}: space {file} is not a file · presets: {', '.join(known)}")
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file.name} must hold a search space's keys, got {shown(content)}")
    return content
