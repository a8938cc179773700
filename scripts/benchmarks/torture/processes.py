"""Kills, signals and hangs of whole searches, by the command line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna

from autoprune.errors import AutopruneError
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, read_model
from scripts.benchmarks.torture.outcome import Outcome, clear

TASK = """
import time
from pathlib import Path
from sklearn import datasets, utils
from torch import nn, tensor
import autoprune

x, y = map(tensor, utils.shuffle(*datasets.load_wine(return_X_y=True), random_state=0))
batches = list(zip(x.float().split(16), y.split(16), strict=True))

class Wine(autoprune.Task):
    dense_epochs = 5

    def __init__(self, hang: str = "", steps: int = 1):
        self.hang, self.steps = hang, steps

    def build_model(self):
        return nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))

    def train_loader(self, seed):
        if self.hang and Path(self.hang).exists():
            Path(self.hang).unlink()
            time.sleep(3600)
        return batches[:7] * self.steps

    def val_loader(self):
        return batches[7:9]

    def test_loader(self):
        return batches[9:]
"""
CONFIG = """
task: task.py:Wine
task_args: {{hang: "{hang}", steps: 20}}
budget: {{macs: 50%}}
device: {{runtime: torch}}
output: run
search: {{trials: {trials}, epochs: 4, screen: 8, trial_timeout: {timeout}, keep_models: all,
  concurrent: {concurrent}}}
"""
TRIALS, LONGEST_S = 10, 600.0
STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "infeasible": "PRUNED", "failed": "FAIL"}


def prepare(
    folder: Path,
    *,
    trials: int = TRIALS,
    timeout: float = 120.0,
    hang: str = "",
    concurrent: int = 2,
) -> None:
    """A task and its configuration in an empty folder."""
    folder.mkdir(parents=True)
    (folder / "task.py").write_text(TASK)
    text = CONFIG.format(trials=trials, timeout=timeout, hang=hang, concurrent=concurrent)
    (folder / "config.yaml").write_text(text)


def start(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A command of autoprune in a process group of its own."""
    own = {"AUTOPRUNE_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", *arguments],
        cwd=folder,
        env={**os.environ, **own, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = LONGEST_S) -> tuple[int | None, str]:
    """(exit code, errors); None for the code where it had to be killed."""
    try:
        said = process.communicate(timeout=seconds)[1]
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[1]
    finally:
        process.wait()


def finished(folder: Path) -> tuple[TrialRecord, ...]:
    """The records so far; none where there is no run yet."""
    run = folder / "run"
    return RunFolder(run).records() if RunFolder.is_run(run) else ()


def resumed(folder: Path, before: tuple[TrialRecord, ...], trials: int = TRIALS) -> Outcome:
    """Go on with what a fault has left, and compare."""
    verb = ("resume", "run") if RunFolder.is_run(folder / "run") else ("search", "config.yaml")
    process = start(folder, *verb, "--quiet")
    _, said = ended(process)
    if process.returncode != 0:
        return Outcome("lost", f"{' '.join(verb)} ended with {process.returncode}: {said[-500:]}")
    return compare(folder / "run", before, trials)


def compare(place: Path, before: tuple[TrialRecord, ...], trials: int) -> Outcome:
    """What a run holds at its end, against what had been finished before the fault."""
    run = RunFolder.open(place)
    after = {record.number: record for record in run.records()}
    for record in before:
        there = after.get(record.number)
        if there is None or (there.candidate, there.metrics) != (record.candidate, record.metrics):
            return Outcome("lost", f"trial {record.number}")
    done = [record for record in after.values() if record.state != "infeasible"]
    keys = Counter(record.candidate.key for record in done)
    if len(done) != trials or max(keys.values()) > 1:
        return Outcome("doubled", f"{len(done)} trials, {max(keys.values())} of one candidate")
    for record in done:
        if record.artifact is not None:
            try:
                read_model(run.model_folder(record))
            except AutopruneError as error:
                return Outcome("lost", str(error))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="autoprune", storage=f"sqlite:///{place / 'study.db'}")
    told = {trial.number: trial.state.name for trial in study.trials}
    differ = [n for n, record in after.items() if told.get(n) != STATES[record.state]]
    return Outcome("wrong", f"the study differs in trial {differ[0]}") if differ else Outcome()


