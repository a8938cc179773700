"""What the README shows is true: its task works, its commands and names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import readme_task
import typer

import autoprune
from autoprune import cli
from autoprune.tasks.load import load_task

README = readme_task.README.read_text()


def test_own_model_is_a_short_class_that_works(tmp_path: Path) -> None:
    file = readme_task.write(tmp_path)
    task = load_task(f"{file}:Wine")
    model = task.build_model()
    assert model(next(iter(task.train_loader(0)))[0]).shape == (16, 3)
    assert sum(len(y) for part in (0, 1, 2, 3, 4) for _, y in task.rows(part)) == 178
    assert set(task.evaluate(model, "test")) == {"accuracy", "loss"}


def commands() -> dict[str, set[str]]:
    """Every command with its options."""
    group = typer.main.get_command(cli.app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()
    }


def test_table_lists_every_command() -> None:
    listed = re.findall(r"^\| `(\w+)[^`]*` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(commands())


@pytest.mark.parametrize("line", re.findall(r"^autoprune .*$", README, re.MULTILINE))
def test_command_line_names_real_options(line: str) -> None:
    _, command, *rest = shlex.split(line, comments=True)
    assert {word for word in rest if word.startswith("--")} <= commands()[command]


def test_names_for_python_are_exported() -> None:
    listed = README[README.index("From Python:") :].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", listed)) <= set(autoprune.__all__)


def test_make_targets_exist() -> None:
    makefile = (readme_task.README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
