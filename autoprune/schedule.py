"""How much is pruned when: pure functions of training progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Curve = Callable[[float], float]
ONE_SHOT = "one_shot"
CURVES: dict[str, Curve] = {
    ONE_SHOT: lambda t: 1.0,
    "linear": lambda t: t,
    "cubic": lambda t: 1.0 - (1.0 - t) ** 3,
    "exponential": lambda t: (1.0 - math.exp(-5.0 * t)) / (1.0 - math.exp(-5.0)),
}
"""Kind of schedule → the removed share at `t` of the way, from 0 to 1."""
TASK = "task"  # the task's own curve, `Task.removed_share`
KINDS = (*CURVES, TASK)
_DIGITS = 12  # of a share: a curve of one's own may miss 1 by rounding
MOST_STEPS = 100  # removals: each one builds a model


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the removed fraction grows from 0 to its final value during training.

    `kind` names the curve (see `CURVES`): `one_shot` (everything at `begin`), `linear` (equal
    removals with equal training between them), `cubic` (Zhu & Gupta 2017, arXiv:1710.01878),
    `exponential` (fast first, rate 5), or `task`, a curve whose values are the `shares` of the
    steps (see `of_curve`). `begin` and `end` are training progress in [0, 1]. Units are
    removed physically, so every curve is approximated by `steps` removals.

    >>> Schedule("cubic", begin=0.0, end=0.5, steps=2).milestones()
    ((0.0, 0.875), (0.5, 1.0))
    """

    kind: str = ONE_SHOT
    begin: float = 0.0
    end: float = 0.0
    steps: int = 1
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if self.kind not in KINDS:
            raise ValueError(f"schedule.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0.0 <= self.begin <= self.end < 1.0:
            raise ValueError(
                "schedule must hold 0 <= begin <= end < 1 (progress of training), "
                f"got begin={self.begin}, end={self.end}"
            )
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"schedule.steps must lie in [1, {MOST_STEPS}], got {self.steps}")
        _check_shares(self.kind, self.steps, self.shares)

    @staticmethod
    def of_curve(curve: Curve, begin: float, end: float, steps: int) -> Schedule:
        """Along a curve of one's own, from the share at 1 / `steps` of the way to 1 at its end.

        >>> Schedule.of_curve(lambda t: t**2, 0.0, 0.5, 2).milestones()
        ((0.0, 0.25), (0.5, 1.0))
        """
        shares = tuple(round(float(curve((k + 1) / steps)), _DIGITS) for k in range(steps))
        return Schedule(TASK, begin, end, steps, shares)

    def milestones(self) -> tuple[tuple[float, float], ...]:
        """The removals as (progress at which, share of the final ratio reached), both ascending.

        The last share is always 1. Step k of n takes place at an equal distance between `begin` and
        `end` and reaches the curve's value k/n, so that the first removal is never empty.
        """
        if self.kind == ONE_SHOT or self.begin == self.end or self.steps == 1:
            at = self.begin if self.kind == ONE_SHOT else self.end
            return ((at, 1.0),)
        last, shares = self.steps - 1, self.shares
        if self.kind != TASK:
            shares = tuple(CURVES[self.kind]((k + 1) / self.steps) for k in range(self.steps))
        return tuple(
            (self.begin + (self.end - self.begin) * k / last, share)
            for k, share in enumerate(shares)
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `Schedule(**d)` reads it back."""
        found = {"kind": self.kind, "begin": self.begin, "end": self.end, "steps": self.steps}
        return {**found, "shares": list(self.shares)} if self.shares else found


def _check_shares(kind: str, steps: int, shares: tuple[float, ...]) -> None:
    """Raise ValueError unless a curve of one's own has its shares, and no other has."""
    if kind != TASK or (steps == 1 and not shares):
        if shares:
            raise ValueError(f"schedule.shares are for the kind {TASK}, got {kind!r}")
        return
    if len(shares) != steps or list(shares) != sorted(shares) or shares[0] < 0 or shares[-1] != 1:
        raise ValueError(
            f"a schedule's curve must rise from at least 0 to 1 over its {steps} steps, got "
            f"{', '.join(f'{share:g}' for share in shares) or 'no shares'}"
        )
