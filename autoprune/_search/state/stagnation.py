"""Whether a search has stopped making progress."""

from __future__ import annotations

GROWTH = 0.005  # of the hypervolume: less than this is no progress


class Stagnation:
    """Follows a hypervolume trial by trial, from the beginning or the last resume.

    >>> stagnation = Stagnation(2, start=0.0)
    >>> for volume in (1.0, 1.5, 1.501, 1.502):
    ...     stagnation.note(volume)
    >>> stagnation.reached
    True
    """

    def __init__(self, patience: int, *, start: float) -> None:
        """`patience` is how many trials may pass without growth; 0 is without end."""
        self._patience, self._volumes = patience, [start]

    def note(self, volume: float) -> None:
        """Take the hypervolume after one more trial has ended."""
        self._volumes.append(volume)

    @property
    def reached(self) -> bool:
        """Whether the last `patience` trials raised the hypervolume by less than 0.5 %.

        Never before there was a model that counts.
        """
        if not self._patience or len(self._volumes) <= self._patience:
            return False
        before, now = self._volumes[-1 - self._patience], self._volumes[-1]
        return before > 0.0 and now < before * (1.0 + GROWTH)
