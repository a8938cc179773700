"""Two Ray nodes on this machine; the second one is killed while it trains."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.torture.outcome import Outcome, clear
from scripts.benchmarks.torture.processes import TRIALS, compare, ended, finished, prepare, start

RAY = Path(sys.executable).parent / "ray"
AUTH = {"RAY_AUTH_MODE": "disabled"}  # all three processes are on this machine


def lost_nodes(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """The search ends with what is left, and has lost nothing that was finished."""
    rng = random.Random(seed)
    for number in range(tries):
        folder = place / str(number)
        prepare(folder)
        with_two = Nodes(folder)
        try:
            yield one(folder, with_two, rng)
        finally:
            with_two.stop()


def one(folder: Path, nodes: Nodes, rng: random.Random) -> Outcome:
    address = {"RAY_ADDRESS": nodes.address, **AUTH}
    process = start(folder, "search", "config.yaml", "--quiet", environment=address)
    wanted = rng.randrange(1, 5)
    while len(finished(folder)) < wanted and process.poll() is None:
        time.sleep(0.1)
    nodes.kill_second()
    before = [record for record in finished(folder) if record.state == "complete"]
    code, said = ended(process, 300.0)
    if code is None or process.returncode != 0:
        kind = "lost" if clear(said) else "unclear"
        return Outcome(kind, f"ended with {process.returncode}: {said[-300:]}")
    return compare(folder / "run", tuple(before), TRIALS)


class Nodes:
    """A head and a second node, each with one CPU, own folder and ports."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self._head = self._start("head", ["--head", "--port", self.address.split(":")[1]])
        self._second = self._start("second", ["--address", self.address])

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        temporary = Path("/tmp") / f"ray-{os.getpid()}-{name}"
        own = ["--temp-dir", str(temporary), "--include-dashboard", "false"]
        own = own if name == "head" else []
        process = subprocess.Popen(
            [RAY, "start", *arguments, *own, "--num-cpus", "1", "--block", "--disable-usage-stats"],
            cwd=self._folder,
            env={**os.environ, "RAY_worker_niceness": "0", **AUTH},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(8.0)
        return process

    def kill_second(self) -> None:
        kill(self._second)

    def stop(self) -> None:
        """End both nodes and remove their folder."""
        for process in (self._second, self._head):
            kill(process)
        shutil.rmtree(f"/tmp/ray-{os.getpid()}-head", ignore_errors=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """The node's processes with all that they have started."""
    for child in [*descendants(process.pid)[::-1], process.pid]:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(pid: int) -> list[int]:
    """All processes below one, parents first."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        below = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        return []
    return [each for child in below for each in (child, *descendants(child))]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
