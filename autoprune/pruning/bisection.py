"""Which of many parts break a model, found in few tries."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

Accept = Callable[[list[str]], str]
_NUMBER = re.compile(r"\d+")
_SAMPLES = 4
_GOLDEN = 0.618


def faults(names: Sequence[str], accept: Accept) -> dict[str, str]:
    """The names at fault, with what was seen.

    `accept` tries some names together with all that it accepted before, and says what goes wrong
    ("": nothing, they are accepted). Names that differ in their numbers only are of one kind: the
    same place in equal layers, however the layers are numbered. A kind that fails is at fault as a
    whole where up to four of its members, spread over it, fail one by one. Where one of them is
    accepted, the kind is divided by the last number, then by the last two, and so on; each part is
    decided on like a kind. The number of tries depends on how many kinds there are, not on how
    many layers.

    >>> faults(["0.a", "0.b", "1.a", "1.b"], lambda some: "b" if "b" in str(some) else "")
    {'0.b': 'b', '1.b': 'b'}
    >>> names = [f"stages.{stage}.{layer}" for stage in range(3) for layer in range(20)]
    >>> tries = []
    >>> found = faults(names, lambda some: tries.append(some) or "none of them can go")
    >>> len(found), len(tries)
    (60, 5)
    """
    search = _Search(accept)
    search.halve(_divided(list(dict.fromkeys(names)), 0), 0)
    return {name: search.found[name] for name in names if name in search.found}


class _Search:
    """A search for faults: `found` has them so far, all that was accepted is in `good`."""

    def __init__(self, accept: Accept) -> None:
        self.found: dict[str, str] = {}
        self._good: set[str] = set()
        self._accept = accept

    def halve(self, parts: Sequence[list[str]], kept: int, trouble: str = "") -> None:
        """Decide on all names of some parts, as `_divided` makes them.

        `trouble` is what was seen, where all of them together are known to fail.
        """
        names = [name for part in parts for name in part]
        if not trouble or len(names) == 1:  # a single name is always asked for
            trouble = self._tried(names)
        if not trouble:
            return
        if len(parts) == 1:
            self._settle(names, kept, trouble)
            return
        half = len(parts) // 2
        self.halve(parts[:half], kept)
        first = {name for part in parts[:half] for name in part}
        self.halve(parts[half:], kept, trouble if first <= self._good else "")

    def _settle(self, names: list[str], kept: int, trouble: str) -> None:
        """Decide on names of one part that fail together."""
        parts = [names]
        while len(parts) == 1 < len(names):
            kept += 1
            parts = _divided(names, kept)
        for sample in _samples(parts) if len(names) > 1 else ():
            seen = self._tried([sample])
            if not seen:
                known = "" if any(name in self.found for name in names) else trouble
                rest = [n for n in names if n not in self._good and n not in self.found]
                self.halve(_divided(rest, kept), kept, known)
                return
            self.found[sample] = trouble = seen
        self.found.update({name: trouble for name in names if name not in self.found})

    def _tried(self, names: list[str]) -> str:
        trouble = self._accept(names) if names else ""
        if not trouble:
            self._good.update(names)
        return trouble


def _samples(parts: Sequence[list[str]]) -> list[str]:
    """A few names of different parts, the first and the last part among them.

    The places within the parts are spread as well: steps of the golden ratio, modulo 1.
    """
    last = len(parts) - 1
    chosen = [
        parts[n * last // (_SAMPLES - 1) if last >= _SAMPLES else n % len(parts)]
        for n in range(_SAMPLES)
    ]
    places = (int(_GOLDEN * n % 1.0 * len(part)) for n, part in enumerate(chosen))
    spread = [part[place] for part, place in zip(chosen, places, strict=True)]
    return list(dict.fromkeys([*spread, *itertools.chain(*parts)]))[:_SAMPLES]


def _divided(names: Sequence[str], kept: int) -> list[list[str]]:
    """The names by what is equal but for their numbers, of which the last `kept` count.

    >>> _divided(["0.a.0", "0.a.1", "1.a.0"], 0)
    [['0.a.0', '0.a.1', '1.a.0']]
    >>> _divided(["0.a.0", "0.a.1", "1.a.0"], 1)
    [['0.a.0', '1.a.0'], ['0.a.1']]
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        ignored = max(0, len(_NUMBER.findall(name)) - kept)
        kind = _NUMBER.sub("#", name, count=ignored) if ignored else name
        parts.setdefault(kind, []).append(name)
    return list(parts.values())
