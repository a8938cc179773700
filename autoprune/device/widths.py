"""Widths that a target likes: where one channel more would cost a step of time."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.sizes import Floats
from autoprune.device.predictor import LatencyPredictor

_SHARES = (1.0, 0.5)  # of the other groups' units, around which a width is judged
_REACH = 16  # units: as far as a width is compared with larger ones, and the usual price is taken
_CHEAP = 0.3  # of the usual price of a unit
_FLAT = 5e-3  # of the time: what a whole group must cost at least for its widths to matter


def liked_widths(predictors: Collection[LatencyPredictor]) -> dict[str, tuple[int, ...]]:
    """By group, the numbers of units beyond which more are not nearly free; empty without targets.

    Time that is predicted to rise in steps (padding to whole vectors, slower kernels off them)
    makes a width useless from which a few units more cost less than a third of what units usually
    cost around there. What is left are the ends of the steps, all widths where time rises smoothly,
    and always the whole group. A group that time does not depend on is not named: to its target all
    widths are alike. Of several targets the times relative to the dense model are added.
    """
    if not predictors:
        return {}
    groups = next(iter(predictors)).features.groups
    times = {name: _times(predictors, groups, name) for name in groups}
    return {name: _liked(it) for name, it in times.items() if it[-1] - it[0] > _FLAT * it[-1]}


def _times(predictors: Collection[LatencyPredictor], groups: dict[str, int], name: str) -> Floats:
    """Relative time with 1, 2, ... units of the group."""
    place, size = list(groups).index(name), groups[name]
    total = np.zeros(size)
    for share in _SHARES:
        around = [max(1, round(share * units)) for units in groups.values()]
        kept: NDArray[np.int64] = np.tile(np.array(around, dtype=np.int64), (size, 1))
        kept[:, place] = np.arange(1, size + 1)
        for predictor in predictors:
            total += predictor.additive(kept)
    return total


def _liked(times: Floats) -> tuple[int, ...]:
    """The counts (index + 1) from which larger ones within reach are not nearly free.

    >>> _liked(np.array([1.0, 1.0, 1.2, 1.1, 1.3]))
    (2, 4, 5)
    """
    found = []
    for place in range(len(times) - 1):
        low, high = max(0, place - _REACH), min(len(times) - 1, place + _REACH)
        usual = max(0.0, float(times[high] - times[low]) / (high - low))
        steps = np.arange(1, high - place + 1)
        extra = times[place + 1 : high + 1] - times[place]
        if (extra > np.maximum(_CHEAP * usual * steps, 1e-9)).all():
            found.append(place + 1)
    return (*found, len(times))
