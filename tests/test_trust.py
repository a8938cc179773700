"""A folder of somebody else runs no code here unless the user says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from autoprune import api, trust
from autoprune.config import RunConfig
from autoprune.errors import TaskError
from autoprune.store import RunFolder
from autoprune.tasks.load import load_task

TASK = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("")
import autoprune
from torch import nn
class Evil(autoprune.Task):
    dense_epochs = 0
    def build_model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    def train_loader(self, seed):
        return []
    val_loader = test_loader = lambda self: []
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "_noted", set())
    return tmp_path / "cache"


@pytest.fixture
def sent(tmp_path: Path) -> RunFolder:
    """A run folder as somebody else might send it, with the file of its task inside."""
    config = {"task": "evil.py:Evil", "budget": {"macs": "50%"}, "base": "."}
    run = RunFolder.create(tmp_path / "sent", config, {})
    (run.path / "evil.py").write_text(TASK)
    return run


def ran(run: RunFolder) -> bool:
    return (run.path / "ran").exists()


def test_what_a_sent_folder_names_is_not_imported(sent: RunFolder) -> None:
    for verb in (autoprune.resume, autoprune.retrain, autoprune.quantize):
        with pytest.raises(autoprune.UsageError):
            verb(sent.path)
    with pytest.raises(TaskError, match=r"evil\.py, which was not named on this machine .*--trust"):
        autoprune.resume(sent.path)
    assert not ran(sent)


def test_trust_imports_it_and_is_remembered(sent: RunFolder) -> None:
    trust.check_run(sent.config, sent.path, trust=True)
    trust.check_run(sent.config, sent.path)
    assert isinstance(api.task_of(sent.config), autoprune.Task)
    assert ran(sent)


def test_a_configuration_of_the_user_is_remembered_by_other_processes(
    sent: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.note(RunConfig.load(sent.path / "config.yaml"))
    code = (
        "from autoprune import trust; from autoprune.store import RunFolder; "
        f"run = RunFolder.open({str(sent.path)!r}); trust.check_run(run.config, run.path)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(sent.path / "elsewhere"))
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1


def test_a_list_that_others_can_write_is_ignored(sent: RunFolder, own_cache: Path) -> None:
    own_cache.mkdir()
    file = own_cache / trust.FILE
    file.write_text(json.dumps(str(sent.path / "evil.py")) + "\n")
    file.chmod(0o600)
    trust.check_run(sent.config, sent.path)
    file.chmod(0o666)
    with pytest.raises(TaskError):
        trust.check_run(sent.config, sent.path)


@pytest.mark.parametrize("content", ["\x00", "[1]\n", "{", '"a"\n{}\n'])
def test_a_damaged_list_holds_nothing(sent: RunFolder, own_cache: Path, content: str) -> None:
    own_cache.mkdir()
    (own_cache / trust.FILE).write_text(content)
    with pytest.raises(TaskError):
        trust.check_run(sent.config, sent.path)


def test_an_address_in_a_sent_folder_is_not_called(tmp_path: Path) -> None:
    device = {"runtime": "ssh://me@host?config=/tmp/evil"}
    config = {"task": "digits", "budget": {"macs": "50%"}, "device": device}
    run = RunFolder.create(tmp_path / "sent", config, {})
    with pytest.raises(TaskError, match="ssh://me@host"):
        autoprune.resume(run.path)


@pytest.mark.parametrize("task", ["digits", "autoprune.tasks.digits:Digits", f"{__name__}:X"])
def test_what_is_ours_or_imported_needs_no_trust(tmp_path: Path, task: str) -> None:
    run = RunFolder.create(tmp_path / "r", {"task": task, "budget": {"macs": "50%"}}, {})
    trust.check_run(run.config, run.path)


def test_a_module_beside_a_sent_folder_is_not_imported(tmp_path: Path) -> None:
    config = {"task": "evil_module:Evil", "budget": {"macs": "50%"}, "base": "."}
    run = RunFolder.create(tmp_path / "sent", config, {})
    (run.path / "evil_module.py").write_text(TASK)
    with pytest.raises(TaskError, match="evil_module in "):
        autoprune.resume(run.path)
    assert not ran(run)


def test_the_file_of_a_smaller_dense_model_is_code_too(tmp_path: Path) -> None:
    search = {"baselines": {"smaller": {"net20": "evil.py:Evil"}}}
    data = {"task": "digits", "budget": {"macs": "50%"}, "base": ".", "search": search}
    run = RunFolder.create(tmp_path / "sent", data, {})
    (run.path / "evil.py").write_text(TASK)
    with pytest.raises(TaskError, match=r"evil\.py, which was not named on this machine"):
        autoprune.resume(run.path)
    with pytest.raises(TaskError, match=r"evil\.py, which was not named on this machine"):
        autoprune.resume(run.path, task=load_task("digits"))
    assert not ran(run)
