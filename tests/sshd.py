"""A real OpenSSH server on a free port of this machine, with its own keys, for this user."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"
MISSING = "needs OpenSSH's server: apt-get install openssh-server"

_SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PidFile none
AcceptEnv TMPDIR
LogLevel ERROR
# bash takes itself for a nested one and leaves ~/.bashrc alone, which may be slow:
SetEnv SHLVL=1
"""
_CLIENT = """\
Host stranger
    UserKnownHostsFile {folder}/nobody
Host careless
    UserKnownHostsFile none
Host changed
    UserKnownHostsFile {folder}/known_others
Host denied
    IdentityFile {folder}/other
Host noisy
    IdentityFile {folder}/noisy
Host full
    IdentityFile {folder}/full
Host lacking-tmp
    SetEnv TMPDIR={folder}/missing
Host behind
    ProxyJump device
Host behind-stranger
    ProxyJump stranger
Host nameless
    HostName no-such-host.invalid
Host * !denied
    IdentityFile {folder}/client
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known
    SetEnv TMPDIR={folder}/tmp
"""
# What a key's login runs instead: one greets first, one can write no file above 16 blocks.
_FORCED = {
    "client": "",
    "noisy": r'command="echo Welcome; eval \"$SSH_ORIGINAL_COMMAND\"" ',
    "full": r'command="ulimit -f 16; eval \"$SSH_ORIGINAL_COMMAND\"" ',
}


class Server:
    """`config` is an ssh configuration with an alias for each thing that can go wrong.

    `device` works; `stranger`, `changed` and `careless` differ in the host keys that are known,
    `denied` in the client's key; `noisy` and `full` in what a login does, `lacking-tmp` in the
    place for temporary files (`tmp` otherwise); `behind` is reached through a jump host.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.config = folder / "ssh_config"
        values = {"folder": folder, "port": self.port, "user": getpass.getuser()}
        self.config.write_text(_CLIENT.format(**values))
        (folder / "sshd_config").write_text(_SERVER.format(**values))
        public = {name: _key(folder / name) for name in ("host", "other", *_FORCED)}
        (folder / "known").write_text(f"127.0.0.1 {public['host']}")
        (folder / "known_others").write_text(f"[127.0.0.1]:{self.port} {public['other']}")
        keys = [f"{forced}{public[name]}" for name, forced in _FORCED.items()]
        (folder / "authorized_keys").write_text("".join(keys))

    def __enter__(self) -> Self:
        if os.geteuid() == 0:  # the server drops its privileges into this empty folder
            Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
        self._log = (self.folder / "log").open("w")
        self._process = subprocess.Popen(
            [PROGRAM, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text() or "sshd does not listen")

    def address(self, alias: str = "device", port: int | None = None, **options: object) -> str:
        """The alias as a runtime; `options` go into its query."""
        default = {"config": self.config, "python": sys.executable}
        query = "&".join(f"{key}={value}" for key, value in {**default, **options}.items())
        return f"ssh://{alias}{f':{port}' if port else ''}?{query}"

    def python(self, name: str, script: str) -> Path:
        """What the device calls Python: a shell script, run with Python's arguments."""
        file = self.folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def left(self, within_s: float = 10.0) -> list[Path]:
        """The folders that are still on the device after waiting for them to go."""
        end = time.monotonic() + within_s
        while (found := list(self.tmp.glob("autoprune.*"))) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()


class Proxy:
    """A way to the server that can be cut, frozen, and opened again."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._thawed = threading.Event()
        self._thawed.set()
        self._sockets: list[socket.socket] = []
        self.port = free_port()
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()
        self._thawed.set()

    def freeze(self) -> None:
        """Keep the connections, and let nothing pass."""
        self._thawed.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._thawed.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _key(file: Path) -> str:
    """A new key pair; its public half as a line."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file.with_suffix(".pub").read_text()
