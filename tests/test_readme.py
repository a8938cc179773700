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
    splits = (task.train_loader(0), task.val_loader(), task.test_loader())
    assert sum(len(y) for split in splits for _, y in split) == 178
    code = [line for line in readme_task.blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 15
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
