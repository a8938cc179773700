"""How many units each group keeps within a cost: for the least damage, or the worthiest of all."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Mapping, Sequence

Damage = Callable[[str, int], float]
Kept = dict[str, int]


def harm(damage: Damage, kept: Mapping[str, int]) -> float:
    """The damages that all groups do each alone, added."""
    return sum(damage(name, units) for name, units in kept.items())


class Knapsack:
    """Allocations that do the least damage at any price; nothing is computed before the first.

    `choices` are the numbers of units that each group can keep, ascending; `damage(group, kept)` is
    what leaving `kept` units of that group alone costs; `price(kept)` is what may not exceed a
    limit.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[int]],
        damage: Damage,
        price: Callable[[Mapping[str, int]], float],
    ) -> None:
        self._choices, self._damage, self._price = choices, damage, price
        self._path: list[tuple[float, Kept]] | None = None

    def harm(self, kept: Mapping[str, int]) -> float:
        """See `harm`."""
        return harm(self._damage, kept)

    def at(self, limit: float) -> Kept:
        """The allocation for a price of at most `limit`, the smallest model where none has it.

        The greedy solution: from the whole model down, the group leaves units that does the least
        further damage for what it saves; exact where damage is convex, prices add up and steps are
        small. What the last step saved too much is given back where it undoes the most damage.
        """
        if self._path is None:
            self._path = self._descend()
        place = bisect.bisect_left([-price for price, _ in self._path], -limit)
        return self._filled(dict(self._path[min(place, len(self._path) - 1)][1]), limit)

    def _filled(self, kept: Kept, limit: float) -> Kept:
        while True:
            back = []
            for name, units in kept.items():
                more = bisect.bisect_right(self._choices[name], units)
                if more < len(self._choices[name]):
                    moved = {**kept, name: self._choices[name][more]}
                    if self._price(moved) <= limit:
                        undone = self._damage(name, units) - self._damage(name, moved[name])
                        back.append((-undone, name, moved[name]))
            if not back:
                return kept
            _, name, units = min(back)
            kept[name] = units

    def _descend(self) -> list[tuple[float, Kept]]:
        """From the whole to the smallest model, step by step: (price, kept).

        How a group stands is computed anew only when it is next.
        """
        kept = {name: units[-1] for name, units in self._choices.items()}
        path = [(self._price(kept), dict(kept))]
        queue = [
            (self._rate(kept, path[-1][0], name), name)
            for name, units in self._choices.items()
            if len(units) > 1
        ]
        heapq.heapify(queue)
        while queue:
            _, name = heapq.heappop(queue)
            now = self._rate(kept, path[-1][0], name)
            if queue and now > queue[0][0]:
                heapq.heappush(queue, (now, name))
                continue
            kept[name] = self._below(kept, name)
            path.append((self._price(kept), dict(kept)))
            if kept[name] > self._choices[name][0]:
                heapq.heappush(queue, (self._rate(kept, path[-1][0], name), name))
        return path

    def _rate(self, kept: Kept, price: float, name: str) -> float:
        """Further damage per saved price of a group's next step."""
        units = self._below(kept, name)
        saved = price - self._price({**kept, name: units})
        worse = self._damage(name, units) - self._damage(name, kept[name])
        return worse / saved if saved > 0.0 else math.inf

    def _below(self, kept: Kept, name: str) -> int:
        return self._choices[name][bisect.bisect_left(self._choices[name], kept[name]) - 1]


class Ranking:
    """Global pruning: allocations that keep the worthiest units of all groups together.

    `worth` holds each group's units' scores, comparable between groups; `choices` and `price` as
    for `Knapsack`.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[int]],
        worth: Mapping[str, Sequence[float]],
        price: Callable[[Mapping[str, int]], float],
    ) -> None:
        self._choices, self._price = choices, price
        self._worth = {name: sorted(worth[name]) for name in choices}
        self._all = sorted(value for values in self._worth.values() for value in values)

    def at(self, limit: float) -> Kept:
        """The allocation for a price of at most `limit`, the smallest model where none has it.

        Every group keeps the units that are worth at least as much as one threshold for all, and
        what is missing to its next larger choice.
        """
        place = bisect.bisect_left(
            self._all, True, key=lambda threshold: self._price(self._above(threshold)) <= limit
        )
        if place == len(self._all):
            return {name: units[0] for name, units in self._choices.items()}
        return self._above(self._all[place])

    def _above(self, threshold: float) -> Kept:
        found = {}
        for name, units in self._choices.items():
            values = self._worth[name]
            count = len(values) - bisect.bisect_left(values, threshold)
            found[name] = units[min(bisect.bisect_left(units, count), len(units) - 1)]
        return found
