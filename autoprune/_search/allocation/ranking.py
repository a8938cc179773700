"""Global pruning: one threshold on the importance of all units."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence

from autoprune._search.allocation.allocator import Choice


class Ranking:
    """Global pruning: widths that keep the units with the highest scores of all groups together.

    `choices` are the widths that each group can keep, ascending; `importance` holds the scores of
    each group's units, comparable between groups; `cost(widths)` is what may not exceed a limit.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[int]],
        importance: Mapping[str, Sequence[float]],
        cost: Callable[[Mapping[str, int]], float],
    ) -> None:
        self._choices, self._cost = choices, cost
        self._scores = {name: sorted(importance[name]) for name in choices}
        self._all = sorted(value for values in self._scores.values() for value in values)

    def at(self, limit: float) -> Choice:
        """The widths for a cost of at most `limit`, the smallest ones where none has it.

        Every group keeps the units that score at least one threshold for all, and what is missing
        to its next larger choice.
        """
        place = bisect.bisect_left(
            self._all, True, key=lambda threshold: self._cost(self._above(threshold)) <= limit
        )
        if place == len(self._all):
            return {name: units[0] for name, units in self._choices.items()}
        return self._above(self._all[place])

    def _above(self, threshold: float) -> Choice:
        found = {}
        for name, units in self._choices.items():
            values = self._scores[name]
            count = len(values) - bisect.bisect_left(values, threshold)
            found[name] = units[min(bisect.bisect_left(units, count), len(units) - 1)]
        return found
