"""Equal cost as measured: choose, measure, and choose again at a share that is rescaled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from autoprune.architecture import Architecture
from autoprune.store import write_text

ROUNDS = 3
TOLERANCE = 0.02  # below the wanted share: near enough
AIM = 1.0 - TOLERANCE / 2.0  # of the wanted share, so that most rounds end within it


@dataclass(frozen=True, slots=True)
class Match:
    """An architecture, its measured share of the dense model's cost, and the rounds it took."""

    architecture: Architecture
    measured: float
    rounds: int


def rescaled(asked: float, measured: float, wanted: float) -> float:
    """The predicted share to ask for next, if the measured one is proportional to it.

    >>> rescaled(asked=0.25, measured=0.5, wanted=0.25)
    0.125
    """
    return asked * wanted / measured


def nearer(one: Match, other: Match, wanted: float) -> Match:
    """Of two the one that is nearest at or below the wanted share; above it, the smaller one."""
    inside = [each for each in (one, other) if each.measured <= wanted]
    if inside:
        return max(inside, key=lambda each: each.measured)
    return min(one, other, key=lambda each: each.measured)


def matched(
    wanted: float,
    choose: Callable[[float], Architecture],
    measure: Callable[[Architecture], float],
    rounds: int = ROUNDS,
) -> Match:
    """The architecture whose measured share is nearest at or below `wanted`, of at most `rounds`.

    `choose` gives one for a predicted share, `measure` what it takes; both relative to the dense
    model. It ends early where a round is within 2 % below `wanted`, or chooses the same again;
    rounds after the first aim at 1 % below.
    """
    asked, best, tried = wanted, None, set[str]()
    for _ in range(rounds):
        made = choose(asked)
        if made.key in tried:
            break
        tried.add(made.key)
        found = Match(made, measure(made), len(tried))
        best = found if best is None else nearer(best, found, wanted)
        if 1.0 - TOLERANCE <= found.measured / wanted <= 1.0:
            break
        asked = rescaled(asked, found.measured, AIM * wanted)
    assert best is not None
    return Match(best.architecture, best.measured, len(tried))


class Matches:
    """Matches that are kept in a file, so that all runs of a benchmark train the same models.

    Several processes may use it: of two that find one at the same time, the first one's is kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, Match]:
        """All matches in the file, by name."""
        held = json.loads(self._file.read_text()) if self._file.is_file() else {}
        return {
            name: Match(**{**match, "architecture": Architecture.from_dict(match["architecture"])})
            for name, match in held.items()
        }

    def get(self, name: str, find: Callable[[], Match]) -> Match:
        """The match of this name: the one in the file, or else what `find` gives."""
        known = self.read().get(name)
        return known or self._kept(name, find())

    def _kept(self, name: str, found: Match) -> Match:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            known = self.read()
            kept = known.setdefault(name, found)
            data = {
                name: {
                    "architecture": match.architecture.to_dict(),
                    "measured": match.measured,
                    "rounds": match.rounds,
                }
                for name, match in known.items()
            }
            write_text(self._file, json.dumps(data, indent=1) + "\n")
        return kept
