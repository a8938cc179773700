"""Layers that the example does not reach, beside others of their kind that it does.

Experts of a mixture, or branches chosen by the input, are held in one list. What the example shows
of some of them holds for all: their inputs and outputs are the same channels. Channels that only
exist inside of a layer that was not reached stay.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.graph.calls import Note, owner
from autoprune.graph.flow import Flow
from autoprune.graph.ids import IN
from autoprune.graph.types import Indices

_INSIDE = -1
_LISTS = (nn.ModuleList, nn.ModuleDict)

_Shared = dict[tuple[str, int], Indices]
"""Tensor of a sibling (its name from there) and dimension → classes, `_INSIDE` for its own."""


def follow(flow: Flow, unreached: Sequence[str]) -> dict[str, bool]:
    """Give layers that no call has read the ids that their siblings share.

    `unreached` are paths of layers, or names of parameters. Returns those that follow, with whether
    all of their outputs do. Siblings are entries of one list with equal parameters; nothing follows
    where those that were reached differ in their inputs or outputs.
    """
    return _Siblings(flow).tie(unreached) if unreached else {}


class _Siblings:
    """The entries of lists in a model that was run."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._counts = np.bincount(flow.ids.roots(), minlength=1)
        self._keys: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for key in flow.owned:
            for path in _upwards(key[0]):
                self._keys[path].append(key)
        self._notes: dict[str, list[Note]] = defaultdict(list)
        for note in flow.notes:
            for path in _upwards(note.module):
                self._notes[path].append(note)
        self._inside: dict[str, NDArray[np.bool_]] = {}
        self._known: dict[str, _Shared] = {}
        self._shapes = functools.cache(lambda path: _shapes(flow.modules[path]))
        self._example = functools.cache(self._found_example)

    def tie(self, unreached: Sequence[str]) -> dict[str, bool]:
        """As `follow`."""
        found: dict[str, bool] = {}
        entries = {name: self._entry(name) for name in unreached}
        for path, reached in dict.fromkeys(entry for entry in entries.values() if entry):
            if like := self._example(reached):
                found.update(self._follow(path, like))
        return {name: found[name] for name in unreached if name in found}

    def _entry(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """The innermost entry of a list around `name`, and its siblings that reach the same."""
        modules = self._flow.modules
        for path in _upwards(name):
            home = path.rpartition(".")[0]
            if path not in modules or not isinstance(modules.get(home), _LISTS):
                continue
            rest = name.removeprefix(path)
            others = (f"{home}.{child}".lstrip(".") for child in modules[home]._modules)
            reached = tuple(
                other
                for other in others
                if other != path
                and f"{other}{rest}" in self._keys
                and self._shapes(other) == self._shapes(path)
            )
            if reached:
                return path, reached
        return None

    def _shared(self, path: str) -> _Shared:
        """The classes of a sibling's dimensions; those without ids elsewhere are its own."""
        if path not in self._known:
            ids, owned = self._flow.ids, self._flow.owned
            roots = {key: ids.find(owned[key]) for key in self._keys[path]}
            mine = np.bincount(np.concatenate([*roots.values()]), minlength=len(self._counts))
            inside = self._inside[path] = mine == self._counts
            self._known[path] = {
                (name.removeprefix(f"{path}."), dim): np.where(inside[held], _INSIDE, held)
                for (name, dim), held in roots.items()
            }
        return self._known[path]

    def _found_example(self, reached: tuple[str, ...]) -> str:
        """Which of the siblings shows what all of them share; empty where they differ in that."""
        like = max(reached, key=lambda sibling: len(self._shared(sibling)))
        return like if all(self._agree(sibling, like) for sibling in reached) else ""

    def _agree(self, path: str, other: str) -> bool:
        """Whether all that one sibling shares with the rest of the model the other shares, too."""
        shared, wider = self._shared(path), self._shared(other)
        return all(
            key in wider and np.array_equal(held, wider[key]) for key, held in shared.items()
        )

    def _follow(self, path: str, like: str) -> dict[str, bool]:
        """Tie the entry at `path`; its layers and tensors, with whether their outputs follow."""
        flow, follows = self._flow, defaultdict[str, list[bool]](list)
        for (rest, dim), classes in self._shared(like).items():
            name, ids = f"{path}.{rest}", flow.owned[f"{like}.{rest}", dim]
            if (name, dim) in flow.owned:
                continue
            shared, role = classes != _INSIDE, int(flow.ids.roles()[ids[0]])
            if shared.any():
                fresh = flow.owned[name, dim] = flow.ids.fresh(len(ids))
                flow.ids.union(fresh[shared], ids[shared])
                flow.ids.mark(fresh, role)
                flow.ids.block(fresh[~shared], "not reached by the example input")
            for known in (name, owner(name)) if role != IN else ():
                follows[known].append(bool(shared.all()))
        flow.notes += self._noted(path, like)
        return {name: all(held) for name, held in follows.items()}

    def _noted(self, path: str, like: str) -> Iterator[Note]:
        """Attributes that hold shared sizes, as the reached sibling has them."""
        for note in self._notes[like]:
            module = f"{path}{note.module.removeprefix(like)}"
            one, other = (
                getattr(self._flow.modules.get(name), note.name, None)
                for name in (module, note.module)
            )
            same = one == other and not (note.keys and one is other)
            if same and not self._is_inside(like, note.sizes):
                yield replace(note, module=module)

    def _is_inside(self, path: str, sizes: Sequence[int | Indices]) -> bool:
        """Whether one of the sizes counts channels that only the sibling at `path` has."""
        labels = [size[size >= 0] for size in sizes if not isinstance(size, int)]
        return any(self._inside[path][self._flow.ids.find(label)].any() for label in labels)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    held = module.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in held}
