"""Commands in this process, and a run that they can show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune import cli
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import FrontReport, RunFolder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture
def shown_run(tmp_path: Path) -> Path:
    """A finished run that can be shown."""
    config = {"task": "digits", "budget": {"macs": "50%"}}
    folder = RunFolder.create(tmp_path / "run", config, {})
    known = {"metrics": {"accuracy": 0.9}, "predicted": Cost(macs=10)}
    record = TrialRecord(0, Candidate(Architecture()), "complete", seed=0, **known)
    folder.append(record)
    objectives = (Objective("accuracy", "maximize"), Objective("macs"))
    folder.save_front(FrontReport(ParetoFront(objectives, (record,))))
    return folder.path
