"""Which of many parts break a model, found in few tries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def faults(names: Sequence[str], accept: Callable[[list[str]], str]) -> dict[str, str]:
    """The names at fault, with what was seen.

    `accept` tries some names together with all that it accepted before, and says what goes wrong
    ("": nothing, they are accepted). Once a name is found, all that lie at the same place of equal
    layers are tried together, and where that fails each part of a layer on its own, in all layers;
    those are at fault together where that fails too: the number of tries depends on how many kinds
    of layers there are, not on how many layers.

    >>> faults(["0.a", "0.b", "1.a", "1.b"], lambda some: "b" if "b" in str(some) else "")
    {'0.b': 'b', '1.b': 'b'}
    """
    found: dict[str, str] = {}
    good: set[str] = set()

    def tried(some: Sequence[str]) -> str:
        trouble = accept(list(some)) if some else ""
        good.update(() if trouble else some)
        return trouble

    def undecided(some: Sequence[str]) -> list[str]:
        return [name for name in some if name not in good and name not in found]

    waiting = [list(names)]
    while waiting:
        some = undecided(waiting.pop())
        trouble = tried(some)
        if trouble and len(some) > 1:
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
        elif trouble:
            found[some[0]] = trouble
            alike = undecided([name for name in names if _place(name) == _place(some[0])])
            if tried(alike):
                for same in _apart(alike):
                    found.update(dict.fromkeys(same, trouble) if (trouble := tried(same)) else {})
    return found


def _apart(names: Sequence[str]) -> list[list[str]]:
    """Those that differ in their first number only, together: `#.layer.0`, `#.layer.1`."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name, count=1), []).append(name)
    return list(kinds.values())


def _place(name: str) -> str:
    """`layers.3.fc` -> `layers.#.fc`."""
    return re.sub(r"\d+", "#", name)
