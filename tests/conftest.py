"""Modules beside this file for every test folder; one SSH server for all; no refusals for noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd

from autoprune.cost import latency
from autoprune.cost.latency import Effort


@pytest.fixture(autouse=True, scope="session")
def any_machine_will_do() -> Iterator[None]:
    """Measurements are short, and none is refused because something else runs beside the tests."""
    with pytest.MonkeyPatch.context() as patch:
        quick = Effort(None, repeats=15, tries=1, max_half_width=float("inf"), min_free=0.0)
        patch.setattr(latency, "EFFORT", quick)
        yield


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
