"""Lists of layers without those of which nothing is left, and configurations that count them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from autoprune.graph.replica import replica
from autoprune.pruning.configuration import (
    Keys,
    built,
    dense_config,
    set_dense_config,
    write,
)
from autoprune.pruning.depth import Removed

_COUNT = re.compile(r"layer|depth|block")
_INDEX = re.compile(r"^layer_?(idx|index|id|number|num)$")
_EMPTY = (Removed, nn.Dropout, nn.Identity)


def without_empty_layers(model: nn.Module) -> nn.Module:
    """A copy whose `nn.ModuleList`s have lost the entries of which dropped blocks left nothing.

    The configuration that it was built from counts its layers, where one of its entries does.
    """
    result = replica(model)
    lists = {p: m for p, m in result.named_modules() if isinstance(m, nn.ModuleList)}
    for path, held in lists.items():
        left = [place for place, layer in enumerate(held) if not _is_empty(layer)]
        if len(left) < len(held):
            found = _counted(type(model), dense_config(result), path, len(held), left)
            if found is not None:
                config, keys = found
                set_dense_config(result, config)
                _shorten(result, path, held, left)
                _recount(result, path, keys, len(held), left)
    return result


def _is_empty(layer: nn.Module) -> bool:
    """Whether a layer only passes on what enters it, because all that it had was dropped."""
    leaves = [module for module in layer.modules() if not list(module.children())]
    found = [leaf for leaf in leaves if isinstance(leaf, Removed)]
    nothing = all(isinstance(leaf, _EMPTY) for leaf in leaves)
    held = next(layer.parameters(), None), next(layer.buffers(), None)
    return not isinstance(layer, Removed) and bool(found) and nothing and held == (None, None)


def _shorten(model: nn.Module, path: str, held: nn.ModuleList, left: Sequence[int]) -> None:
    parent, _, leaf = path.rpartition(".")
    kept = [held[place] for place in left]
    for now, (before, layer) in enumerate(zip(left, kept, strict=True)):
        for module in layer.modules():
            for name, value in vars(module).items():
                if _INDEX.match(name) and value == before:
                    setattr(module, name, now)
    setattr(model.get_submodule(parent), leaf, nn.ModuleList(kept))


def _counted(
    kind: type[nn.Module], config: Any, path: str, count: int, left: Sequence[int]
) -> tuple[Any, Keys] | None:
    """A configuration with fewer layers in this list, and its entry; None where none gives it."""
    dense = set(built(kind, config, device="meta").state_dict())
    gone = {f"{path}.{place}." for place in range(len(left), count)}
    wanted = {name for name in dense if not any(name.startswith(prefix) for prefix in gone)}
    for keys in _counts(config, count):
        changed = copy.deepcopy(config)
        _set_count(changed, keys, count, left)
        try:
            found = set(built(kind, changed, device="meta").state_dict())
        except Exception:  # noqa: BLE001  a class may refuse values in any way
            continue
        if found == wanted:
            return changed, keys
    return None


def _counts(config: Any, count: int, inside: Keys = ()) -> Iterator[Keys]:
    """The entries that may say how many layers there are."""
    for name, value in vars(config).items():
        if type(value) is int and value == count and _COUNT.search(name):
            yield (*inside, name)
        elif hasattr(value, "to_dict") and not isinstance(value, type):
            yield from _counts(value, count, (*inside, name))


def _lists(config: Any, inside: Keys, count: int) -> Iterator[tuple[str, Sequence[Any]]]:
    """What the configuration says of every layer, one by one."""
    held: Mapping[str, Any] = vars(config)
    for key in inside:
        held = vars(held[str(key)])
    for name, values in list(held.items()):
        if isinstance(values, (list, tuple)) and len(values) == count:
            yield name, values


def _recount(model: nn.Module, path: str, keys: Keys, count: int, left: Sequence[int]) -> None:
    """The configurations around the list and in it: code reads the number of layers from them too.

    That of the whole model may count other lists (an encoder's, a decoder's) by other entries than
    `keys`; what is held beside the list is theirs.
    """
    seen: set[int] = set()
    for name, module in model.named_modules():
        config = vars(module).get("config")
        near = not name or path.startswith(f"{name}.") or f"{name}.".startswith(f"{path}.")
        if not near or not hasattr(config, "to_dict") or id(config) in seen:
            continue
        seen.add(id(config))
        for entry in list(_counts(config, count)) if name else [keys]:
            _set_count(config, entry, count, left)


def _set_count(config: Any, keys: Keys, count: int, left: Sequence[int]) -> None:
    """Let an entry count the layers that are left, and lists beside it hold what they have."""
    for name, values in list(_lists(config, keys[:-1], count)):
        write(config, (*keys[:-1], name), _like(values, [values[place] for place in left]))
    write(config, keys, len(left))


def _like(values: Sequence[Any], chosen: list[Any]) -> Sequence[Any]:
    """The chosen ones in the type of the values: a tuple, or a list."""
    return tuple(chosen) if isinstance(values, tuple) else chosen
