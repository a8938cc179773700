from __future__ import annotations

from autoprune.pruning.bisection import faults


def test_a_part_that_fails_in_every_layer_condemns_no_other_part() -> None:
    bad = {"block.0.layer.1", "block.1.layer.1", "block.2.layer.1"}
    names = [f"block.{block}.layer.{part}" for block in range(3) for part in range(3)]
    found = faults(names, lambda some: "it fails" if bad & set(some) else "")
    assert set(found) == bad


def test_the_number_of_tries_does_not_grow_with_the_layers() -> None:
    tries: list[int] = []
    for layers in (4, 64):
        calls: list[list[str]] = []

        def accept(some: list[str], calls: list[list[str]] = calls) -> str:
            calls.append(some)
            return "it fails" if any(name.endswith("b") for name in some) else ""

        names = [f"{layer}.{part}" for layer in range(layers) for part in "abc"]
        assert set(faults(names, accept)) == {f"{layer}.b" for layer in range(layers)}
        tries.append(len(calls))
    assert tries[1] <= tries[0] + 8
