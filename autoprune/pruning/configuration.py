"""Configurations from which a pruned model can be built again.

A model of Hugging Face's transformers is built from its `config` alone, and so are many others (a
dataclass, a namespace or a dictionary of sizes). What an entry of it decides is found by building
the class again with another value, on the meta device: which sizes change, and by how much. From
that follow the values that give the pruned model's sizes, where any do.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn

from autoprune.graph.outputs import answers_in
from autoprune.graph.trace import Inputs, as_call, untouched
from autoprune.log_level import log_level

Keys = tuple[str | int, ...]
Place = tuple[str, int]
"""A dimension of a tensor, or with `ATTRIBUTE` an integer that a module holds."""

T = TypeVar("T")
ATTRIBUTE = -1
TOLERANCE = 1e-5
"""How far outputs of the model that is built again may lie from the pruned model's, relative."""

_DENSE = "_dense_config"
_NO_WIDTH = re.compile(
    r"vocab|_ids?$|position|window|max_|length|version|layers?$|depths?$|^_|_stride|kernel"
)


def is_configured(model: nn.Module) -> bool:
    """Whether the model is of a class that is built from its `config` and saved with it."""
    config = getattr(model, "config", None)
    return hasattr(config, "to_dict") and callable(getattr(model, "save_pretrained", None))


def has_config(model: nn.Module) -> bool:
    """Whether the model's class can be called with the model's `config` alone."""
    config = getattr(model, "config", None)
    if not (isinstance(config, dict) or _is_nested(config)):
        return False
    try:
        inspect.signature(type(model)).bind(config)
    except (TypeError, ValueError):
        return False
    return True


def remember(model: nn.Module, dense: nn.Module) -> None:
    """Let a pruned copy of `dense` know the configuration from which its class can be built."""
    if has_config(dense):
        setattr(model, _DENSE, copy.deepcopy(dense_config(dense)))


def dense_config(model: nn.Module) -> Any:
    """The configuration of the model before it was pruned."""
    return getattr(model, _DENSE, None) or model.config


def set_dense_config(model: nn.Module, config: Any) -> None:
    """Replace it, where layers are gone from lists of the model."""
    setattr(model, _DENSE, config)


def dense_twin(model: nn.Module) -> nn.Module | None:
    """The model before it was pruned, without weights; None where its class cannot be built so."""
    try:
        return built(type(model), dense_config(model), device="meta")
    except Exception:  # noqa: BLE001  a class may refuse the device in any way
        return None


def mend(model: nn.Module, example_inputs: Inputs) -> bool:
    """Set the entries of `model.config` to the model's sizes; whether a configuration gives them.

    The class is built with that configuration and the model's weights, and must give the same
    outputs; else nothing is changed.
    """
    found = fitted(model)
    if found is None or not _gives(found, model, example_inputs):
        return False
    before = outputs(model, example_inputs)
    entries = _entries(model.config)
    old = copy.deepcopy(entries)
    for keys, value in integers(found):
        write(model.config, keys, value)
    if agree(outputs(model, example_inputs), before):
        return True
    entries.clear()
    entries.update(old)
    return False


def fitted(model: nn.Module) -> Any | None:
    """A configuration that gives the sizes of the model's tensors; None where none is found."""
    probe, wanted = _Probe(type(model), dense_config(model)), places_of(model)
    base = probe.places(probe.config)
    if base is None or _tensors(base).keys() != _tensors(wanted).keys():
        return None
    slopes = probe.all_slopes()
    users = Counter(place for found in slopes.values() for place in _tensors(found))
    alone = {k: {p: s for p, s in found.items() if users[p] == 1} for k, found in slopes.items()}
    for keys, found in alone.items():
        probe.set(keys, base, wanted, found)
    heads = [keys for keys in slopes if "head" in str(keys[-2:]) and not alone[keys]]
    for some in [*_siblings(heads), *([keys] for keys in heads)]:
        probe.try_all(some, wanted, {place for keys in some for place in slopes[keys]})
    for keys in slopes:
        probe.set_wrong(keys, wanted)
    now = probe.places(probe.config)
    is_right = now is not None and _tensors(now) == _tensors(wanted)
    return probe.config if is_right else None


