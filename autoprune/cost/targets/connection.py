"""One errand to a device over SSH: files go there, a script runs, its answer comes back.

All of it is one command in one channel, since every further one may cost a login shell's start. The
command is a shell that owns a fresh folder; in it, Python first takes the files from its standard
input, then imports `on_device.py`, which is one of them. That input stays open until we go, so that
the script knows when nobody waits for it any more; the shell removes the folder however it ends.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
from collections.abc import Mapping

import asyncssh

from autoprune.cost.targets.address import SshAddress
from autoprune.cost.targets.login import error_words, log_in
from autoprune.errors import DeviceError, DeviceLostError

_SLOWEST = 50e3  # bytes a second that copying must reach
_NO_FOLDER, _NO_ROOM, _NO_START = 73, 74, (126, 127)  # exit statuses
_SHELL = (
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


async def answer_from(address: SshAddress, files: Mapping[str, bytes], longest_s: float) -> str:
    """The last line that `on_device.py`, one of `files`, leaves in `answer.json`.

    It may take `longest_s` seconds, what copying needs, and the address's time-out. Raises what
    `log_in` raises, DeviceLostError where the connection ends or the time is over, and DeviceError
    where the device cannot do it.
    """
    sent = b"".join(_frame(name, content) for name, content in files.items()) + b"end\n"
    allowed_s = address.timeout_s + longest_s + len(sent) / _SLOWEST
    command = shlex.join(["sh", "-c", _SHELL, address.python, _RECEIVE])
    ssh = await log_in(address)
    try:
        process = await ssh.create_process(command, encoding=None)
        process.stdin.write(sent)
        out, err = await asyncio.wait_for(process.communicate(), allowed_s)
    except TimeoutError:
        raise DeviceLostError(
            f"{address} gave no answer in {allowed_s:.0f} s · if it only needs longer, add "
            f"timeout={2 * address.timeout_s:g} to its address"
        ) from None
    except (asyncssh.Error, OSError) as error:
        raise DeviceLostError(f"{address} was lost: {error_words(error)}") from error
    finally:
        ssh.abort()
        await ssh.wait_closed()
    if process.returncode is None:
        raise DeviceLostError(f"{address} was lost: the connection broke off")
    if process.returncode != 0:
        raise _refusal(address, process.returncode, _last_line(err), len(sent))
    return _last_line(out)


def _frame(name: str, content: bytes) -> bytes:
    return json.dumps([name, len(content)]).encode() + b"\n" + content


def _refusal(address: SshAddress, status: int, said: str, size: int) -> DeviceError:
    """What an exit status means; `said` is the last line of the standard error."""
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
    if status > 128 or status < 0:
        name = _signal_name(status - 128 if status > 128 else -status)
        return DeviceError(
            f"{address}: the measurement was killed there ({name}) · mostly too little memory: a "
            "smaller batch or model needs less"
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


def _last_line(output: bytes | str | None) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
