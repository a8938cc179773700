"""Modules beside this file for every test folder; one SSH server for all; no refusals for noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd

from autoprune.cost import latency


@pytest.fixture(autouse=True)
def any_machine_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement is refused because something else runs where the tests do."""
    monkeypatch.setattr(latency, "_MAX_HALF_WIDTH", float("inf"))
    monkeypatch.setattr(latency, "_MIN_FREE", 0.0)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real OpenSSH server: the remote device of the tests."""
    if not Path(sshd.PROGRAM).is_file():
        pytest.skip(sshd.MISSING)
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def proxy(server: sshd.Server) -> Iterator[sshd.Proxy]:
    """A way to that server which a test can cut."""
    way = sshd.Proxy(server.port)
    yield way
    way.cut()
