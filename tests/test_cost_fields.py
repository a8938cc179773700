"""What costs are called where devices have names."""

from __future__ import annotations

import pytest

from autoprune.cost_fields import by_device, cost_fields, is_cost, on_device
from autoprune.errors import BudgetError


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("latency_ms", True),
        ("latency_p95_ms@my-phone_2", True),
        ("latency_ms@", False),
        ("latency_ms@a b", False),
        ("latency_ms@a@b", False),
        ("weight_bytes@phone", False),
        ("accuracy", False),
    ],
)
def test_a_cost_is_a_field_or_a_latency_on_a_device(name: str, is_one: bool) -> None:
    assert is_cost(name) is is_one


def test_costs_of_a_search_hold_each_latency_once_for_each_device() -> None:
    counts = ("params", "macs", "weight_bytes", "peak_memory_bytes", "file_bytes")
    assert cost_fields() == (*counts, "latency_ms", "latency_p95_ms")
    assert cost_fields(["a", "b"]) == (
        *counts,
        "latency_ms@a",
        "latency_p95_ms@a",
        "latency_ms@b",
        "latency_p95_ms@b",
    )


def test_a_latency_without_a_device_is_that_of_the_only_one() -> None:
    assert on_device("latency_p95_ms", ["phone"], "budget") == "latency_p95_ms@phone"
    assert on_device("latency_ms", [], "budget") == "latency_ms"
    assert on_device("latency_ms@b", ["a", "b"], "budget") == "latency_ms@b"
    assert on_device("macs", ["a", "b"], "budget") == "macs"


@pytest.mark.parametrize(
    ("name", "devices", "message"),
    [
        (
            "latency_ms",
            ["phone", "server"],
            "place: latency_ms must say on which device, one of phone, server · write e.g. "
            "latency_ms@phone",
        ),
        (
            "latency_ms@phon",
            ["phone", "server"],
            "place: latency_ms@phon: no device is called 'phon' · nearest: phone",
        ),
        ("latency_ms@x", ["phone", "server"], "· known: phone, server"),
        ("latency_ms@phone", [], "name the devices with devices: {phone: {runtime: onnxruntime}}"),
    ],
)
def test_a_device_that_is_not_known_is_refused(name: str, devices: list[str], message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        on_device(name, devices, "place")
    assert message in str(caught.value)


def test_limits_by_device_become_flat_in_the_order_given() -> None:
    flat = by_device({"latency_ms": {"b": "8 ms", "a": 3}, "macs": "50%", "latency_ms@c": 1})
    assert list(flat.items()) == [
        ("latency_ms@b", "8 ms"),
        ("latency_ms@a", 3),
        ("macs", "50%"),
        ("latency_ms@c", 1),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"latency_ms": {"a": 1}, "latency_ms@a": 2}, r"budget\.latency_ms@a is a duplicate key"),
        ({"macs": {"a": 1}}, r"budget\.macs is one limit for all devices, got \{'a': 1\}"),
        ({"latency_ms": {}}, r"budget\.latency_ms must name devices"),
    ],
)
def test_limits_that_make_no_sense_are_refused(spec: dict, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        by_device(spec)
