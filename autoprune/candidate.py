"""One point of the search: how much leaves where, on which schedule, with which recovery."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from autoprune.schedule import Schedule

IMPORTANCES: tuple[str, ...] = ("l1", "l2", "group", "bn_scale", "taylor", "obs")


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the smaller model is trained.

    `lr` is the peak learning rate; `distillation` in [0, 1] is the weight of the dense model's
    outputs against the task's own loss; `regulariser` >= 0 is the strength of the group lasso that
    grows on what is about to leave: 0 turns it off, 1 alone brings it to zero by then.
    """

    lr: float = 0.01
    distillation: float = 0.5
    regulariser: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0.0:
            raise ValueError(f"recovery.lr must be above 0, got {self.lr}")
        if not 0.0 <= self.distillation <= 1.0:
            raise ValueError(f"recovery.distillation must lie in [0, 1], got {self.distillation}")
        if not self.regulariser >= 0.0:
            raise ValueError(f"recovery.regulariser must be at least 0, got {self.regulariser}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `Recovery(**d)` reads it back."""
        return {
            "lr": self.lr,
            "distillation": self.distillation,
            "regulariser": self.regulariser,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A removed fraction in [0, 1) for each named group, plus schedule, importance and recovery.

    Groups that are not named stay whole. `importance` says which units of a group leave first;
    `repair` turns the closed-form repair of the remaining weights on.
    """

    ratios: Mapping[str, float]
    schedule: Schedule = field(default_factory=Schedule)
    importance: str = "l2"
    repair: bool = True
    recovery: Recovery = field(default_factory=Recovery)

    def __post_init__(self) -> None:
        for name, ratio in self.ratios.items():
            if not 0.0 <= ratio < 1.0:
                raise ValueError(f"ratios[{name!r}] must lie in [0, 1), got {ratio}")
        if self.importance not in IMPORTANCES:
            known = ", ".join(IMPORTANCES)
            raise ValueError(f"importance must be one of {known}, got {self.importance!r}")
        ordered = {name: float(self.ratios[name]) for name in sorted(self.ratios)}
        object.__setattr__(self, "ratios", MappingProxyType(ordered))

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot travel to a worker by itself
        return Candidate.from_dict, (self.to_dict(),)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            "ratios": dict(self.ratios),
            "schedule": self.schedule.to_dict(),
            "importance": self.importance,
            "repair": self.repair,
            "recovery": self.recovery.to_dict(),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Candidate:
        """Inverse of `to_dict`."""
        return Candidate(
            ratios=data["ratios"],
            schedule=Schedule(**data["schedule"]),
            importance=data["importance"],
            repair=data["repair"],
            recovery=Recovery(**data["recovery"]),
        )