def kills(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """SIGKILL to the process group, at any moment from the start to the end."""
    rng = random.Random(seed)
    usual = 30.0
    for number in range(tries):
        folder = place / str(number)
        prepare(folder)
        began, process = time.monotonic(), start(folder, "search", "config.yaml", "--quiet")
        try:
            process.wait(rng.uniform(3.0, usual))
            usual = time.monotonic() - began
        except subprocess.TimeoutExpired:
            pass
        with_children(process, signal.SIGKILL)
        process.communicate()
        yield resumed(folder, finished(folder))


def resumes(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """SIGKILL with one trial at a time, then resume: every trial is that of the run not killed."""
    rng, whole = random.Random(seed), place / "whole"
    prepare(whole, concurrent=1)
    began, process = time.monotonic(), start(whole, "search", "config.yaml", "--quiet")
    _, said = ended(process)
    if process.returncode != 0:
        raise RuntimeError(said)
    usual, expected = time.monotonic() - began, contents(whole)
    for number in range(tries):
        folder = place / str(number)
        prepare(folder, concurrent=1)
        process = start(folder, "search", "config.yaml", "--quiet")
        wanted = rng.randrange(1, TRIALS)
        while len(finished(folder)) < wanted and process.poll() is None:
            time.sleep(0.1)
        time.sleep(rng.uniform(0.0, usual / TRIALS))
        with_children(process, signal.SIGKILL)
        process.communicate()
        outcome = resumed(folder, finished(folder))
        found = contents(folder)
        if outcome.kind == "fine" and found != expected:
            differ = [n for n in expected if found.get(n) != expected[n]]
            outcome = Outcome("wrong", f"killed after {wanted}: other trials {differ}")
        yield outcome


def contents(folder: Path) -> dict[object, object]:
    """What a search has decided and found, without what was measured in time."""
    run = RunFolder.open(folder / "run")
    trials = {r.number: (r.state, r.origin, r.candidate.key, r.metrics) for r in run.records()}
    front = run.front()
    members = tuple(record.number for record in front.front.members) if front else ()
    return {**trials, "front": members, "arithmetic": run.arithmetic()}


def with_children(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to the group, as far as it is there still."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def signals(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """SIGTERM and SIGHUP in turns; the message must say how to resume."""
    rng = random.Random(seed)
    for number in range(tries):
        folder, which = place / str(number), (signal.SIGTERM, signal.SIGHUP)[number % 2]
        prepare(folder)
        process = start(folder, "search", "config.yaml", "--quiet")
        time.sleep(rng.uniform(6.0, 30.0))
        process.send_signal(which)
        code, said = ended(process, 60.0)
        if code is None or process.returncode not in (0, 128 + which):
            yield Outcome("unclear", f"{which.name} ended with {process.returncode}: {said[-300:]}")
        elif process.returncode != 0 and (not clear(said) or "stopped" not in said):
            yield Outcome("unclear", f"{which.name}: {said[-300:]}")
        else:
            yield resumed(folder, finished(folder))


def hangs(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """A trial that never returns: the search ends without it, in time."""
    rng = random.Random(seed)
    for number in range(tries):
        folder = place / str(number)
        flag = folder / "hang"
        prepare(folder, timeout=25.0, hang=str(flag))
        process = start(folder, "search", "config.yaml", "--quiet")
        wanted = rng.randrange(1, 6)
        while len(finished(folder)) < wanted and process.poll() is None:
            time.sleep(0.1)
        flag.write_text("")
        code, said = ended(process, 300.0)
        if code is None or process.returncode != 0:
            yield Outcome("lost", f"ended with {process.returncode}: {said[-300:]}")
            continue
        failed = [r for r in finished(folder) if r.state == "failed"]
        expected = [] if flag.exists() else [1]
        told = [r for r in failed if (r.error or "").startswith("time-out: ")]
        if len(told) != len(expected) or len(failed) != len(told):
            yield Outcome("unclear", f"failed: {[(r.error or '')[:200] for r in failed]}")
        else:
            yield compare(folder / "run", (), TRIALS)
