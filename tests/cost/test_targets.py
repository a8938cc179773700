"""Which runtimes there are, and what is here."""

from __future__ import annotations

import pytest

from autoprune.budget import Device
from autoprune.cost.targets import RUNTIMES, device_name, find_target, is_here, is_remote
from autoprune.errors import DeviceError


def test_here_is_the_same_name_and_an_installed_runtime(monkeypatch):
    assert is_here(Device(device_name(), "torch"))
    assert not is_here(Device("another", "torch"))
    assert not is_here(Device(device_name(), "tensorrt"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not is_here(Device(device_name(), "torch-compile"))


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(DeviceError) as caught:
        find_target("tourch")
    assert str(caught.value) == (
        f"runtime must be one of {', '.join(RUNTIMES)}, got 'tourch' · did you mean 'torch'? "
        "· another machine: ssh://user@host"
    )


def test_only_an_address_is_remote() -> None:
    assert is_remote("ssh://me@phone")
    assert not any(is_remote(runtime) for runtime in RUNTIMES)
