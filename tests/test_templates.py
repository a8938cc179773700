"""What `init` writes can be read, names every key, and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoprune.config import RunConfig
from autoprune.config.presets import presets
from autoprune.config.sections import DeviceConfig, SearchConfig
from autoprune.tasks.load import load_task
from autoprune.templates import CONFIG, TASK


def test_the_configuration_is_that_of_two_lines(tmp_path: Path) -> None:
    (tmp_path / "budget.yaml").write_text(CONFIG.format(task="digits"))
    plain = {"task": "digits", "budget": {"latency_ms": "50%"}}
    config = RunConfig.load(tmp_path / "budget.yaml")
    assert config == RunConfig.from_dict(plain, base=tmp_path)


@pytest.mark.parametrize("section", [RunConfig, DeviceConfig, SearchConfig])
def test_it_shows_every_key(section: type[RunConfig | DeviceConfig | SearchConfig]) -> None:
    assert [key for key in section.model_fields if f"{key}:" not in CONFIG] == []


def test_it_names_every_preset() -> None:
    listed = re.search(r"a preset \(([^)]+)\)", CONFIG.replace("\n#", ""))
    assert listed is not None
    assert sorted(listed[1].split(", ")) == sorted(presets())


def test_every_line_that_is_commented_out_can_be_used(tmp_path: Path) -> None:
    """Each `# key: value` alone, in place of what stands there."""
    lines = CONFIG.format(task="digits").splitlines()
    optional = [n for n, line in enumerate(lines) if re.match(r" *# [a-z_]+: ", line)]
    assert len(optional) > 15
    for number in optional:
        line = lines[number].replace("# ", "", 1)
        key = line.partition(":")[0].strip()
        if key in ("devices", "budget", "profile"):
            continue  # in place of others, or a file that is not there
        changed = [*lines[:number], line, *lines[number + 1 :]]
        (tmp_path / "budget.yaml").write_text("\n".join(changed))
        assert RunConfig.load(tmp_path / "budget.yaml").task == "digits", key


def test_the_task_works(tmp_path: Path) -> None:
    (tmp_path / "filled_in.py").write_text(TASK)
    task = load_task(f"{tmp_path / 'filled_in.py'}:MyTask")
    model = task.build_model()
    assert model(task.example_input()).shape == (1, 4)
    assert 0.0 <= task.evaluate(model, "val")["accuracy"] <= 1.0
    assert task.loss(model, next(iter(task.train_loader(0)))).item() > 0.0
