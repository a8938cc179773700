"""What the documentation shows is true: it builds, its commands, names and files exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import autoprune
from autoprune import cli
from autoprune.config import RunConfig
from autoprune.schema import config_schema
from autoprune.tasks.load import load_task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
MISSING = [
    name for name in ("material", "mkdocs", "mkdocstrings") if not importlib.util.find_spec(name)
]


def blocks(language: str) -> list[tuple[str, str]]:
    """Blocks of code in one language, with the page that holds each."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += [(page.name, body) for name, body in FENCE.findall(text) if name == language]
    return found


def command_lines() -> list[tuple[str, str]]:
    """Every line of a block that calls a command."""
    lines = [(page, line) for page, body in blocks("") for line in body.splitlines()]
    return [(page, line) for page, line in lines if re.match(r"(\$ )?autoprune [a-z]", line)]


def commands() -> dict[str, set[str]]:
    """Every command with its options."""
    group = typer.main.get_command(cli.app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_command_line_names_real_options(page: str, line: str) -> None:
    _, command, *rest = shlex.split(line.removeprefix("$ "), comments=True)
    options = {word for word in rest if word.startswith("-")}
    assert options <= commands()[command], page


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_configuration_is_understood(page: str, text: str) -> None:
    data = yaml.safe_load(text)
    if page == "cluster.md" and "apiVersion" in data:
        pytest.skip("a file of Kubernetes")
    named = {"budget": {"macs": "50%"}} | data
    for name in named.get("devices", {}):
        named["devices"][name] = {"runtime": "torch"}  # the profiles lie with the reader
    assert RunConfig.from_dict({"task": "digits", **named}, place=page)


def test_task_of_the_tutorial_works(tmp_path: Path) -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    files = dict(
        re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    )
    for name, body in files.items():
        compile(body, name, "exec")
        (tmp_path / name).write_text(body)
    task = load_task(f"{tmp_path / 'my_task.py'}:Digits")
    splits = (task.train_loader(0), task.val_loader(), task.test_loader())
    assert sum(len(y) for split in splits for _, y in split) == 1797
    assert set(task.evaluate(task.build_model(), "val")) == {"accuracy", "loss"}


TIMM = """
import numpy
from PIL import Image
from scripts.benchmarks.zoo.entry import allow_torchvision_without_operators

allow_torchvision_without_operators()
import autoprune


class Images:
    def __init__(self, count):
        self.count, self.transform = count, None

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        image = numpy.full((50, 70, 3), place, dtype="uint8")
        return self.transform(Image.fromarray(image)), place % 4


train_images, val_images = Images(6), Images(3)
RECIPE
example = task.example_input()
assert example.shape == (1, 3, 176, 176)
assert abs(example[0, 0, 0, 0].item() - (0.0 - 0.485) / 0.229) < 1e-5
assert task.evaluate(model, "val").keys() == {"accuracy", "loss"}
half = autoprune.prune_model(model, example, 0.5)
macs = [autoprune.count_cost(each, example).macs for each in (model, half)]
assert macs[1] < 0.5 * macs[0]
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs timm")
def test_recipe_for_timm_works() -> None:
    """In another process: torchvision, which timm imports, may not fit this torch."""
    (recipe,) = [text for _, text in blocks("python") if "timm.create_model" in text]
    script = TIMM.replace("RECIPE", recipe)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_exported_name_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: autoprune\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(autoprune.__all__) - {"__version__"})


def test_references_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "documentation"))
    import reference

    text = reference.commands()
    for name, options in commands().items():
        section = text[text.index(f"## {name}\n") :].partition("\n## ")[0]
        for option in options:
            assert option in section
    text = reference.configuration()
    for section in (config_schema(), *config_schema()["$defs"].values()):
        for key in section["properties"]:
            assert f"| `{key}` |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install '.[docs]'")
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in ("index.html", "tutorial/index.html", "reference/api/index.html"):
        assert (tmp_path / page).is_file()
    assert "--quantization-aware" in (tmp_path / "reference" / "cli" / "index.html").read_text()


def test_reasons_why_a_layer_is_not_prunable_are_those_of_the_code() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    table = text[text.index("| reason |") :].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    reasons = [reason for row in rows for reason in re.findall(r"`([^`]+)`", row)]
    sources = [
        *(ROOT / "autoprune" / "graph").glob("*.py"),
        ROOT / "autoprune" / "pruning" / "verification.py",
        ROOT / "autoprune" / "config" / "run.py",
    ]
    code = "".join(file.read_text(encoding="utf-8") for file in sources)
    assert len(reasons) > 8
    assert [reason for reason in reasons if reason.rstrip(" …") not in code] == []
