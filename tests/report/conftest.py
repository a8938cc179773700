from __future__ import annotations

import pytest
from synthetic_run import make_run

from autoprune.report.data import RunView
from autoprune.report.read import read


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def view(finished_run) -> RunView:
    return read(finished_run)
