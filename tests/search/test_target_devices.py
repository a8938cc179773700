"""Devices of a search as values: which are measured, which are predicted, what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import stripes
import torch

from autoprune._search.measuring.target_devices import (
    FinishedModel,
    ProfiledModel,
    TargetDevice,
    check,
    check_int8,
    check_measurable,
    load_targets,
    measurable_targets,
    measured,
)
from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.budget import Device
from autoprune.config.sections import DeviceConfig
from autoprune.cost.activations import COUNTED
from autoprune.cost.analytic import count_cost
from autoprune.cost.targets import find_target
from autoprune.errors import ConfigError, DeviceError

PHONE = Device("a phone", "torch")
REMOTE = Device("a phone", "ssh://me@phone")
EXAMPLE = torch.zeros(1, 1, 8, 8)


def here() -> Device:
    return Device(find_target("torch").device_name(), "torch")


class Profile:
    """A profile as far as a target reads it; notes what it was matched with."""

    def __init__(self, factor: float = 1.2, device: Device = PHONE) -> None:
        self.predictor = SimpleNamespace(upper_factor=factor)
        self.device = device
        self.matches: list[dict[str, Any]] = []

    def matched(self, graph: object, **what: Any) -> Profile:
        self.matches.append(what)
        return self


def target(name: str = "", runtime: str = "torch", **more: Any) -> TargetDevice:
    batch = more.pop("batch", 1)
    return TargetDevice(name, DeviceConfig(runtime=runtime, batch=batch), **more)


def profiled() -> ProfiledModel:
    return ProfiledModel(*stripes.dense(), EXAMPLE)


@pytest.mark.parametrize(
    ("device", "is_offline"), [(None, False), (PHONE, True), (REMOTE, False), ("here", False)]
)
def test_only_another_machine_without_an_address_is_offline(
    device: Device | str | None, is_offline: bool
) -> None:
    found = here() if isinstance(device, str) else device
    assert target(device=found).is_offline is is_offline


def test_where_it_is_measured_in_words() -> None:
    assert target().where == "this machine"
    assert target(runtime="ssh://me@phone").where == "ssh://me@phone"


def test_its_latencies_have_its_name() -> None:
    assert target().fields == ("latency_ms", "latency_p95_ms")
    assert target("phone").fields == ("latency_ms@phone", "latency_p95_ms@phone")


def test_the_margin_is_that_of_the_less_certain_precision() -> None:
    assert target().margins == {}
    found = target("phone", profile=Profile(1.125), int8=Profile(1.5)).margins
    assert found == {"latency_ms@phone": 0.5, "latency_p95_ms@phone": 0.5}
    assert target(profile=Profile(1.125)).margins["latency_ms"] == 0.125


@pytest.mark.parametrize(
    ("names", "has_profile", "expected"),
    [
        (["macs"], False, False),
        (["macs"], True, True),
        (["macs", "latency_p95_ms@phone"], False, True),
        (["latency_ms@server"], False, False),
    ],
)
def test_it_is_predicted_where_its_latency_counts_or_a_profile_is_there(
    names: list[str], has_profile: bool, expected: bool
) -> None:
    made = target("phone", profile=Profile() if has_profile else None)
    assert made.is_predicted(names) is expected


def test_inputs_are_at_its_batch() -> None:
    assert tuple(target(batch=4).inputs(EXAMPLE).shape) == (4, 1, 8, 8)  # type: ignore[union-attr]


def test_a_profile_that_is_there_is_matched_and_nothing_is_measured() -> None:
    profile, said = Profile(), []
    found = target(profile=profile, batch=4).fitted(profiled(), 0, said.append)
    assert found.profile is profile
    assert profile.matches == [{"batch": 4, "dtype": "float32"}]
    assert said == []


def test_an_int8_profile_that_is_there_is_matched() -> None:
    profile, int8, said = Profile(), Profile(), []
    found = target(profile=profile, int8=int8, device=PHONE, batch=2).with_int8(
        profiled(), 0, said.append
    )
    assert found.int8 is int8
    assert (int8.matches, profile.matches, said) == ([{"batch": 2, "dtype": "int8"}], [], [])
    assert target().with_int8(profiled(), 0, said.append).int8 is None


def test_int8_models_of_another_machine_cannot_be_measured() -> None:
    with pytest.raises(DeviceError) as caught:
        target(profile=Profile(), device=PHONE).with_int8(profiled(), 0, print)
    assert str(caught.value) == (
        f"space.precision: latencies of int8 models must be measured, and {PHONE} is "
        "not this machine · search with precision: float32, or on that machine"
    )


@pytest.mark.parametrize("more", [{}, {"profile": Profile(), "device": PHONE}])
def test_what_has_no_profile_or_is_offline_is_not_corrected(more: dict[str, Any]) -> None:
    made = target(**more)
    assert made.corrected(profiled(), [Architecture({"0": 8})]) is made


def test_peak_memory_of_another_machine_is_counted() -> None:
    assert target(device=PHONE).peak_memory(profiled()) is COUNTED


def test_saved_profiles_are_taken_by_precision_and_device(tmp_path: Any) -> None:
    configs = {"a": DeviceConfig(runtime="torch"), "b": DeviceConfig(runtime="torch")}
    one, two = Profile(), Profile()
    found = load_targets(configs, {FLOAT32: {"a": one}, INT8: {"a": two}})  # type: ignore[dict-item]
    assert [it.name for it in found] == ["a", "b"]
    assert (found[0].profile, found[0].int8, found[0].device) == (one, two, PHONE)
    assert (found[1].profile, found[1].int8, found[1].device) == (None, None, None)
    missing = DeviceConfig(runtime="torch", profile=str(tmp_path / "none.json"))
    with pytest.raises(DeviceError, match=r"none\.json"):
        load_targets({"": missing}, {})
    assert load_targets({"": missing}, {FLOAT32: {"": one}})[0].profile is one  # type: ignore[dict-item]


def test_what_can_be_measured_is_here_or_has_an_address() -> None:
    configs = {name: DeviceConfig(runtime="torch") for name in ("gone", "here", "new", "far")}
    known = {"gone": PHONE, "here": here(), "far": REMOTE}
    assert [it.name for it in measurable_targets(configs, known)] == ["here", "new", "far"]


def test_without_a_device_in_reach_models_are_counted() -> None:
    model, _ = stripes.dense()
    models = [FinishedModel(model), FinishedModel(model[:3].eval())]  # type: ignore[index]
    plain = measured(models, EXAMPLE, [])
    assert plain == [count_cost(it.model, EXAMPLE) for it in models]
    offline = measured(models, EXAMPLE, [target(device=PHONE)])
    assert [it.peak_memory_bytes for it in offline] == [None, None]  # that device's is not known
    assert [it.macs for it in offline] == [it.macs for it in plain]
    assert all(it.latency_ms is None for it in offline)
    assert measured([], EXAMPLE, []) == []


def test_int8_models_run_in_onnx_runtime_or_behind_an_address() -> None:
    check_int8([target(runtime="onnxruntime"), target(runtime="ssh://me@phone")])
    with pytest.raises(ConfigError) as caught:
        check_int8([target(runtime="onnxruntime"), target(runtime="torch")])
    assert str(caught.value) == (
        "space.precision: int8 models run in onnxruntime, and device.runtime is torch · "
        "set it to onnxruntime, or leave out int8"
    )


def test_a_device_with_a_profile_is_not_asked_whether_it_can_measure() -> None:
    check([target(runtime="tourch", profile=Profile()), target()])
    with pytest.raises(DeviceError, match=r"^runtime must be one of .*did you mean 'torch'"):
        check([target(runtime="tourch")])


@pytest.mark.parametrize(
    ("before", "is_refused"), [((), False), (("here",), False), (("here", "phone"), True)]
)
def test_what_was_measured_before_must_be_in_reach_again(
    before: tuple[str, ...], is_refused: bool
) -> None:
    targets = [target("here"), target("phone", device=PHONE)]
    if is_refused:
        with pytest.raises(DeviceError, match=r"^a phone, .* from here: this machine is "):
            check_measurable(targets, before)
    else:
        check_measurable(targets, before)


def test_without_any_device_in_reach_nothing_can_be_measured() -> None:
    with pytest.raises(DeviceError, match=r"do it there, or give its address as device.runtime"):
        check_measurable([target(device=PHONE)], ())
