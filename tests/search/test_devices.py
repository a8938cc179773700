"""Several devices at once: a real search of digits, on one machine and for a phone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import autoprune
from autoprune import api, cli
from autoprune._search.measuring import target_devices
from autoprune.cost.targets import device_name
from autoprune.device.predictor import LatencyPredictor
from autoprune.profile import fit_device
from autoprune.report import html, terminal
from autoprune.report.read import read
from autoprune.tasks.digits import Digits

# Wide, so that a busy machine does not decide; tests/search/test_verify.py holds tight ones.
LIMITS = {"phone": "700%", "laptop": "900%", "edge": "800%"}
QUICK = {
    "space": "quick",
    "trials": 2,
    "epochs": 0.25,
    "rungs": 0,
    "concurrent": 1,
    "calibration_samples": 64,
    "screen": 0,
    "train_on": "cpu",
}


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("latencies are known and must not be measured again")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, ray_session: None):
    """A folder with profiles: of this machine in two runtimes, and one that a phone has made."""
    folder = tmp_path_factory.mktemp("devices")
    task = Digits()
    fit_device(task, "torch", samples=10).save(folder / "laptop.json")
    fit_device(task, "onnxruntime", batch=2, samples=10).save(folder / "edge.json")
    phone = json.loads((folder / "edge.json").read_text())
    phone["device"] = {**phone["device"], "name": "a phone"}
    (folder / "phone.json").write_text(json.dumps(phone))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(folder / "cache"))
        patch.setattr(Digits, "dense_epochs", 1)
        yield folder


@pytest.fixture(scope="module")
def found(job: Path) -> api.Result:
    names = ("laptop", "edge", "phone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatencyPredictor, "fit", refuse)
        return autoprune.search(
            "digits",
            budget={"latency_ms": LIMITS, "macs": "70%"},
            devices={name: job / f"{name}.json" for name in names},
            objectives=["accuracy", "latency_ms@laptop", "latency_ms@phone"],
            output=job / "run",
            **QUICK,
        )


def test_members_are_measured_on_every_device_of_this_machine(found: api.Result) -> None:
    assert found.front.members
    for record in found.front:
        assert record.predicted is not None
        assert record.measured is not None
        assert record.predicted.names == ("laptop", "edge", "phone")
        assert record.measured.names == ("laptop", "edge")
        devices = [record.measured.device_of(name) for name in ("laptop", "edge")]
        assert [(d.name, d.runtime, d.batch) for d in devices if d] == [
            (device_name(), "torch", 1),
            (device_name(), "onnxruntime", 2),
        ]
        phone = record.predicted.device_of("phone")
        assert phone is not None
        assert (phone.name, phone.batch) == ("a phone", 2)


def test_the_front_says_which_latency_is_only_predicted(found: api.Result) -> None:
    stored = json.loads((found.path / "front.json").read_text())
    assert (stored["source"], stored["predicted_only"]) == ("measured", ["phone"])
    for record, row in zip(found.front, found.front.values.tolist(), strict=True):
        assert row[1] == record.measured.get("latency_ms@laptop")
        assert row[2] == record.predicted.get("latency_ms@phone")
    latency = found.front.members[0].predicted.get("latency_ms@phone")
    assert found.pick(f"latency_ms@phone<={latency}") in found.front.members


def test_each_device_has_its_file_and_its_columns(found: api.Result) -> None:
    files = sorted(file.name for file in found.path.glob("device*.json"))
    assert files == ["device-edge.json", "device-laptop.json", "device-phone.json"]
    with (found.path / "trials.csv").open() as file:
        rows = {int(row["number"]): row for row in csv.DictReader(file)}
    row = rows[found.front.members[0].number]
    assert float(row["predicted.latency_ms@phone"]) > 0.0
    assert float(row["measured.latency_p95_ms@edge"]) > 0.0
    assert row["measured.latency_ms@phone"] == row["measured.ratio_to_dense@phone"] == ""
    assert float(row["measured.ratio_to_dense@edge"]) > 0.0
    assert row["device@phone"].startswith("a phone, onnxruntime")


def test_tables_have_a_line_for_each_device(found: api.Result) -> None:
    view = read(found.path)
    console = Console(width=140, record=True, quiet=True)
    with console.capture() as caught:
        console.quiet = False
        console.print(terminal.show(view))
    lines = caught.get().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("dense "))
    cells = [line.split()[-5:] for line in lines[start : start + 3]]
    assert [row[0] for row in cells] == ["laptop", "edge", "phone"]
    assert cells[2][2:] == ["–", "–", "–"]
    assert float(cells[0][2].lstrip("~")) > 0.0  # a busy machine is flagged
    assert any(line.startswith("Latency on phone predicted for: a phone") for line in lines)
    page = html.page(view)
    assert "phone is another machine than the one of the search: latency predicted only" in page
    assert "on phone, predicted" in page
    assert 'data-key="predicted.latency_ms@phone"' in page
    assert 'data-key="measured.latency_ms@phone"' not in page


def test_a_search_that_is_gone_on_with_measures_nothing_twice(
    found: api.Result, tmp_path: Path, monkeypatch
) -> None:
    again = tmp_path / "again"
    shutil.copytree(found.path, again)
    (again / "front.json").unlink()
    state = json.loads((again / "state.json").read_text())
    (again / "state.json").write_text(json.dumps({**state, "phase": "verify"}))
    monkeypatch.setattr(LatencyPredictor, "fit", refuse)
    monkeypatch.setattr(target_devices, "measured_or_flagged", refuse)
    resumed = autoprune.resume(again)
    assert resumed.records == found.records
    assert resumed.front.to_dict() == found.front.to_dict()


def test_retrained_models_are_measured_on_the_devices_here(found: api.Result, capsys) -> None:
    arguments = ["retrain", str(found.path), "--pick", "fastest@phone", "--quiet"]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--epochs", "0.1", "--seeds", "1"])
    printed = capsys.readouterr()
    assert not end.value.code, printed.err
    summary = next((found.path / "retrained").glob("*/summary.json"))
    measured = autoprune.Cost.from_dict(json.loads(summary.read_text())["measured"])
    assert measured.names == ("laptop", "edge")
    for name in measured.names:
        assert f"ms on {name}, dense" in printed.out
    shutil.rmtree(summary.parent)
