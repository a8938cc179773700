"""A search whose latencies count on a remote device: measured there, and not lost with it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import readme_task
import torch
from rich.console import Console
from sshd import Proxy, Server, free_port
from torch import nn

import autoprune
from autoprune import api, loading
from autoprune._search.measuring.target_devices import check, load_targets
from autoprune._search.preparing.prepare import prepare
from autoprune._search.state.progress import Snapshot
from autoprune.budget import Device
from autoprune.config import RunConfig
from autoprune.cost.latency import Latency
from autoprune.cost.targets import connection, device_name
from autoprune.device.profile import DeviceProfile
from autoprune.errors import DeviceLostError
from autoprune.report import html, terminal
from autoprune.report.read import read

HERE = f"{device_name()} ({platform.node()})"


@pytest.fixture(scope="module")
def way(server: Server) -> Iterator[Proxy]:
    """Between us and the device: it is cut when the search begins to measure its front."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.cut()


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "WAITS_S", (0.0, 0.0))
        yield


class Cutter:
    """Loses the device at the last step of a search, and keeps what is said."""

    def __init__(self, way: Proxy) -> None:
        self.way = way
        self.notes: list[str] = []

    def update(self, snapshot: Snapshot) -> None:
        self.notes.append(f"{snapshot.phase}: {snapshot.note}")
        if snapshot.note.startswith("measuring the front"):
            self.way.cut()


@pytest.fixture(scope="module")
def folder(
    server: Server, way: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Cutter]]:
    """The run of a search that lost its device at the end."""
    job, cutter = tmp_path_factory.mktemp("job"), Cutter(way)
    task = readme_task.write(job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(job / "cache"))
        autoprune.search(
            f"{task}:Wine",
            budget={"macs": "50%"},
            space="quick",
            device=server.address(port=way.port),
            output=job / "run",
            trials=2,
            epochs=1,
            rungs=0,
            concurrent=1,
            screen=0,
            progress=cutter,
        )
        yield job / "run", cutter


def shown(run: Path) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(terminal.show(read(run)))
    return console.export_text()


def test_a_search_is_not_lost_with_its_device(
    folder: tuple[Path, Cutter], server: Server, way: Proxy
) -> None:
    run, cutter = folder
    address = server.address(port=way.port)
    assert f"verify: measuring the front alone on {address}" in cutter.notes
    assert cutter.notes[-1].startswith(f"verify: not measured: ssh://device:{way.port} cannot be")
    found = api.Result.read(run)
    assert found.front.members
    assert all(member.measured is None for member in found.front.members)
    front = json.loads((run / "front.json").read_text())
    assert front["not_measured"].startswith(f"ssh://device:{way.port} cannot be reached")
    assert json.loads((run / "state.json").read_text())["phase"] == "verify"
    assert (run / "trials.csv").is_file()
    for text in (shown(run), html.page(read(run))):
        assert "not measured: ssh://device" in text or "not be measured: ssh://device" in text
        assert "autoprune resume" in text


def test_retraining_is_refused_before_the_training(folder: tuple[Path, Cutter]) -> None:
    run, _ = folder
    with pytest.raises(DeviceLostError, match="cannot be reached"):
        autoprune.retrain(run, epochs=1, seeds=1)
    assert not (run / "retrained").exists()


def test_resume_measures_what_could_not_be_measured(
    folder: tuple[Path, Cutter], server: Server, way: Proxy
) -> None:
    run, _ = folder
    before = api.Result.read(run)
    way.open()
    found = autoprune.resume(run)
    assert len(found.records) == len(before.records)
    assert found.front.members
    for member in found.front.members:
        assert member.measured is not None
        device = member.measured.device
        assert device is not None
        assert (device.name, device.runtime) == (HERE, server.address(port=way.port))
    assert json.loads((run / "state.json").read_text())["phase"] == "done"
    for text in (shown(run), html.page(read(run))):
        assert "autoprune resume" not in text


def test_retrained_models_are_measured_there(folder: tuple[Path, Cutter]) -> None:
    run, _ = folder
    summary = autoprune.retrain(run, epochs=1, seeds=1).summary
    assert summary.measured.device.name == HERE
    assert summary.dense.measured.device.name == HERE


def test_a_search_on_an_unreachable_device_is_refused_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DeviceLostError, match="cannot be reached"):
        autoprune.search(
            f"{readme_task.write(tmp_path)}:Wine",
            budget={"macs": "50%"},
            device={"runtime": server.address(port=free_port())},
            output=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    weights = list((tmp_path / "cache").rglob("*.safetensors"))
    assert weights == []  # the dense model was not trained for nothing


# Profiles


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A profile of the README's model, made with an address that leads nowhere today."""
    from autoprune.device import profile as device_profile
    from autoprune.device import sampling
    from autoprune.tasks.load import load_task

    def read_clock(models: list[nn.Module], *_: object, **options: object) -> list[Latency]:
        times = [sum(p.numel() for p in model.parameters()) / 1000 for model in models]
        board = Device("a board (cam)", NOWHERE)
        return [Latency(t, t, (t, t), board, t / times[0]) for t in times]

    monkeypatch.setattr(sampling, "measure_together", read_clock)
    for module in (device_profile, sampling):
        monkeypatch.setattr(module, "measure_latency", lambda m, *a, **k: read_clock([m])[0])
    model = load_task(f"{readme_task.write(tmp_path)}:Wine").build_model()
    made = DeviceProfile.fit(model.eval(), torch.zeros(1, 13), runtime=NOWHERE, samples=20)
    made.save(tmp_path / "device.json")
    return tmp_path / "device.json"


NOWHERE = "ssh://127.0.0.1:1"  # no free port from above: minutes later it may be another's


def test_a_profile_of_a_remote_device_is_enough_to_begin(profile: Path) -> None:
    task = f"{profile.parent}/my_task.py:Wine"
    config = RunConfig.from_dict({"task": task, "budget": {"macs": 1}, "device": str(profile)})
    assert config.device.runtime == NOWHERE
    check(load_targets(config.targets, {}))
    without = config.model_copy(update={"device": RunConfig.model_fields["device"].default})
    remote = without.device.model_copy(update={"runtime": NOWHERE})
    with pytest.raises(DeviceLostError, match=r"cannot be reached"):
        check(load_targets(config.model_copy(update={"device": remote}).targets, {}))


@pytest.mark.parametrize(
    ("runtime", "elsewhere"), [(NOWHERE, False), ("onnxruntime", True)], ids=["remote", "file"]
)
def test_only_a_device_that_can_be_asked_is_measured(
    profile: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, elsewhere: bool
) -> None:
    data = json.loads(profile.read_text())
    data["device"]["runtime"] = runtime
    profile.write_text(json.dumps(data))
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(profile.parent / "cache"))
    task = f"{profile.parent}/my_task.py:Wine"
    spec = {"task": task, "budget": {"latency_ms": "80%"}, "device": str(profile)}
    config = RunConfig.from_dict(spec)
    assert prepare(config, loading.task_of(config), lambda note: None).is_offline is elsewhere


def test_an_address_alone_is_a_device() -> None:
    spec = {"task": "digits", "budget": {"macs": "50%"}, "device": "ssh://pi@cam?timeout=9"}
    device = RunConfig.from_dict(spec).device
    assert (device.runtime, device.profile) == ("ssh://pi@cam?timeout=9", None)