def _siblings(entries: Sequence[Keys]) -> list[list[Keys]]:
    """Those of one configuration together."""
    found: dict[Keys, list[Keys]] = {}
    for keys in entries:
        found.setdefault(keys[:-1], []).append(keys)
    return list(found.values())


class _Probe:
    """A class that is built from a configuration, which is changed step by step."""

    def __init__(self, kind: type[nn.Module], config: Any) -> None:
        self.config = copy.deepcopy(config)
        self._kind = kind
        self._twins: dict[Keys, Keys] = {}

    def places(self, config: Any) -> dict[Place, int] | None:
        """Every size in a model of this configuration; None where it cannot be built."""
        try:
            return places_of(built(self._kind, config, device="meta"))
        except Exception:  # noqa: BLE001  a class may refuse values in any way
            return None

    def all_slopes(self) -> dict[Keys, dict[Place, float]]:
        """Those of every entry that has some; of two that must be equal, of the first."""
        entries = dict(integers(self.config))
        found = {keys: self.slopes(keys) for keys in entries}
        silent = [keys for keys, slopes in found.items() if not slopes]
        for one, other in itertools.combinations(silent, 2):
            if entries[one] == entries[other] and not found[one] and not found[other]:
                self._twins[one] = other
                found[one] = self.slopes(one)
                if not found[one]:
                    del self._twins[one]
        return {keys: slopes for keys, slopes in found.items() if slopes}

    def slopes(self, keys: Keys) -> dict[Place, float]:
        """The sizes that grow with an entry, and by how much for each unit of it."""
        base, value = self.places(self.config), int(read(self.config, keys))
        for other in (2 * value, value // 2, value + 1):
            if other in (0, value) or base is None:
                continue
            found = self.places(self._with(keys, other))
            if found is not None and found.keys() == base.keys():
                return {
                    place: (size - base[place]) / (other - value)
                    for place, size in found.items()
                    if size != base[place]
                }
        return {}

    def _with(self, keys: Keys, value: int) -> Any:
        changed = copy.deepcopy(self.config)
        for place in (keys, self._twins.get(keys, keys)):
            write(changed, place, value)
        return changed

    def set_wrong(self, keys: Keys, wanted: Mapping[Place, int]) -> None:
        """The value of an entry that mends the sizes that are still wrong, where it does."""
        now = self.places(self.config)
        wrong = [p for p, size in _tensors(wanted).items() if now and now[p] != size]
        if now is not None and wrong:
            slopes = self.slopes(keys)
            self.set(keys, now, wanted, {p: slopes[p] for p in wrong if p in slopes})

    def set(
        self,
        keys: Keys,
        now: Mapping[Place, int],
        wanted: Mapping[Place, int],
        slopes: Mapping[Place, float],
    ) -> None:
        """The value of an entry for which the places in `slopes` get the sizes that are wanted.

        It stays where they contradict each other.
        """
        value = int(read(self.config, keys))
        found = {value + (wanted[p] - now[p]) / slope for p, slope in slopes.items()}
        if len(found) == 1 and (one := found.pop()).is_integer() and one >= 1:
            self.config = self._with(keys, int(one))

    def try_all(
        self, entries: Sequence[Keys], wanted: Mapping[Place, int], places: Collection[Place]
    ) -> None:
        """The values of entries that no tensor shows alone, all at the same fraction of theirs.

        Those stay for which most sizes are right, and then most integers of the modules. An integer
        that only repeats an entry counts less than one that is derived from it (the width of a
        head): code that does not read a number leaves it as it was.
        """
        values = [int(read(self.config, keys)) for keys in entries]
        steps = math.gcd(*values)
        best, most = self.config, -1
        for step in range(steps, 0, -1):
            changed = copy.deepcopy(self.config)
            for keys, value in zip(entries, values, strict=True):
                write(changed, keys, value * step // steps)
            found = self.places(changed)
            if found is not None:
                told = {p: found[p] for p in places if p in found and found[p] == wanted.get(p)}
                copies = {value * step // steps for value in values}
                score = sum(1 if size in copies else 2 for p, size in told.items() if p[1] < 0)
                score += 3 * len(places) * len(_tensors(told))
                best, most = (changed, score) if score > most else (best, most)
        self.config = best


def built(kind: type[nn.Module], config: Any, device: str = "cpu") -> nn.Module:
    """A model of that class, in eval mode; the random state stays as it was."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.device(device),
        log_level("transformers", below=logging.ERROR),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return kind(copy.deepcopy(config)).eval()


def places_of(model: nn.Module) -> dict[Place, int]:
    """The size of every dimension of its saved tensors, and the integers that its modules hold."""
    found = {
        (name, dim): size
        for name, tensor in model.state_dict().items()
        for dim, size in enumerate(tensor.shape)
    }
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) is int and not name.startswith("_"):
                found[f"{path}:{name}", ATTRIBUTE] = value
    return found


def _tensors(places: Mapping[Place, T]) -> dict[Place, T]:
    return {place: size for place, size in places.items() if place[1] != ATTRIBUTE}


def integers(config: Any, inside: Keys = ()) -> Iterator[tuple[Keys, int]]:
    """The whole numbers in a configuration that may be widths, also in lists and nested ones."""
    for name, value in list(_entries(config).items()):
        if not isinstance(name, str) or _NO_WIDTH.search(name):
            continue
        if type(value) is int and value > 0:
            yield (*inside, name), value
        elif isinstance(value, (list, tuple)) and value and all(type(n) is int for n in value):
            yield from (((*inside, name, place), n) for place, n in enumerate(value) if n > 0)
        elif isinstance(value, dict) or _is_nested(value):
            yield from integers(value, (*inside, name))


def _is_nested(value: Any) -> bool:
    """Whether it is a configuration object."""
    known = isinstance(value, SimpleNamespace) or hasattr(value, "to_dict") or is_dataclass(value)
    return known and not isinstance(value, type)


def _entries(config: Any) -> dict[Any, Any]:
    """What a configuration holds, by name; changes of it are the configuration's."""
    return config if isinstance(config, dict) else vars(config)


def read(config: Any, keys: Keys) -> Any:
    """What a configuration holds at a place."""
    for key in keys:
        config = config[key] if isinstance(key, int) else _entries(config)[key]
    return config


def write(config: Any, keys: Keys, value: Any) -> None:
    """Put a value at a place of a configuration."""
    *outer, last = keys
    if isinstance(last, int):
        held = list(read(config, outer_keys := tuple(outer)))
        held[last] = value
        kind = type(read(config, outer_keys))
        write(config, outer_keys, kind(held))
    else:
        _entries(read(config, tuple(outer)))[last] = value


def outputs(model: nn.Module, example_inputs: Inputs) -> list[torch.Tensor]:
    """What the model answers in eval mode."""
    args, kwargs = as_call(example_inputs)
    with untouched(model):
        model.eval()
        return answers_in(model(*args, **kwargs))


def agree(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    """Whether all outputs are equal within `TOLERANCE` of the largest."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        return False
    for one, other in zip(found, wanted, strict=True):
        a, b = one.double(), other.double()
        both = torch.isfinite(a) & torch.isfinite(b)
        spread = float(b[both].abs().max()) if bool(both.any()) else 0.0
        if not bool(((a - b)[both].abs() <= TOLERANCE * spread + 1e-12).all()):
            return False
    return True


def _gives(config: Any, model: nn.Module, example_inputs: Inputs) -> bool:
    try:  # also what was built on the meta device, where weights are not drawn
        again = built(type(model), config).to(next(model.parameters()).dtype)
        again.load_state_dict(model.state_dict())
    except Exception:  # noqa: BLE001  a class may refuse values in any way
        return False
    return agree(outputs(again, example_inputs), outputs(model, example_inputs))
