"""One random change of a configuration: it is refused in one line, or read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.templates import CONFIG
from scripts.benchmarks.torture.folders import in_time, places
from scripts.benchmarks.torture.outcome import Outcome, clear

BASE: dict[str, Any] = {
    "task": "digits",
    "task_args": {"width": 8},
    "budget": {"latency_ms": "50%", "macs": "1 M"},
    "device": {"runtime": "torch", "threads": 1, "batch": 1},
    "space": {
        "ratios": {"min": 0.0, "max": 0.8, "per": "group"},
        "round_to": 2,
        "depth": {"max": 0.5},
        "schedule": {"kind": ["one_shot", "linear"], "begin": 0.0, "end": 0.5, "steps": 4},
        "recovery": {"lr": {"min": 0.001, "max": 0.1, "log": True}, "distillation": 0.5},
    },
    "search": {"sampler": "tpe", "levels": ["30%"], "trials": 30, "minutes": 5, "seed": 0},
    "output": "results/x",
}
VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", "\x00", -1, 0, 0.5, 1e300, -1e300, 10**12, 2**32, 10**400),
    *(float("inf"), float("nan"), [], [[]], {}, {"a": 1}, ["x", 1], "1e3", "50%", "1000000%"),
    *("!!int abc", "*", "&a", "a" * 10_000, [0] * 1000, {"min": 1, "max": 0}),
)
SENSIBLE = {
    "trials": 1e6,
    "epochs": 1e5,
    "concurrent": 1024,
    "steps": 100,
    "lr": 100,
    "batch": 65536,
}


def changes(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """A value, a key or some characters of a good configuration, at random."""
    rng, good = random.Random(seed), CONFIG.format(task="digits")
    for number in range(tries):
        content = yaml.safe_load(yaml.safe_dump(BASE))
        if number % 3 == 0:
            text = mangled(good if number % 2 else yaml.safe_dump(content), rng)
        else:
            inner, key = rng.choice(places(content))
            inner[key] = rng.choice(VALUES)
            text = yaml.safe_dump(content)
        file = place / "budget.yaml"
        file.write_text(text, encoding="utf-8")
        yield judged(file, text)


def mangled(text: str, rng: random.Random) -> str:
    """Some characters replaced, doubled or left out."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + rng.choice(["", "[", "{", ": ", "&a ", "*a", "\t", "- ", "é", "'"])
            + text[at + rng.randrange(3) :]
        )
    return text


def judged(file: Path, text: str) -> Outcome:
    """Whether it is refused in one line, or read with numbers that make sense."""
    try:
        with in_time():
            config = RunConfig.load(file)
            again = RunConfig.from_dict(config.to_dict(), base=file.parent)
    except UsageError as error:
        said = str(error)
        return Outcome() if clear(said) else Outcome("unclear", f"{said[:300]} from {text[:200]!r}")
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return Outcome("unclear", f"{type(error).__name__}: {error}"[:300])
    plain = config.to_dict()
    if again.to_dict() != plain:
        return Outcome("wrong", "it is not read back as it was")
    for inner, key in places(plain):
        value = inner[key]
        if key in SENSIBLE and isinstance(value, int | float) and value > SENSIBLE[key]:
            return Outcome("wrong", f"{key}: {value}")
    return Outcome()
