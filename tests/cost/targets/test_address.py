"""Addresses of devices: what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.cost.targets import SshAddress, find_target
from autoprune.errors import DeviceError


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ssh://", "is no address of a device · write e.g. ssh://user@host:22"),
        ("ssh://cam/folder", "is no address"),
        ("ssh://cam:port", "cannot be read"),
        ("ssh://cam:99999", "cannot be read"),
        ("ssh://cam?pyton=3", "pyton is not an option · nearest: python"),
        ("ssh://cam?python=", "python must not be empty"),
        ("ssh://cam?timeout=soon", "timeout must be seconds above 0, got 'soon'"),
        ("ssh://cam?timeout=nan", "timeout must be seconds above 0, got 'nan'"),
        ("ssh://cam?timeout=-1", "timeout must be seconds above 0, got '-1'"),
        ("ssh://cam?config=my/config", "config must be an absolute path, got 'my/config'"),
        ("ssh://cam?config=/no/config", "the ssh configuration /no/config is not a file"),
        ("shh://cam", "runtime must be one of .* another machine: ssh://user@host"),
    ],
)
def test_wrong_addresses_are_refused_in_one_line(address: str, says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        find_target(address)


@pytest.mark.parametrize(
    "address", ["ssh://pi:secret@cam", "ssh://pi:secret@cam:port?x", "ssh://:secret@["]
)
def test_a_password_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(DeviceError, match="must not hold a password") as refusal:
        find_target(address)
    assert "secret" not in str(refusal.value)


def test_an_address_keeps_what_ssh_needs() -> None:
    address = SshAddress.parse("ssh://pi@Cam.local?config=~/c&provider=XnnpackExecutionProvider")
    assert (address.user, address.host, address.port) == ("pi", "Cam.local", None)
    assert address.config == str(Path("~/c").expanduser())
    assert (address.python, address.timeout_s) == ("python3", 60.0)
    assert address.provider == "XnnpackExecutionProvider"
    six = SshAddress.parse("ssh://[fe80::1]:22")
    assert (six.host, six.port, str(six)) == ("fe80::1", 22, "ssh://[fe80::1]:22")
