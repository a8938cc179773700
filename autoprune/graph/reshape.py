"""Labels through a reshape and through any other data movement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from autoprune.graph.ids import FIXED, Ids, Labels, free, is_free
from autoprune.graph.types import Indices

Choose = Callable[[Indices, Sequence[int]], int]
"""Given the ids of a dimension and the sizes it is split into: which of those parts carries ids."""

Rank = Callable[[Indices], int]
"""Ids of a dimension → its priority to stay prunable."""

_MERGED = "two channel dimensions are merged into one"


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The runs of dimensions that a reshape maps onto each other.

    >>> blocks((2, 6, 4), (2, 3, 8))
    [(range(0, 1), range(0, 1)), (range(1, 3), range(1, 3))]
    """
    result, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        i0, j0 = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                right, j = right * after[j], j + 1
            else:  # only a size of 0 can come here
                i, j = len(before), len(after)
                break
        result.append((range(i0, i), range(j0, j)))
    return result


def reshape(
    ids: Ids,
    labels: Labels,
    before: Sequence[int],
    after: Sequence[int],
    choose: Choose,
    rank: Rank = len,
) -> Labels:
    """Labels of a tensor of shape `before` viewed as shape `after`.

    Where a labeled dimension is split, the ids are tied so that one of the parts (`choose`)
    carries them. Where labeled dimensions are merged, the one of highest `rank` keeps its ids.
    """
    result: list[Indices | None] = [None] * len(after)
    for source, target in blocks(before, after):
        shape = [before[i] for i in source]
        parts = [after[j] for j in target]
        held = [labels[i] for i in source]
        for place, vector in _spread(ids, held, shape, parts, choose, rank):
            result[target[place]] = vector
    return tuple(result)


def _spread(
    ids: Ids,
    labels: Sequence[Indices | None],
    shape: Sequence[int],
    parts: Sequence[int],
    choose: Choose,
    rank: Rank,
) -> list[tuple[int, Indices]]:
    if len(shape) == len(parts) == 1:
        return [(0, labels[0])] if labels[0] is not None else []
    if prod(shape) == 0:
        return []
    if len(shape) == 1 and is_free(labels[0]):
        return [(place, free(size)) for place, size in enumerate(parts)]
    taken: dict[int, Indices] = {}
    labelled = [(i, x) for i, x in enumerate(labels) if x is not None and shape[i] > 1]
    if len(labelled) > 1:
        labelled.sort(key=lambda held: -1 if is_free(held[1]) else rank(held[1]), reverse=True)
    for i, label in labelled:
        view = [1] * len(shape)
        view[i] = shape[i]
        table = np.broadcast_to(label.reshape(view), shape).reshape(parts)
        place = carrier(ids, table)
        if place is None:
            place = choose(label, _useful(ids, table))
            vector = tie(ids, table, place)
        else:
            vector = line(table, place)
        if place in taken:
            ids.block(label, _MERGED)
        else:
            taken[place] = vector
    return list(taken.items())


def _useful(ids: Ids, table: Indices) -> Sequence[int]:
    """The sizes of the parts, with 1 for those that would leave one unit of all ids.

    Ids that are already tied, such as those of neighboring pixels, may conflict with a part.
    """
    known, held = np.unique(ids.find(table.ravel()), return_inverse=True)
    if len(known) == table.size:
        return table.shape
    local = (held - np.count_nonzero(known < 0)).clip(FIXED).reshape(table.shape)
    left = [_classes_left(local, place) for place in range(table.ndim)]
    if max(left) <= 1:
        return table.shape
    return [size if count > 1 else 1 for size, count in zip(table.shape, left, strict=True)]


def _classes_left(table: Indices, place: int) -> int:
    """How many classes of these small ids are left where dimension `place` carries them."""
    alone = Ids()
    alone.fresh(int(table.max()) + 1)
    vector = tie(alone, table, place)
    return alone.classes(vector[vector >= 0])


def line(table: Indices, place: int) -> Indices:
    """The ids along dimension `place`, at the first position of all others."""
    return np.ascontiguousarray(np.moveaxis(table, place, 0).reshape(table.shape[place], -1)[:, 0])


def carrier(ids: Ids, table: Indices) -> int | None:
    """The only dimension along which the classes in `table` vary; None if there is none."""
    roots = ids.find(table.ravel()).reshape(table.shape)
    for place in reversed(range(table.ndim)):
        if table.shape[place] > 1:
            flat = np.moveaxis(roots, place, 0).reshape(table.shape[place], -1)
            if bool((flat == flat[:, :1]).all()):
                return place
    return None


def tie(ids: Ids, table: Indices, place: int) -> Indices:
    """Unite ids that share a position along `place`, so that this dimension carries the ids."""
    columns = np.moveaxis(table, place, 0).reshape(table.shape[place], -1).T
    return ids.tie_columns(np.ascontiguousarray(columns), "meets a fixed position in a view")


def settle(ids: Ids, table: Indices) -> tuple[int, Indices] | None:
    """The dimension that carries the ids of an arbitrary arrangement with the fewest unions.

    None if there are no ids in it.
    """
    if not table.size or table.max() < 0:
        return None
    place = carrier(ids, table)
    if place is not None:
        return place, line(table, place)
    best, most = 0, -1
    for candidate in range(table.ndim):
        if table.shape[candidate] > 1:
            attempt = ids.trial()
            vector = tie(attempt, table, candidate)
            count = attempt.classes(vector)
            if count > most:
                best, most = candidate, count
    return (best, tie(ids, table, best)) if most > 0 else None
