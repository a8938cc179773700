"""One remote job over SSH: files are sent, a script runs, its answer is returned.

OpenSSH's own client is used, which handles keys, agents, jump hosts and known hosts. All of it is
one command in one channel, since every further one may cost a login shell's start. The command is a
shell that owns a fresh folder; in it, Python first takes the files from its standard input, then
imports `on_device.py`, which is one of them. That input stays open until this side closes it, so
that the script ends with the connection; the shell removes the folder in any case.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from autoprune.cost.targets.address import SshAddress
from autoprune.errors import DeviceError, DeviceLostError

_log = logging.getLogger(__name__)

WAITS_S: tuple[float, ...] = (1.0, 3.0)  # before each retry of a temporary error
_CONNECT_S = 15.0  # at most, for one try
_KEEPALIVE_S = 10.0  # at most; three without an answer: the device is gone
_SLOWEST = 50e3  # bytes a second that copying must reach
_FAILED = 255  # of ssh itself, not of what ran there
_NO_FOLDER, _NO_ROOM, _NO_START = 73, 74, (126, 127)  # exit statuses
_HOST_KEY = re.compile("Host key .*|.* host key .*")
_STARTED = "autoprune started"
_SHELL = (
    f"echo; echo {_STARTED}; "
    f'd=$(mktemp -d "${{TMPDIR:-/tmp}}/autoprune.XXXXXXXX") || exit {_NO_FOLDER}; '
    "trap 'rm -rf \"$d\"' EXIT; trap 'exit 143' HUP INT TERM; "
    '"$0" -B -c "$1" "$d" && echo && cat "$d/answer.json"'
)
_RECEIVE = f"""\
import json, sys
folder, given = sys.argv[1], sys.stdin.buffer
for line in iter(given.readline, b"end\\n"):
    name, size = json.loads(line.decode())
    content = given.read(size)
    try:
        with open(folder + "/" + name, "wb") as file:
            file.write(content)
    except OSError as error:
        sys.stderr.write(str(error))
        sys.exit({_NO_ROOM})
sys.path.insert(0, folder)
import on_device
on_device.main(folder)
"""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a run of `ssh` ended; `status` is None where it was given up after `allowed_s`."""

    status: int | None
    out: str
    err: str

    @property
    def is_started(self) -> bool:
        """Whether the command ran there, so that the login had worked."""
        return _STARTED in self.out.splitlines()

    @property
    def words(self) -> str:
        """The last line of the standard error."""
        return _last_line(self.err)


def answer_from(address: SshAddress, files: Mapping[str, bytes], longest_s: float) -> str:
    """The last line that `on_device.py`, one of `files`, leaves in `answer.json`.

    It may take `longest_s` seconds, what copying needs, and the address's time-out. Logging in is
    tried three times after temporary errors. Raises DeviceLostError where the device cannot be
    reached, the connection ends or the time is over, and DeviceError where it must not be trusted,
    does not let us in, or cannot do it.
    """
    sent = b"".join(_frame(name, content) for name, content in files.items()) + b"end\n"
    allowed_s = address.timeout_s + longest_s + len(sent) / _SLOWEST
    for wait in (*WAITS_S, None):
        ended = _run(address, sent, allowed_s)
        if wait is None or not _may_pass(ended):
            break
        _log.info("%s: %s, another try in %g s", address, ended.words, wait)
        time.sleep(wait)
    if ended.status == 0:
        return _last_line(ended.out)
    if ended.status is None:
        raise DeviceLostError(
            f"{address} gave no answer in {allowed_s:.0f} s · if it only needs longer, add "
            f"timeout={2 * address.timeout_s:g} to its address"
        )
    if ended.status != _FAILED:
        raise _refusal(address, ended.status, ended.words, len(sent))
    if ended.is_started:
        raise DeviceLostError(f"{address} was lost: {ended.words or 'the connection broke off'}")
    raise _no_login(address, ended)


def _run(address: SshAddress, sent: bytes, allowed_s: float) -> _Ended:
    keepalive_s = min(_KEEPALIVE_S, address.timeout_s / 6)
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": _connect_s(address),
        "ServerAliveInterval": max(1, round(keepalive_s)),
        "ServerAliveCountMax": 3,
        "LogLevel": "ERROR",
    }
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    remote = shlex.join(["sh", "-c", _SHELL, address.python, _RECEIVE])
    command = [*address.words, "-T", *given, address.login, remote]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, "LC_ALL": "C"},  # its messages are parsed below
        )
        given_up = threading.Event()
        timer = threading.Timer(allowed_s, _give_up, (process, given_up))
        timer.start()
        try:
            _send(process, sent)
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
        status = None if given_up.is_set() else process.returncode
        return _Ended(status, _read(out), _read(err))


