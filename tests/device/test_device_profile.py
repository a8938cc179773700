"""A profile travels as a file, predicts without the dense model, refuses what it is not of."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.budget import Device
from autoprune.cost.latency import Latency
from autoprune.device import profile as device
from autoprune.device import sampling
from autoprune.device.profile import DeviceProfile
from autoprune.errors import DeviceError, DeviceLostError, NoisyError
from autoprune.graph import trace
from autoprune.pruning.surgery import prune

X = torch.zeros(2, 3, 16, 16)


class Net(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.Conv2d(width, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, width, 3, padding=1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    """Fitted with a clock that reads parameters: one microsecond each, with a wobble of 2 %."""

    def read(models, example_inputs, runtime, *, threads, warmup_s, repeats):
        counts = [sum(p.numel() for p in model.parameters()) for model in models]
        times = [count * (1.0 + 0.02 * (-1.0) ** count) / 1000 for count in counts]
        clock = Device("a clock", runtime, batch=2, threads=threads)
        return [Latency(t, t, (t, t), clock, t / times[0]) for t in times]

    monkeypatch.setattr(sampling, "measure_together", read)
    monkeypatch.setattr(sampling, "measure_latency", lambda m, *a, **k: read([m], *a, **k)[0])
    monkeypatch.setattr(device, "measure_latency", lambda m, *a, **k: None)
    torch.manual_seed(0)
    return DeviceProfile.fit(Net(), X, runtime="torch", samples=30)


def test_a_few_measurements_move_it_to_another_runtime(
    profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, measured = sampling.measure_together, []

    def slower(models, example_inputs, runtime, **options):
        measured.extend(models[1:])
        found = here(models, example_inputs, runtime, **options)
        return [replace(it, median_ms=3.0 * it.median_ms) for it in found]

    monkeypatch.setattr(sampling, "measure_together", slower)
    made = profile.moved(Net(), X, runtime="onnxruntime", threads=2, samples=8)
    assert len(measured) == len(made.predictor.samples) == 8
    assert (made.device.runtime, made.device.threads) == ("onnxruntime", 2)
    assert "onnxruntime" in made.versions
    for width in (6, 12, 24):
        small = Net(width)
        median, upper = made.predict(small)
        assert median == pytest.approx(3.0 * profile.predict(small)[0], rel=0.06)
        assert upper >= median


def test_it_only_moves_to_the_same_model_and_batch(profile: DeviceProfile) -> None:
    with pytest.raises(DeviceError, match="was made with batch 2, here it is 1"):
        profile.moved(Net(), X[:1], runtime="onnxruntime")
    with pytest.raises(DeviceError, match="is of another model"):
        profile.moved(Net(16), X, runtime="onnxruntime")


def lost_after(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is lost once so many prunings were measured."""
    read, measured = sampling.measure_together, []

    def losing(models, *args, **options):
        if len(measured) >= samples:
            raise DeviceLostError("ssh://cam was lost")
        found = read(models, *args, **options)
        measured.extend(found[1:])
        return found

    monkeypatch.setattr(sampling, "measure_together", losing)


def test_a_fit_goes_on_with_what_was_measured_before_the_device_was_lost(
    profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost_after(24, monkeypatch)
    again = DeviceProfile.fit(Net(), X, runtime="torch", samples=30, error=0.0)
    assert again.predictor.samples == profile.predictor.samples[:24]
    assert (
        "ssh://cam was lost · the fit uses the 24 of at most 30 prunings that were measured before"
        in caplog.text
    )


def smaller(share: float) -> nn.Module:
    model = Net()
    graph = trace(model, X)
    keep = {g.name: range(max(1, round(g.size * share))) for g in graph.groups}
    prune(model, graph, keep)
    return model


def test_a_smaller_model_is_read_and_predicted(profile: DeviceProfile) -> None:
    for share in (1.0, 0.7, 0.4):
        model = smaller(share)
        true = sum(p.numel() for p in model.parameters()) / 1000
        median, upper = profile.predict(model)
        assert median == pytest.approx(true, rel=0.05)
        assert median <= upper <= 1.15 * median
    assert profile.counts(smaller(0.5)) == {"stem": 12, "inner": 16, "block:inner": 1}


def test_the_upper_bound_covers_what_was_held_out(profile: DeviceProfile) -> None:
    fit = profile.predictor
    below = [ours <= theirs * fit.upper_factor for ours, theirs in fit.held_out]
    assert sum(below) >= 0.95 * len(below)
    assert fit.upper_factor > 1.0
    best = min(theirs / ours for ours, theirs in fit.held_out)
    assert fit.upper_factor <= 1.0 / best * 1.0001


def test_a_file_predicts_the_same_without_the_model(profile: DeviceProfile, tmp_path: Path) -> None:
    profile.save(tmp_path / "deep" / "device.json")
    again = DeviceProfile.load(tmp_path / "deep" / "device.json")
    assert again.device == profile.device
    assert dict(again.versions) == dict(profile.versions)
    assert again.versions["torch"] == torch.__version__
    for share in (1.0, 0.6, 0.3):
        assert again.predict(smaller(share)) == pytest.approx(profile.predict(smaller(share)))


def test_what_is_no_pruning_of_its_model_is_refused(profile: DeviceProfile) -> None:
    other = Net()
    other.head = nn.Linear(24, 6)
    with pytest.raises(DeviceError, match=r"head\.weight has shape \(6, 24\), expected \(5, 24\)"):
        profile.predict(other)
    wrong = smaller(0.5)
    wrong.outer = nn.Conv2d(15, 12, 3, padding=1)
    with pytest.raises(DeviceError, match=r"outer\.weight"):
        profile.predict(wrong)
    with pytest.raises(DeviceError, match="has shape none"):
        profile.predict(nn.Linear(3, 3))


def test_a_search_on_another_model_batch_or_type_is_refused(profile: DeviceProfile) -> None:
    graph = trace(Net(), X)
    assert profile.matched(graph, batch=2, dtype="float32").device == profile.device
    with pytest.raises(DeviceError, match="batch 2, here it is 1"):
        profile.matched(graph, batch=1, dtype="float32")
    with pytest.raises(DeviceError, match="dtype float32, here it is float64"):
        profile.matched(graph, batch=2, dtype="float64")
    with pytest.raises(DeviceError, match="another model: group 'stem' has 20 units here and 24"):
        profile.matched(trace(Net(20), X), batch=2, dtype="float32")


def test_missing_and_damaged_files_are_said_in_one_line(
    profile: DeviceProfile, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match="is not a file · make it: autoprune profile"):
        DeviceProfile.load(tmp_path / "none.json")
    file = tmp_path / "device.json"
    for text in ("{", "[]", '{"profile": 1}', json.dumps({**profile.to_dict(), "dims": 1})[:300]):
        file.write_text(text)
        with pytest.raises(DeviceError, match="damaged"):
            DeviceProfile.load(file)
    data = copy.deepcopy(profile.to_dict())
    file.write_text(json.dumps({**data, "profile": 9}))
    with pytest.raises(DeviceError, match="must have format 1, got 9"):
        DeviceProfile.load(file)


def test_a_machine_that_is_too_busy_makes_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise NoisyError("the measurement is refused")

    monkeypatch.setattr(device, "measure_latency", refuse)
    with pytest.raises(NoisyError, match="refused"):
        DeviceProfile.fit(Net(), X, runtime="torch", samples=30)
