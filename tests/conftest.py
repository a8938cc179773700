"""Modules beside this file for every test folder; one SSH server for all; no refusals for noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sshd

from autoprune import cli
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Recovery
from autoprune.cost import latency
from autoprune.cost.latency import Effort
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace
from autoprune.store import (
    DenseReport,
    FrontReport,
    GroupInfo,
    Groups,
    RunFolder,
    RunState,
    SearchPlan,
)


@pytest.fixture(autouse=True, scope="session")
def any_machine_will_do() -> Iterator[None]:
    """Measurements are short, and none is refused because something else runs beside the tests."""
    with pytest.MonkeyPatch.context() as patch:
        quick = Effort(None, repeats=15, tries=1, max_half_width=float("inf"), min_free=0.0)
        patch.setattr(latency, "EFFORT", quick)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real OpenSSH server: the remote device of the tests."""
    if not Path(sshd.PROGRAM).is_file():
        pytest.skip(sshd.MISSING)
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def proxy(server: sshd.Server) -> Iterator[sshd.Proxy]:
    """A way to that server which a test can cut."""
    way = sshd.Proxy(server.port)
    yield way
    way.cut()


@pytest.fixture
def command_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture
def shown_run(tmp_path: Path) -> Path:
    """A finished run of one trial that can be shown."""
    config = {"task": "digits", "budget": {"macs": "50%"}}
    folder = RunFolder.create(tmp_path / "run", config, {})
    known = {"metrics": {"accuracy": 0.9}, "predicted": Cost(macs=10)}
    recovery = Recovery(0.05, optimizer="sgd")
    candidate = Candidate(Architecture(), recovery=recovery)
    record = TrialRecord(0, candidate, "complete", seed=0, **known)
    folder.append(record)
    objectives = (Objective("accuracy", "maximize"), Objective("macs"))
    space = FittedSpace.of(folder.config.space, {"conv": 8})
    budgets = (folder.config.budget,)
    folder.save_plan(SearchPlan.of(objectives, (0.1, 20.0), budgets, space, Cost(macs=20)))
    folder.save_dense(DenseReport({"accuracy": 0.9}, Cost(macs=20)))
    folder.save_groups(Groups((GroupInfo("conv", "channel", 8),)))
    folder.save_front(FrontReport(ParetoFront(objectives, (record,))))
    folder.save_state(RunState("done", 1.0))
    return folder.path
