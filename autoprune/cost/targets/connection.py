"""Commands and files on a device, over one connection, in a folder that goes when we go."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncssh

from autoprune.cost.targets.address import SshAddress
from autoprune.cost.targets.login import error_words, log_in
from autoprune.errors import DeviceError, DeviceLostError

_SLOWEST = 50e3  # bytes a second that a copy must reach
_GOODBYE_S = 5.0
_MARK = "autoprune folder "
_KEEP = (  # a folder that lives as long as this shell, which ends with the connection at the latest
    'd=$(mktemp -d "${TMPDIR:-/tmp}/autoprune.XXXXXXXX") || exit 1; '
    "trap 'rm -rf \"$d\"' EXIT; trap exit HUP INT TERM; "
    f'echo "{_MARK}$d"; cat >/dev/null'
)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended on the device."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last thing that it said: of a traceback, the error."""
        return _last(self.err) or f"exit status {self.status}"


class Connection:
    """An open connection, with a folder on the device that is removed when it ends."""

    def __init__(self, address: SshAddress, ssh: asyncssh.SSHClientConnection, folder: str) -> None:
        self.address = address
        self.folder = folder
        self._ssh = ssh

    async def run(self, command: str, allowed_s: float, given: bytes | None = None) -> Done:
        """Run a command; its standard input is `given`, or stays open as long as we are there.

        Raises DeviceLostError where it has not ended within `allowed_s` seconds, or the connection
        has, and DeviceError where the device has killed it.
        """
        process = await self._ssh.create_process(command, encoding=None)
        try:
            out, err = await asyncio.wait_for(process.communicate(given), allowed_s)
        except TimeoutError:
            process.kill()
            raise DeviceLostError(
                f"{self.address} gave no answer in {allowed_s:.0f} s · if it only needs longer, "
                f"add timeout={2 * self.address.timeout_s:g} to its address"
            ) from None
        if process.exit_signal:
            raise DeviceError(
                f"{self.address}: the measurement was killed there (SIG{process.exit_signal[0]}) · "
                "mostly too little memory: a smaller batch or model needs less"
            )
        if process.exit_status is None:
            raise DeviceLostError(f"{self.address} was lost: the connection broke off")
        return Done(process.exit_status, _text(out), _text(err))

    async def write(self, name: str, content: bytes) -> None:
        """Copy a file into the folder. Raises DeviceError where it cannot be written."""
        allowed_s = self.address.timeout_s + len(content) / _SLOWEST
        done = await self.run(f"cat > {shlex.quote(f'{self.folder}/{name}')}", allowed_s, content)
        if done.status != 0:
            raise DeviceError(
                f"{self.address} cannot take {name} ({len(content) / 1e6:.3g} MB): "
                f"{done.last_line} · free space in {self.folder.rpartition('/')[0]} there, or set "
                "TMPDIR there"
            )

    async def read(self, name: str) -> str:
        """The last line of a text file in the folder (a login may print lines before)."""
        path = shlex.quote(f"{self.folder}/{name}")
        return _last((await self.run(f"cat {path}", self.address.timeout_s)).out)


@asynccontextmanager
async def connected(address: SshAddress) -> AsyncIterator[Connection]:
    """A connection with a fresh folder on the device.

    Raises what `log_in` raises, DeviceError where no folder can be made, and DeviceLostError where
    the connection ends before its time.
    """
    ssh = await log_in(address)
    try:
        async with _folder(address, ssh) as folder:
            yield Connection(address, ssh, folder)
    except (asyncssh.Error, OSError) as error:
        raise DeviceLostError(f"{address} was lost: {error_words(error)}") from error
    finally:
        ssh.abort()
        await ssh.wait_closed()


@asynccontextmanager
async def _folder(address: SshAddress, ssh: asyncssh.SSHClientConnection) -> AsyncIterator[str]:
    """A folder that the device itself removes when we go, or are gone."""
    keeper = await ssh.create_process(f"sh -c {shlex.quote(_KEEP)}", errors="replace")
    try:
        line = await asyncio.wait_for(_marked(keeper.stdout), address.timeout_s)
        if not line:
            why = _last(await keeper.stderr.read()) or "no reason given"
            raise DeviceError(
                f"{address} cannot make a temporary folder: {why} · free space there, or set "
                "TMPDIR there to a folder that can be written"
            )
        yield line.removeprefix(_MARK).rstrip("\n")
    finally:
        with suppress(TimeoutError, OSError, asyncssh.Error):
            keeper.stdin.write_eof()
            await asyncio.wait_for(keeper.wait_closed(), _GOODBYE_S)


async def _marked(lines: asyncssh.SSHReader[str]) -> str:
    """The first line with the mark (a login may print others before), or nothing."""
    while line := await lines.readline():
        if line.startswith(_MARK):
            break
    return line


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