def _send(process: subprocess.Popen[bytes], sent: bytes) -> None:
    """Write all, and leave the standard input open."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended; its status says why
        process.stdin.write(sent)
        process.stdin.flush()


def _give_up(process: subprocess.Popen[bytes], given_up: threading.Event) -> None:
    given_up.set()
    process.kill()


def _connect_s(address: SshAddress) -> int:
    return math.ceil(min(address.timeout_s, _CONNECT_S))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _frame(name: str, content: bytes) -> bytes:
    return json.dumps([name, len(content)]).encode() + b"\n" + content


def _may_pass(ended: _Ended) -> bool:
    """Whether a retry may succeed: not for errors that the user must fix."""
    if ended.status != _FAILED or ended.is_started:
        return False
    lasting = ("Permission denied", "host key", "Host key", "not known", "configuration", "config ")
    return not any(each in ended.err for each in lasting)


def _no_login(address: SshAddress, ended: _Ended) -> DeviceError:
    """Why the login failed, and the remedy."""
    words, by_hand = ended.words, f"try by hand: {address.command}"
    if _HOST_KEY.search(ended.err):
        return _unknown_host(address, ended)
    if "Permission denied" in words:
        return DeviceError(
            f"{address} refuses the login ({words}) · add your key there with ssh-copy-id, or "
            "name the right one in the ssh configuration (one with a passphrase needs ssh-add); "
            f"{by_hand}"
        )
    if "Could not resolve hostname" in words:
        return DeviceLostError(
            f"{address}: the host's name is not known ({words}) · check it, or use its address"
        )
    if "onfig" in words:
        return DeviceError(f"{address}: the ssh configuration cannot be read ({words})")
    if "timed out" in words:
        return DeviceLostError(
            f"{address} does not answer within {_connect_s(address)} s · is it switched on, and "
            f"on this network? {by_hand}"
        )
    if "Unable to negotiate" in words:
        return DeviceError(
            f"{address} and this machine share no SSH algorithm ({words}) · {by_hand}"
        )
    return DeviceLostError(
        f"{address} cannot be reached ({words or 'ssh failed'}) · is it switched on, with an SSH "
        f"server on that port? {by_hand}"
    )


def _unknown_host(address: SshAddress, ended: _Ended) -> DeviceError:
    """Why a host key was not accepted, and the remedy."""
    found = _configured(address)
    host, port = found.get("hostname", address.host), found.get("port", "22")
    file = found.get("userknownhostsfile", "~/.ssh/known_hosts").split()[0]
    name = host if port == "22" else f"[{host}]:{port}"
    by_hand = f"connect once by hand and compare it: {address.command}"
    if f" {name} " not in ended.err:  # a jump host's
        return DeviceError(f"{address}: {_HOST_KEY.findall(ended.err)[-1]} · {by_hand}")
    if "IDENTIFICATION HAS CHANGED" in ended.err:
        return DeviceError(
            f"{address}: the host key of {host} is another than in {file}: the device was set up "
            f"anew, or someone is in between · if you know why: ssh-keygen -f {file} -R '{name}', "
            f"then {by_hand}"
        )
    return DeviceError(
        f"{address}: the host key of {host} is not in {file} · {by_hand}, or add it: "
        f"ssh-keyscan -p {port} {host} >> {file}"
    )


def _configured(address: SshAddress) -> dict[str, str]:
    """The ssh configuration of the device, by lower-case keyword."""
    command = [*address.words, "-G", address.login]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {key: value for key, _, value in (line.partition(" ") for line in said.splitlines())}


def _refusal(address: SshAddress, status: int, said: str, size: int) -> DeviceError:
    """The error of an exit status; `said` is the last line of the standard error."""
    if status == _NO_FOLDER:
        return DeviceError(
            f"{address} cannot make a temporary folder: {said} · free space there, or set TMPDIR "
            "there to a folder that can be written"
        )
    if status == _NO_ROOM:
        return DeviceError(
            f"{address} cannot take the models ({size / 1e6:.2g} MB): {said} · free space there, "
            "or set TMPDIR there to a folder with more"
        )
    if status in _NO_START:
        return DeviceError(
            f"{address} cannot start {address.python} ({said}) · install Python 3.8 or newer "
            "there, or name it in the address: ?python=/path/to/python3"
        )
    if status > 128:
        return DeviceError(
            f"{address}: the measurement was killed there ({_signal_name(status - 128)}) · mostly "
            "too little memory: a smaller batch or model needs less"
        )
    return DeviceError(
        f"{address}: the measurement failed there: {said or f'exit status {status}'} · it needs "
        "Python 3.8 or newer with NumPy and ONNX Runtime that fit each other"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""
