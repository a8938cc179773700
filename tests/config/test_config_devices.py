"""The sections `device`, `devices` and `budget`, before they are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.config.devices import (
    check_device_names,
    limits_by_name,
    resolve_device,
    resolved_devices,
)
from autoprune.errors import BudgetError, ConfigError

MAKE = "make it: autoprune profile TASK --runtime onnxruntime -o"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the profile of a phone."""
    there = {"device": {"name": "a phone", "runtime": "torch", "threads": 2, "batch": 4}}
    (tmp_path / "phone.json").write_text(json.dumps(there))
    return tmp_path


def known(base: Path) -> dict[str, object]:
    return {"runtime": "torch", "threads": 2, "batch": 4, "profile": str(base / "phone.json")}


@pytest.mark.parametrize(
    "written",
    [
        "phone.json",
        {"profile": "phone.json"},
        {"profile": "phone.json", "threads": 2},
        {"runtime": "torch", "batch": 4, "profile": "phone.json"},
    ],
)
def test_a_profile_says_runtime_threads_and_batch(base: Path, written: object) -> None:
    assert resolve_device(written, base) == known(base)


def test_an_address_alone_is_a_runtime(base: Path) -> None:
    assert resolve_device("ssh://me@board", base) == {"runtime": "ssh://me@board"}


@pytest.mark.parametrize("written", [{}, {"runtime": "torch"}, None, 3, {"profile": 3}])
def test_what_names_no_profile_stays_as_it_is(base: Path, written: object) -> None:
    assert resolve_device(written, base) is written


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            "none.json",
            f"b.yaml: devices.a.profile {{base}}/none.json is not a file · {MAKE} none.json",
        ),
        (".", f"b.yaml: devices.a.profile {{base}} is not a file · {MAKE} {{base.name}}"),
        (
            {"profile": "phone.json", "threads": 1},
            "b.yaml: devices.a.threads is 1, but the profile was made with 2 · remove the key, or "
            "make another profile",
        ),
        (
            {"profile": "phone.json", "runtime": "onnxruntime"},
            "b.yaml: devices.a.runtime is 'onnxruntime', but the profile was made with 'torch' · "
            "remove the key, or make another profile",
        ),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(base: Path, written: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(written, base, "b.yaml", "devices.a")
    assert str(caught.value) == says.format(base=base)


def test_a_name_that_no_file_can_have_is_cut_in_the_error(base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device("x" * 300 + ".json", base)
    assert "is not a file" in str(caught.value)
    assert len(str(caught.value)) < 250
    assert str(caught.value).endswith("-o device.json")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"device": 3}', b'{"device": {"runtime": "t"}}', b"\xff",
                b"[" * 100_000]
)  # fmt: skip
def test_a_damaged_profile_is_one_line(base: Path, content: bytes) -> None:
    (base / "phone.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        resolve_device("phone.json", base)
    says = f"config: device.profile {base}/phone.json is damaged · {MAKE} phone.json"
    assert str(caught.value) == says


def test_device_or_devices(base: Path) -> None:
    assert resolved_devices({}, base, "b") == {}
    assert resolved_devices({"device": "phone.json"}, base, "b") == {"device": known(base)}
    several = {"devices": {"phone": "phone.json", "server": {"threads": 3}}}
    assert resolved_devices(several, base, "b") == {
        "devices": {"phone": known(base), "server": {"threads": 3}}
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            {"device": {}, "devices": {"a": {}}},
            "b: device and devices exclude each other · name the device in devices, too",
        ),
        (
            {"devices": {}},
            "b: devices must map a name to each device, got {} · e.g. devices: {phone: "
            "phone.json, server: {runtime: torch}}",
        ),
        (
            {"devices": ["a"]},
            "b: devices must map a name to each device, got ['a'] · e.g. devices: {phone: "
            "phone.json, server: {runtime: torch}}",
        ),
    ],
)
def test_sections_that_cannot_be_are_refused(data: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved_devices(data, Path(), "b")
    assert str(caught.value) == says


@pytest.mark.parametrize("name", ["my phone", "a@b", "", "ä", 3, None])
def test_a_device_cannot_be_called_like_that(name: object) -> None:
    with pytest.raises(ConfigError) as caught:
        check_device_names({"devices": {"ok": {}, name: {}}}, "b")
    says = f"b: a device's name may hold letters, digits, _ and -, got {name!r}"
    assert str(caught.value) == says


@pytest.mark.parametrize("data", [{}, {"devices": None}, {"devices": {"Pixel_7-a": {}}}])
def test_names_that_can_be_are_accepted(data: dict[str, object]) -> None:
    check_device_names(data, "b")


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        ({}, None),
        ({"budget": {"latency_ms": 8}}, {"latency_ms": 8}),
        ({"budget": {"latency_ms": 8}, "devices": {"a": {}}}, {"latency_ms@a": 8}),
        (
            {
                "budget": {"latency_ms": {"a": 8, "b": "50%"}, "macs": 5},
                "devices": {"a": {}, "b": {}},
            },
            {"latency_ms@a": 8, "latency_ms@b": "50%", "macs": 5},
        ),
        ({"budget": {}}, {}),
    ],
)
def test_limits_have_flat_names(data: dict[str, object], limits: dict[str, object] | None) -> None:
    assert limits_by_name(data, "b") == limits


@pytest.mark.parametrize("budget", [5, ["macs"], {3: 4}, None])
def test_a_budget_that_is_no_mapping_of_names_is_refused(budget: object) -> None:
    with pytest.raises(ConfigError) as caught:
        limits_by_name({"budget": budget}, "b.yaml")
    assert str(caught.value) == f"b.yaml: budget must map costs to limits, got {budget!r}"


def test_one_latency_in_two_ways_is_refused() -> None:
    data = {"budget": {"latency_ms": 8, "latency_ms@a": 9}, "devices": {"a": {}}}
    with pytest.raises(BudgetError) as caught:
        limits_by_name(data, "b")
    says = "b: budget.latency_ms@a is a duplicate key · leave one of them out"
    assert str(caught.value) == says
