"""What is known of the tensors of a run, and what its rules say about them.

Parameters and buffers carry fresh ids on every dimension, so that a bias, a scale, or the two
factors of a normalized weight need no rule of their own: dimensions that meet are united.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.graph.calls import (
    Activation,
    Note,
    Record,
    Site,
    State,
    Storages,
    layout_of,
    owner,
    parts_of,
)
from autoprune.graph.ids import Ids, Labels, is_free
from autoprune.graph.sizes import Held, Made, Size, Source, holds
from autoprune.graph.types import POSITIONS, Indices, Structure

_COMPUTED = "its size is used as a number (a scale, for example)"


class Findings:
    """Ids, activations and notes of the runs of one model: rules read and extend them."""

    def __init__(
        self,
        model: nn.Module,
        *,
        heads: Mapping[str, int] | None = None,
        choices: Mapping[int, int] | None = None,
        ignored: Container[str] = (),
    ) -> None:
        self.ids = Ids()
        self.tensors: list[Activation] = []
        self.records: list[Record] = []
        self.notes: list[Note] = []
        self.sites: list[Site] = []
        self.flips: set[int] = set()
        self.heads_seen: list[Indices] = []
        self.averaged: list[Indices] = []
        self.waiting: list[tuple[Made, Indices]] = []
        self.failure = ""  # why the model cannot be followed
        self.constants: set[Source] = set()  # what gave a dimension without ids its size
        self.computed: list[tuple[Source, str]] = []
        self.scripted: set[str] = set()
        self.owned: dict[tuple[str, int], Indices] = {}
        self.positions: dict[str, Indices] = {}  # of channels, by the layer that slides over them
        self.structures: dict[str, Structure | None] = {}
        self.recording = True
        self.heads = dict(heads or {})
        self.choices = dict(choices or {})
        self.ignored = ignored
        self.modules = dict(model.named_modules())
        self._paths = {id(module): path for path, module in reversed(self.modules.items())}
        self._stack: list[str] = [""]
        self._held = _names(model)
        self._first_names = {
            name: self._held[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        self._states: Any = WeakTensorKeyDictionary()
        self._storages = Storages()
        self._calls = 0
        self._next_site = 0
        self.caller = ""
        self.arguments: tuple[Sequence[Any], Mapping[str, Any]] = ((), {})
        self._held_sizes: dict[Held, Indices] = {}

    @property
    def freed(self) -> dict[int, int]:
        """The call after which each storage was freed; storages not listed lived until the end."""
        return self._storages.freed

    @property
    def layer(self) -> str:
        """The path of the running module."""
        return self._stack[-1]

    def state(self, tensor: Tensor) -> State:
        """The state of a tensor; a tensor not seen before is a constant."""
        state: State | None = self._states.get(tensor)
        if state is None:
            name = self._held.get(id(tensor))
            state = State((None,) * tensor.dim())
            if name is not None:
                state = State(self._own(name, tensor), names=(name,), weight=True, zero=True)
                state.layers = frozenset({owner(name)})
            else:
                state.index = self._activation(tensor, state.labels)
            self._states[tensor] = state
        return state

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of a tensor."""
        return self.state(tensor).labels

    def is_applied(self, weight: Tensor, source: Tensor) -> bool:
        """Whether the running module applies a weight of its own to parameters from outside of it.

        The result is an activation (of a learned query, a constant first image), no weight.
        """
        own, given = self.state(weight), self.state(source)
        if not own.weight or not given.weight:
            return False
        here = self.layer.partition(".parametrizations.")[0]
        inside = f"{here}." if here else ""
        return all(f"{path}.".startswith(inside) for path in own.layers) and not any(
            f"{path}.".startswith(inside) for path in given.layers
        )

    def block(self, labels: Indices | None, reason: str) -> None:
        """Mark ids as not prunable, with the layer appended to the reason."""
        self.ids.block(labels, self.place(reason))

    def join(self, left: Indices | None, right: Indices | None, reason: str = "") -> Indices | None:
        """Unite two dimensions of one size."""
        return self.ids.join(left, right, self.place(reason or "meets a dimension of fixed size"))

    def place(self, reason: str) -> str:
        """A reason with the layer in which it occurred."""
        return f"{reason} in {self.layer}" if self.layer else reason

    def choose(self, label: Indices, parts: Sequence[int]) -> int:
        """Which part of a split dimension carries the ids (the last, unless it is refused)."""
        key, self._next_site = self._next_site, self._next_site + 1
        order = [place for place in reversed(range(len(parts))) if parts[place] > 1]
        choice = min(self.choices.get(key, 0), len(order) - 1)
        heads = self._heads_of(label)
        wanted = [place for place in order if parts[place] == heads]
        place = wanted[-1] if wanted else order[choice]
        if not wanted and choice + 1 < len(order):
            others = tuple(size for part, size in enumerate(parts) if part != place)
            self.sites.append(Site(key, label, choice, parts[place], others))
        return place

    def rank(self, label: Indices) -> int:
        """Priority of merged dimensions: attention heads first, then larger ones; never those that
        are not prunable."""
        roots = set(self.ids.find(label[label >= 0]).tolist())
        if roots <= self.ids.reasons().keys():
            return 0
        return (1 << 40) + len(label) if self.are_heads(label) else len(label)

    def has_heads(self, tensor: Tensor) -> bool:
        """Whether a tensor has a dimension of attention heads of its own."""
        if tensor.dim() != 4:
            return False
        return any(label is not None and self.are_heads(label) for label in self.labels(tensor))

    def are_heads(self, label: Indices) -> bool:
        """Whether these are heads of an attention that has run."""
        roots = set(self.ids.find(label[label >= 0]).tolist())
        return any(not roots.isdisjoint(self.ids.find(ids).tolist()) for ids in self.heads_seen)

    def take_statistic(self, labels: Sequence[Indices]) -> None:
        """A mean, variance or extreme is taken over these dimensions."""
        self.averaged += labels

    def refuse_parts(self, labels: Indices | None) -> None:
        """These ids cannot be pruned here: their split may try another part in the next run."""
        if labels is None or not self.sites or not (held := labels[labels >= 0]).size:
            return
        roots = set(self.ids.find(held).tolist())
        found = [site for site in self.sites if self._meets(site.ids, roots)]
        exact = [site for site in found if site.carried == len(labels)]
        self.flips.update(site.key for site in exact or found[-1:])

    def want_part(self, labels: Labels, size: int) -> None:
        """A tensor has no ids in a dimension of this size, where another activation has some.

        Its other ids may come from a split with a part of that size: the next run tries that one.
        """
        for label in labels:
            if label is not None and self.sites and (held := label[label >= 0]).size:
                roots = set(self.ids.find(held).tolist())
                self.flips.update(
                    site.key
                    for site in self.sites
                    if size in site.others and self._meets(site.ids, roots)
                )

    def _meets(self, ids: Indices, roots: set[int]) -> bool:
        return not roots.isdisjoint(self.ids.find(ids[ids >= 0]).tolist())

    def note(self, names: Sequence[str], attribute: str, size: Any, old: Any) -> None:
        """`attribute` of the running module, or of the owner of a parameter, holds this size."""
        paths = {self.layer, *(owner(name) for name in names)}
        for path in sorted(paths):
            module = self.modules.get(path)
            held = getattr(module, attribute, None)
            scalar = isinstance(held, int) and not isinstance(held, bool)
            sizes = (size,) if not isinstance(size, tuple) else size
            same = held == old if scalar else isinstance(held, tuple) and held == tuple(old or ())
            if module is not None and held is not None and same:
                self.notes.append(Note(path, attribute, sizes, scalar))

    def owner_of(self, path: str, name: str, dim: int) -> Indices | None:
        """The ids of a dimension of a parameter of the layer at `path`."""
        full = f"{path}.{name}" if path else name
        return self.owned.get((self._first_names.get(full, full), dim))

    def note_layer(self, path: str, **sizes: Indices | None) -> None:
        """Attributes of the layer at `path` hold these sizes."""
        for name, size in sizes.items():
            if size is not None:
                self.notes.append(Note(path, name, (size,), True))

    def note_held(self, held: Held, label: Indices) -> None:
        """An attribute sets the size of a dimension; all dimensions that it sets are tied."""
        if not holds(self.modules.get(held.module), held):
            return
        before = self._held_sizes.setdefault(held, label)
        if before is not label and len(before) == len(label):
            self.join(before, label, f"has the size of {held.name}")
        self.notes.append(Note(held.module, held.name, (label,), True, keys=held.keys))

    def compute_with(self, source: Source, reason: str = _COMPUTED) -> None:
        """A number that is no size was computed from a size: it must not change (`numbers`)."""
        self.computed.append((source, self.place(reason)))

    def own_positions(self, size: int) -> Indices:
        """Ids of the channels that the running layer slides over, one for each of its calls."""
        key = (f"{self.layer}.{POSITIONS}", 0)
        if key not in self.owned:
            self.owned[key] = self.ids.fresh(size)
        self.positions[self.layer] = self.owned[key]
        return self.owned[key]

    def own_nothing(self, size: int) -> Indices:
        """Ids for a dimension of a constant."""
        key = ("", len(self.owned))
        self.owned[key] = self.ids.fresh(size)
        return self.owned[key]

    def known_labels(self, tensor: Tensor) -> Labels:
        """The labels of a tensor; none for a tensor that the run has not seen."""
        state: State | None = self._states.get(tensor)
        return state.labels if state is not None else ()

    def note_sizes(self, labels: Labels, shape: Sequence[int], known: Container[int] = ()) -> None:
        """Plain integers of the running module that equal a labeled size may hold that size.

        They are guesses: verification drops those that the smaller model does not need.
        """
        module = self.modules.get(self.layer)
        if self.caller in _SIZES_OF_ITS_OWN:
            return
        for place, (label, size) in enumerate(zip(labels, shape, strict=True)):
            if label is None or module is None or place in known:
                continue
            for name, value in vars(module).items():
                if (
                    type(value) in (int, Size)
                    and value == size
                    and (size >= 8 or _COUNT.search(name))
                ):
                    self.notes.append(Note(self.layer, name, (label,), True, guessed=True))

    def _written(self, view: Tensor, labels: Labels) -> None:
        """A constant that was written to in part takes the state of what was written."""
        base = view._base
        state: State | None = self._states.get(base) if base is not None else None
        if base is None or state is None or not any(map(is_free, state.labels)):
            return
        strides = dict(zip(view.stride(), zip(view.shape, labels, strict=True), strict=True))
        held = list(state.labels)
        for dim, (size, stride) in enumerate(zip(base.shape, base.stride(), strict=True)):
            written, label = strides.get(stride, (0, None))
            if written == size > 1 and is_free(held[dim]):
                held[dim] = label
        state.labels = tuple(held)
        if state.index >= 0:
            self.tensors[state.index].labels = state.labels

    def _own(self, name: str, tensor: Tensor) -> Labels:
        dense = tensor.layout is torch.strided
        if not dense or not tensor.is_floating_point() or self._is_scripted(name):
            return (None,) * tensor.dim()
        labels: list[Indices | None] = []
        for dim, size in enumerate(tensor.shape):
            if size <= 1:
                labels.append(None)
                continue
            if (name, dim) not in self.owned:
                self.owned[name, dim] = self.ids.fresh(size)
            labels.append(self.owned[name, dim])
        return tuple(labels)

    def _is_scripted(self, name: str) -> bool:
        """Whether a parameter is one of a scripted module, whose sizes are constants."""
        if not isinstance(self.modules.get(owner(name)), ScriptModule):
            return False
        self.scripted.add(name)
        return True

    def _activation(self, tensor: Tensor, labels: Labels) -> int:
        if not self.recording:
            return -1
        shape, itemsize = layout_of(tensor)
        if len(shape) != len(labels):
            labels = (None,)
        number = self._storages.number(parts_of(tensor)[-1])
        self.tensors.append(Activation(shape, labels, itemsize, number))
        return len(self.tensors) - 1

    def _heads_of(self, label: Indices) -> int:
        if not self.heads:
            return 0
        members = set(self.ids.find(label[label >= 0]).tolist())
        for path, count in self.heads.items():
            for (name, _), ids in self.owned.items():
                if owner(name) == path and members.intersection(self.ids.find(ids).tolist()):
                    return count
        return next((n for path, n in self.heads.items() if path and path == self.layer), 0)


_COUNT = re.compile("head|group")
"""Names under which a small integer may hold a size; other small integers are too likely not to."""


_SIZES_OF_ITS_OWN = frozenset(
    """matmul __matmul__ __rmatmul__ linear einsum tensordot bilinear instance_norm batch_norm
    layer_norm group_norm bmm mm""".split()  # noqa: SIM905
)
"""Functions that reshape for themselves: the sizes in them are nobody's attributes."""


def _names(model: nn.Module) -> dict[int, str]:
    held: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), name)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        held.setdefault(id(buffer), name)
    return held
