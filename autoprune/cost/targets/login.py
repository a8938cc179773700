"""Logging in to a device: every host key is checked, every failure is one line with a remedy."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import asyncssh

from autoprune.cost.targets.address import SshAddress
from autoprune.errors import DeviceError, DeviceLostError

_log = logging.getLogger(__name__)

_WAITS_S = (1.0, 3.0)  # before another try, where the trouble may pass
_CONNECT_S = 15.0  # at most, for one try
_KEEPALIVE_S = 10.0  # three without an answer: the device is gone
_FAILURES = (asyncssh.Error, OSError, ValueError)  # ValueError: a configuration or key unread


async def log_in(address: SshAddress) -> asyncssh.SSHClientConnection:
    """An authenticated connection, after three tries where the trouble may pass.

    Raises DeviceLostError where the device cannot be reached, DeviceError where it must not be
    trusted, or does not let us in.
    """
    for wait in (*_WAITS_S, None):
        try:
            return await _connect(address)
        except _FAILURES as error:
            if wait is None or not _may_pass(error):
                raise _explained(error, address) from error
            _log.info("%s: %s, another try in %g s", address, error_words(error), wait)
        await asyncio.sleep(wait)
    raise AssertionError("the last try returns or raises")


async def _connect(address: SshAddress) -> asyncssh.SSHClientConnection:
    where: dict[str, Any] = {"host": address.host, "config": _config(address)}
    where |= {"port": address.port} if address.port else {}
    where |= {"username": address.user} if address.user else {}
    known = _KnownHosts(address, where)
    try:
        return await asyncssh.connect(
            **where,
            known_hosts=known,
            connect_timeout=min(address.timeout_s, _CONNECT_S),
            keepalive_interval=_KEEPALIVE_S,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise known.refusal(error.reason) from error


def _config(address: SshAddress) -> list[str] | tuple[()]:
    """What asyncssh reads; nothing named is `~/.ssh/config`, where there is one."""
    return [address.config] if address.config else ()


class _KnownHosts:
    """Looks host keys up as the ssh configuration says, and remembers whether there were any."""

    def __init__(self, address: SshAddress, where: dict[str, Any]) -> None:
        options = asyncssh.SSHClientConnectionOptions(**where)
        jumps = options.tunnel.split(",") if isinstance(options.tunnel, str) else []
        hosts = [jump.rpartition("@")[2].partition(":")[0] for jump in jumps]
        hops = [
            asyncssh.SSHClientConnectionOptions(host=host, config=where["config"]) for host in hosts
        ]
        if any(hop.known_hosts is None for hop in (options, *hops)):
            raise DeviceError(
                f"{address}: the ssh configuration sets UserKnownHostsFile none, which accepts any "
                "host key · remove that line"
            )
        named = options.known_hosts if isinstance(options.known_hosts, list) else []
        paths = [Path(str(name)).expanduser() for name in named or ["~/.ssh/known_hosts"]]
        self._file = paths[0]
        self._files = [str(path) for path in paths if path.is_file()]
        self._address = address
        self._asked: tuple[str, int | None] | None = None
        self._some = False

    def __call__(self, host: str, addr: str, port: int | None) -> Any:
        found = asyncssh.match_known_hosts(self._files or b"", host, addr, port)
        self._asked = host, port
        self._some = any(found[:2])
        return found

    def refusal(self, reason: str) -> DeviceError:
        """Why a host key was not taken, and what to do."""
        if self._asked is None:  # a jump host's
            return DeviceError(f"{self._address}: {reason} · connect once by hand: {self._by_hand}")
        host, port = self._asked
        if self._some:
            name = f"[{host}]:{port}" if port else host
            return DeviceError(
                f"{self._address}: the host key of {host} is another than in {self._file}: the "
                "device was set up anew, or someone is in between · if you know why: ssh-keygen "
                f"-f {self._file} -R '{name}', then connect once by hand: {self._by_hand}"
            )
        scan = f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"
        return DeviceError(
            f"{self._address}: the host key of {host} is not in {self._file} · connect once by "
            f"hand and compare it: {self._by_hand}, or add it: {scan} >> {self._file}"
        )

    @property
    def _by_hand(self) -> str:
        return self._address.command


def _may_pass(error: Exception) -> bool:
    """Whether another try is worth it: not for what a person has to mend."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    return isinstance(error, (OSError, asyncssh.ConnectionLost, asyncssh.ChannelOpenError))


def _explained(error: Exception, address: SshAddress) -> DeviceError:
    """What went wrong while logging in, and what to do."""
    words, by_hand = error_words(error), f"try by hand: {address.command}"
    match error:
        case asyncssh.PermissionDenied():
            return DeviceError(
                f"{address} refuses the login ({words}) · add your key there with ssh-copy-id, or "
                f"name the right one in the ssh configuration; {by_hand}"
            )
        case asyncssh.ConnectionLost() | asyncssh.ChannelOpenError():
            return DeviceLostError(f"{address} broke the connection off ({words}) · {by_hand}")
        case asyncssh.Error():
            return DeviceError(f"{address} and we have no SSH in common ({words}) · {by_hand}")
        case socket.gaierror():
            return DeviceLostError(
                f"{address}: the host's name is not known ({words}) · check it, or use its address"
            )
        case FileNotFoundError() | PermissionError() | ValueError():
            return DeviceError(
                f"{address}: the ssh configuration or a key cannot be read ({words}) · a key with "
                f"a passphrase needs ssh-add; {by_hand}"
            )
        case TimeoutError():
            return DeviceLostError(
                f"{address} does not answer within {min(address.timeout_s, _CONNECT_S):g} s · is "
                f"it switched on, and on this network? {by_hand}"
            )
        case _:
            return DeviceLostError(
                f"{address} cannot be reached ({words}) · is it switched on, with an SSH server on "
                f"that port? {by_hand}"
            )


def error_words(error: BaseException) -> str:
    """An exception as part of a line."""
    return " ".join(str(error).split()) or type(error).__name__
