"""Trials that really run in Ray's processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import toy

from autoprune._search.plan import Limits
from autoprune._search.sampling.study import NAME
from autoprune._search.trials import tuning, watchdog
from autoprune.config.sections import RayConfig
from autoprune.errors import UsageError, WorkError
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, files

ray.cloudpickle.register_pickle_by_value(toy)

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {}, {})


def test_cores_are_those_of_the_process_or_else_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (tuning.cores(), tuning.threads_for(2)) == (3, 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert (tuning.cores(), tuning.threads_for(2)) == (8, 4)


@pytest.mark.parametrize(
    ("most", "threads"), [("2", 2), ("16", 4), ("0", 4), ("", 4), ("many", 4), ("4,2", 4)]
)
def test_threads_are_no_more_than_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, most: str, threads: int
) -> None:
    monkeypatch.setattr(tuning, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", most)
    assert tuning.threads_for(2) == threads


def test_a_long_folder_of_temporary_files_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 100)
    with pytest.raises(UsageError, match="set RAY_TMPDIR to a shorter one"):
        tuning.check_session(RayConfig())
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    tuning.check_session(RayConfig())


def test_workers_find_the_modules_that_this_process_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.syspath_prepend(str(tmp_path))
    own = RayConfig(runtime_env={"env_vars": {"MINE": "1"}})
    tuning._start(2, 0.0, own)
    variables = asked["runtime_env"]["env_vars"]
    assert str(tmp_path) in variables["PYTHONPATH"].split(os.pathsep)
    assert variables["MINE"] == "1"


def test_a_ray_that_cannot_start_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nIts logs:\n...")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = (
        r"Ray could not start on this machine: The current node timed out during startup\. · .*"
        "; go on with: autoprune resume 'my run'$"
    )
    with pytest.raises(WorkError, match=said), tuning.session(1, folder=Path("my run")):
        pass


def test_ray_gets_a_home_where_the_user_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    with tuning._writable_home():
        assert os.access(os.environ["HOME"], os.W_OK)
    assert os.environ["HOME"] == str(tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    with tuning._writable_home():
        assert os.environ["HOME"] == str(tmp_path)


def test_trials_that_break_and_workers_that_die_do_not_end_the_search(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=12), concurrent=2)
    ledger = toy.run_toy(folder, plan, raises=(1,), dies=(4,))
    records = {record.number: record for record in folder.records()}
    assert ledger.done == 12
    assert records[1].state == "failed"
    assert (records[1].error or "").splitlines()[0] == "RuntimeError: the toy broke"
    assert "Traceback" in (records[1].error or "")
    assert records[4].state == "failed"
    assert (records[4].error or "").splitlines()[0] == "the worker process died"
    states = [record.state for record in records.values()]
    assert states.count("complete") >= 4
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder.path / 'study.db'}")
    named = {"complete": "COMPLETE", "stopped": "PRUNED", "infeasible": "PRUNED", "failed": "FAIL"}
    assert {n: named[r.state] for n, r in records.items()} == {
        t.number: t.state.name for t in study.trials if t.number in records
    }
    starts = [line.split() for line in (folder.path / "log.txt").read_text().splitlines()]
    trained_by = Counter(process for what, *_, process in starts if what == "trial")
    assert max(trained_by.values()) >= 4  # actors are used again
    assert not (folder.path / "tune").exists()


def test_a_trial_that_hangs_is_ended_and_its_worker_replaced(folder: RunFolder) -> None:
    limits = Limits(trials=8, trial_timeout_s=1.5)
    ledger = toy.run_toy(folder, toy.make_plan(limits=limits, concurrent=2), hangs=(1, 3))
    records = {record.number: record for record in folder.records()}
    assert ledger.done == 8
    for number in (1, 3):
        assert records[number].state == "failed"
        assert (records[number].error or "").startswith("time-out: no report for ")
    assert sum(record.state in ("complete", "stopped") for record in records.values()) == 6


def test_the_time_limit_holds_where_a_trial_hangs(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 1.0)
    plan = toy.make_plan(limits=Limits(trials=10**6, seconds=6.0), rungs=0, concurrent=2)
    began = time.monotonic()
    toy.run_toy(folder, plan, hangs=(2,), sleep_s=0.2)
    assert time.monotonic() - began < 60.0  # not the hour that it hangs
    records = {record.number: record for record in folder.records()}
    assert (records[2].state, records[2].error, records[2].epochs) == ("stopped", None, 0.0)


def test_trials_that_all_fail_alike_end_the_search(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=40, equal_failures=3))
    ledger = toy.run_toy(folder, plan, raises=tuple(range(2, 40)))
    assert ledger.stuck == "RuntimeError: the toy broke"
    assert 4 <= ledger.done <= 6
    again = toy.run_toy(folder, toy.make_plan(limits=Limits(trials=ledger.done + 2)))
    assert again.stuck is None
    assert again.done == ledger.done + 2


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunFolder.append

    def failing(run: RunFolder, record: TrialRecord) -> None:
        if record.number >= 3:
            full = OSError(errno.ENOSPC, "No space left on device")
            raise files.unwritable(run.path / "records.jsonl", full) from full
        append(run, record)

    plan = toy.make_plan(limits=Limits(trials=6))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", failing)
        with pytest.raises(WorkError, match=r"records\.jsonl cannot be written: the disk is full"):
            toy.run_toy(folder, plan)
    before = folder.records()
    ledger = toy.run_toy(folder, plan)
    assert ledger.done == 6
    assert folder.records()[: len(before)] == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_running_trials_finish_and_loses_nothing(
    folder: RunFolder, number: signal.Signals
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import ray, toy\n"
        "from autoprune._search.trials.interrupts import Terminated\n"
        "from autoprune._search.plan import Limits\n"
        "from autoprune.store import RunFolder\n"
        "ray.cloudpickle.register_pickle_by_value(toy)\n"
        "plan = toy.make_plan(limits=Limits(trials=40), rungs=0)\n"
        "try:\n"
        "    toy.run_toy(RunFolder(sys.argv[1]), plan, sleep_s=0.5)\n"
        "except Terminated as error:\n"
        "    print('ended by', error, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(folder.path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as search:
        deadline = time.monotonic() + 300
        while len(folder.records()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        search.send_signal(number)
        said = search.communicate(timeout=60)[0]
    assert search.returncode == 0
    assert said.splitlines()[-1] == f"ended by {number.name}"
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder.path / 'study.db'}")
    assert not [t for t in study.trials if t.state == optuna.trial.TrialState.RUNNING]


@pytest.mark.slow
def test_nothing_of_ours_runs_once_the_trials_are_done(folder: RunFolder) -> None:
    """What is measured afterwards has the machine to itself."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import pathlib, ray, toy\n"
        "from autoprune._search.plan import Limits\n"
        "from autoprune.store import RunFolder\n"
        "ray.cloudpickle.register_pickle_by_value(toy)\n"
        "plan = toy.make_plan(limits=Limits(trials=4), concurrent=2)\n"
        "toy.run_toy(RunFolder(sys.argv[1]), plan)\n"
        "tasks = pathlib.Path('/proc/self/task').glob('*/children')\n"
        "print(ray.is_initialized(), [task.read_text() for task in tasks if task.read_text()])\n"
    )
    command = [sys.executable, "-c", code, str(folder.path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False []"


def test_hopeless_trials_wait_at_their_rung_and_good_ones_go_on(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=14), seed=3)
    toy.run_toy(folder, plan)
    records = [record for record in folder.records() if record.state != "infeasible"]
    stopped = [record for record in records if record.state == "stopped"]
    complete = [record for record in records if record.state == "complete"]
    assert {record.epochs for record in complete} == {4.0}
    assert stopped
    assert {record.epochs for record in stopped} <= {1.0, 2.0}
    # a stopped trial is dominated at its rung by a trial that went on
    for loser in stopped:
        rung = len(loser.history) - 1
        assert any(
            winner.history[rung]["accuracy"] >= loser.history[rung]["accuracy"]
            for winner in complete
        )
    # each trial was trained once from the start, however often it waited
    assert all([h["epoch"] for h in r.history] == [1.0, 2.0, 4.0] for r in complete)


@pytest.mark.slow
def test_a_search_that_is_killed_loses_only_what_was_running(folder: RunFolder) -> None:
    """SIGKILL to the whole process group at an arbitrary moment, then a second sitting."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import ray, toy\n"
        "from autoprune._search.plan import Limits\n"
        "from autoprune.store import RunFolder\n"
        "ray.cloudpickle.register_pickle_by_value(toy)\n"
        "plan = toy.make_plan(limits=Limits(trials=40), rungs=0)\n"
        "toy.run_toy(RunFolder(sys.argv[1]), plan, sleep_s=0.2)\n"
    )
    command = [sys.executable, "-c", code, str(folder.path), str(Path(__file__).parent)]
    with subprocess.Popen(command, start_new_session=True) as search:
        deadline = time.monotonic() + 300
        while len(folder.records()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(search.pid, signal.SIGKILL)
    before = folder.records()
    assert len(before) >= 5
    plan = toy.make_plan(limits=Limits(trials=len(before) + 4), rungs=0)
    ledger = toy.run_toy(folder, plan)
    assert folder.records()[: len(before)] == before
    assert ledger.done == len(before) + 4
    keys = [r.candidate.key for r in folder.records() if r.state == "complete"]
    assert len(set(keys)) == len(keys)
