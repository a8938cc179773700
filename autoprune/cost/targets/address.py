"""The address of a remote device: `ssh://user@host:port?python=…&config=…&timeout=…&provider=…`."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from autoprune.cost.targets.on_device import CPU
from autoprune.errors import DeviceError

SCHEME = "ssh://"
_KEYS = ("python", "config", "timeout", "provider")


@dataclass(frozen=True, slots=True)
class SshAddress:
    """Where a device is, and what runs the models there.

    `host` may be an alias of the ssh configuration (`config`, otherwise `~/.ssh/config`), which
    also says the rest: keys, known hosts, jump hosts. `timeout_s` is how long the device may be
    silent, beyond the time that the measurements themselves take.

    >>> address = SshAddress.parse("ssh://pi@cam:2222?python=/usr/bin/python3.11&timeout=20")
    >>> address.user, address.host, address.port, address.python, address.timeout_s
    ('pi', 'cam', 2222, '/usr/bin/python3.11', 20.0)
    >>> str(address), address.command
    ('ssh://pi@cam:2222', 'ssh -p 2222 pi@cam')
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    config: str | None = None
    timeout_s: float = 60.0
    provider: str = CPU

    @staticmethod
    def parse(text: str) -> SshAddress:
        """Read an address. Raises DeviceError that says what cannot be read, and the form."""
        if re.match(rf"{SCHEME}[^/@]*:[^/]*@", text):  # first, so that no message repeats it
            raise DeviceError("an ssh:// address must not hold a password · use a key: ssh-copy-id")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
        except ValueError as error:
            raise DeviceError(f"runtime {text!r} cannot be read ({error}) · {_FORM}") from None
        if not text.startswith(SCHEME) or not host or parts.path.strip("/") or parts.fragment:
            raise DeviceError(f"runtime {text!r} is no address of a device · {_FORM}")
        _check_keys(text, options)
        return SshAddress(
            host=_as_written(parts),
            user=parts.username,
            port=port,
            python=options.get("python", "python3"),
            config=_config(text, options.get("config")),
            timeout_s=_seconds(text, options.get("timeout", "60")),
            provider=options.get("provider", CPU),
        )

    @property
    def login(self) -> str:
        """`user@host`, or the host alone."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def words(self) -> list[str]:
        """The beginning of the command that connects there; `login` follows."""
        config = ["-F", self.config] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *config, *port]

    @property
    def command(self) -> str:
        """The command that connects there by hand."""
        return shlex.join([*self.words, self.login])

    def __str__(self) -> str:
        """Without the options."""
        host = f"[{self.login}]" if ":" in self.host else self.login
        return f"{SCHEME}{host}" + (f":{self.port}" if self.port else "")


_FORM = "write e.g. ssh://user@host:22?python=/usr/bin/python3"


def _as_written(parts: SplitResult) -> str:
    """The host with its capitals, which `hostname` loses: an alias may have some."""
    host = parts.netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.partition(":")[0]


def _check_keys(text: str, options: dict[str, str]) -> None:
    for key, value in options.items():
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, 1)
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(_KEYS)}"
            raise DeviceError(f"runtime {text!r}: {key} is not an option · {hint}")
        if not value.strip():
            raise DeviceError(f"runtime {text!r}: {key} must not be empty · leave it out")


def _seconds(text: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise DeviceError(f"runtime {text!r}: timeout must be seconds above 0, got {value!r}")
    return seconds


def _config(text: str, value: str | None) -> str | None:
    """The path with `~` expanded; it must hold from everywhere, for a profile that travels."""
    if value is None:
        return None
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise DeviceError(f"runtime {text!r}: config must be an absolute path, got {value!r}")
    return str(path)
