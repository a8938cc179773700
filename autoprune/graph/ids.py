"""Channel ids and the classes that are pruned together: a vectorized union-find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.graph.types import Indices

Labels = tuple["Indices | None", ...]
"""What a tensor carries for each dimension: the id of each position, -1 where the position is
fixed, `FREE` where it holds the same value at any size (an expanded dimension, a tensor of zeros),
or None where the whole dimension is fixed (batch, space, a constant)."""

FIXED, FREE = -1, -2

AFFINE, OUT, IN = 0, 1, 2


def free(size: int) -> Indices:
    """Labels of a dimension that may take any size (broadcast, constants)."""
    return np.full(size, FREE, dtype=np.int64)


def is_free(label: Indices | None) -> bool:
    """Whether a dimension may take any size."""
    return label is not None and bool((label == FREE).all())


class Ids:
    """Union-find of channel ids, with roles and with the reason why an id cannot be pruned."""

    def __init__(self) -> None:
        self._parent = np.arange(1024, dtype=np.int64)
        self._role = np.zeros(1024, dtype=np.int8)
        self._size = 0
        self._blocks: list[tuple[Indices, str]] = []

    def __len__(self) -> int:
        return self._size

    def fresh(self, count: int) -> Indices:
        """`count` new ids, each in a class of its own."""
        start, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            room = max(self._size, 2 * len(self._parent))
            grown = np.arange(room, dtype=np.int64)
            grown[:start] = self._parent[:start]
            roles = np.zeros(room, dtype=np.int8)
            roles[:start] = self._role[:start]
            self._parent, self._role = grown, roles
        return np.arange(start, self._size, dtype=np.int64)

    def find(self, ids: Indices) -> Indices:
        """The representative (the smallest id) of each class; `FIXED` and `FREE` stay."""
        root = self._parent[ids]
        while True:
            up = self._parent[root]
            if np.array_equal(up, root):
                break
            root = up
        if ids.size and ids.min() < 0:
            return np.where(ids < 0, ids, root)
        self._parent[ids] = root
        return root

    def union(self, left: Indices, right: Indices) -> None:
        """Unite the classes of both arrays position by position; all entries must be ids."""
        while True:
            a, b = self.find(left), self.find(right)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))

    def block(self, ids: Indices | None, reason: str) -> None:
        """Mark these ids, and all that are or will be united with them, as not prunable."""
        if ids is not None and (held := ids[ids >= 0]).size:
            self._blocks.append((held, reason))

    def mark(self, ids: Indices | None, role: int) -> None:
        """Set the role of ids that have none yet."""
        if ids is not None:
            held = ids[ids >= 0]
            self._role[held] = np.where(self._role[held] == AFFINE, role, self._role[held])

    def join(self, left: Indices | None, right: Indices | None, reason: str) -> Indices | None:
        """Unite two dimensions of equal size; an id that meets a fixed position is not prunable."""
        if left is None or right is None or left is right:
            only = left if left is not None else right
            if (left is None) != (right is None):
                self.block(only, reason)
                return None if is_free(only) else only
            return only
        both = (left >= 0) & (right >= 0)
        if both.all():
            self.union(left, right)
            return left
        self.union(left[both], right[both])
        self.block(left[right == FIXED], reason)
        self.block(right[left == FIXED], reason)
        return np.where((left >= 0) | (right == FREE), left, right)

    def tie_columns(self, table: Indices, reason: str) -> Indices:
        """Unite each column of a `(rows, columns)` table; returns one id a column.

        A column that contains a fixed position is not prunable, for `reason`; without an id it is
        `FIXED`, or `FREE` where all of it is free.
        """
        has = table >= 0
        held = np.asarray(table[has.argmax(0), np.arange(table.shape[1])], dtype=np.int64)
        self.union(np.broadcast_to(held, table.shape)[has], table[has])
        fixed = (table == FIXED).any(0)
        self.block(held[fixed], reason)
        return np.where(fixed & (held == FREE), FIXED, held)

    def classes(self, ids: Indices) -> int:
        """Number of classes among `ids`."""
        return len(np.unique(self.find(ids)))

    def trial(self) -> Ids:
        """A copy for unions that may be discarded."""
        other = Ids.__new__(Ids)
        other._parent, other._role = self._parent.copy(), self._role
        other._size, other._blocks = self._size, list(self._blocks)
        return other

    def roots(self) -> Indices:
        """The class of every id."""
        return self.find(np.arange(self._size, dtype=np.int64))

    def roles(self) -> NDArray[np.int8]:
        """The role of every id."""
        return self._role[: self._size]

    def reasons(self) -> dict[int, str]:
        """The first reason of every class that is not prunable, by its representative."""
        found: dict[int, str] = {}
        for ids, reason in self._blocks:
            for root in np.unique(self.find(ids)).tolist():
                found.setdefault(root, reason)
        return found
