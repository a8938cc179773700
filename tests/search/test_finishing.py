"""The front of a finished search is measured again: all of it, or it stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import readme_task

import autoprune
from autoprune._search.ending.finishing import replace_front
from autoprune._search.measuring import target_devices
from autoprune._search.measuring.target_devices import TargetDevice
from autoprune._search.state.progress import Snapshot
from autoprune.budget import Device
from autoprune.config.sections import DeviceConfig
from autoprune.cost.targets import device_name
from autoprune.errors import DeviceError, DeviceLostError
from autoprune.pareto import Objective, ParetoFront
from autoprune.store import RunFolder

SHOWN: list[Snapshot] = []  # by the search
FILES = ("front.json", "dense.json", "records.jsonl", "state.json")


class Display:
    def update(self, snapshot: Snapshot) -> None:
        SHOWN.append(snapshot)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(folder / "cache"))
        yield autoprune.search(
            f"{readme_task.write(folder)}:Wine",
            budget={"macs": "60%"},
            space="quick",
            output=folder / "run",
            trials=2,
            epochs=1,
            rungs=0,
            concurrent=1,
            screen=0,
            progress=Display(),
        ).path


def test_what_is_shown_at_the_end_is_the_measured_front(finished: Path) -> None:
    assert {each.source for each in SHOWN[:-1]} == {"predicted"}
    last, front = SHOWN[-1], RunFolder.open(finished).front().front
    assert (last.phase, last.source) == ("done", "measured")
    assert [member["number"] for member in last.front] == [r.number for r in front.members]
    assert last.hypervolume == pytest.approx(front.hypervolume)


def content(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in FILES]


def test_a_front_that_cannot_be_measured_again_stays(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(finished)
    measure, calls = target_devices.measured_or_flagged, []

    def lost(*args: Any, **options: Any) -> Any:
        calls.append(args)
        raise DeviceLostError("the board is off")

    monkeypatch.setattr(target_devices, "measured_or_flagged", lost)
    with pytest.raises(DeviceError, match=r"stays as it was: the board is off"):
        autoprune.verify(finished)
    assert (len(calls), content(finished)) == (1, before)
    monkeypatch.setattr(target_devices, "measured_or_flagged", measure)
    assert autoprune.verify(finished).front.source == "measured"
    assert content(finished)[:3] != before[:3]


@pytest.mark.parametrize("source", ["measured", "predicted"])
@pytest.mark.parametrize(
    ("device", "why"),
    [
        (Device("a phone"), f"this machine is {device_name()}"),
        (Device(device_name(), "tensorrt"), "there is no runtime tensorrt here"),
    ],
)
def test_another_machine_measures_nothing(device: Device, why: str, source: Any) -> None:
    before = ParetoFront((Objective("macs"),), (), source=source)
    ready: Any = SimpleNamespace(targets=(TargetDevice("", DeviceConfig(), device),))
    with pytest.raises(DeviceError, match=f"{device.name}.* cannot be measured from here: {why}"):
        replace_front(RunFolder(Path()), ready, None, before)  # type: ignore[arg-type]
