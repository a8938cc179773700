"""Makes the modules beside this file importable from every test folder."""

import pytest

from autoprune.cost import latency


@pytest.fixture(autouse=True)
def any_machine_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement is refused because something else runs where the tests do."""
    monkeypatch.setattr(latency, "_HOPELESS", float("inf"))
    monkeypatch.setattr(latency, "_LEAST_ROOM", 0.0)
