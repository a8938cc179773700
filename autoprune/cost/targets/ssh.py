"""A remote device over SSH: ONNX models are sent, raw times are returned."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autoprune.cost import timing
from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_prunings import onnx_of_prunings
from autoprune.cost.targets import load, on_device
from autoprune.cost.targets.address import SshAddress
from autoprune.cost.targets.base import Protocol, Target, Timings
from autoprune.cost.targets.connection import answer_from
from autoprune.errors import DeviceError

_log = logging.getLogger(__name__)
_SCRIPTS = {"timing.py": timing, "load.py": load, "on_device.py": on_device}


@dataclass(frozen=True, slots=True)
class _Job:
    """A job for the device: its `job.json`, and the other files to send."""

    job: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def of(
        models: Sequence[nn.Module], example_inputs: Inputs, protocol: Protocol, provider: str
    ) -> _Job:
        """Each model as ONNX, named by its content (equal ones are sent once); the inputs."""
        written = list(onnx_of_prunings(models, example_inputs)) if models else []
        names = [f"{hashlib.sha256(one.data).hexdigest()[:16]}.onnx" for one in written]
        files = {name: one.data for name, one in zip(names, written, strict=True)}
        feed = written[0].feed(example_inputs) if written else {}
        if feed:
            packed = io.BytesIO()
            np.savez(packed, *feed.values())
            files["inputs.npz"] = packed.getvalue()
        job = {**asdict(protocol), "provider": provider, "models": names, "inputs": list(feed)}
        return _Job(job, files)

    @property
    def longest_s(self) -> float:
        """How long the measurement itself may take, for models that run in under a second.

        Warm-up, rounds until their time limit, and the last round.
        """
        turns = 2  # of a model in the last round: less for all but the first, together at most
        each_s = 5 * self.job["warmup_s"] + timing.LONGEST_S + turns * (timing.BURST + 1)
        return float(each_s * len(self.job["models"]))


class Ssh(Target):
    """ONNX Runtime on another machine, which needs Python 3.8, NumPy and ONNX Runtime.

    Each call opens one connection, copies models, inputs and three scripts into a fresh folder
    (removed by the device when the connection ends, however it does), and times there what
    `OnnxRuntime` times here. Raises DeviceLostError where the device cannot be reached or is lost
    on the way, and another DeviceError for what the user must fix first.
    """

    def __init__(self, runtime: str) -> None:
        """`runtime` as in `SshAddress`; DeviceError where it cannot be read."""
        self.address = SshAddress.parse(runtime)

    def check(self) -> None:
        """Needs OpenSSH's client, and the ssh configuration that the address names."""
        if shutil.which("ssh") is None:
            raise DeviceError(
                "a device over SSH needs the command ssh, which is not installed · apt-get install "
                "openssh-client"
            )
        config = self.address.config
        if config is not None and not Path(config).is_file():
            raise DeviceError(f"{self.address}: the ssh configuration {config} is not a file")

    def reach(self, threads: int) -> None:
        """Connect, and check that the device has what measuring needs."""
        self._about(threads)

    def versions(self) -> dict[str, str]:
        """Of Python and the packages there."""
        return dict(self._about()["versions"])

    def time(
        self, models: Sequence[nn.Module], example_inputs: Inputs, protocol: Protocol
    ) -> Timings:
        """Export here, then time there, interleaved."""
        job = _Job.of(models, example_inputs, protocol, self.address.provider)
        answer = self._ask(job)
        about = answer["device"]
        name = f"{about['name']} ({about['host']})"
        rounds = timing.Rounds(**answer["rounds"])
        return Timings(rounds, name, answer["busy"], about["cores"])

    def _about(self, threads: int = 1) -> dict[str, Any]:
        """The device's description of itself; a busy one is logged as a warning."""
        nothing = _Job.of([], (), Protocol(threads), self.address.provider)
        about: dict[str, Any] = self._ask(nothing)["device"]
        if about["load"] > about["cores"]:
            _log.warning(
                "%s is busy (load %.1f on %d cores): other programs there make latencies longer",
                self.address,
                about["load"],
                about["cores"],
            )
        return about

    def _ask(self, job: _Job) -> dict[str, Any]:
        """The device's answer to a job (see `on_device.answer`)."""
        scripts = {
            name: Path(str(module.__file__)).read_bytes() for name, module in _SCRIPTS.items()
        }
        files = {**scripts, **job.files, "job.json": json.dumps(job.job).encode()}
        answer: dict[str, Any] = json.loads(answer_from(self.address, files, job.longest_s))
        self._judge(answer, job.job["threads"])
        return answer

    def _judge(self, answer: Mapping[str, Any], threads: int) -> None:
        """Raise DeviceError where the device lacks what the job asks for."""
        at, about = self.address, answer["device"]
        if answer["missing"]:
            names = " and ".join(answer["missing"])
            wanted = shlex.join([at.python, "-m", "pip", "install", *answer["missing"]])
            first = next(iter(answer["missing"].values()))
            raise DeviceError(f"{at} lacks {names} ({first}) · run there: {wanted}")
        if at.provider not in about["providers"]:
            raise DeviceError(
                f"{at} has no {at.provider} · provider must be one of "
                f"{', '.join(about['providers'])}"
            )
        if not 1 <= threads <= about["cores"]:
            raise DeviceError(
                f"threads must be from 1 to {about['cores']} (the cores of {at}), got {threads}"
            )
