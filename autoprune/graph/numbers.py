"""Numbers that the model's code computes from sizes, such as the scale of attention.

A number that changes when channels are pruned makes the smaller model another one than the masked
model, unless the channels stay: those that it counts are not prunable. One that does not change,
such as the width of a head where whole heads are pruned, says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from autoprune.graph.flow import Flow
from autoprune.graph.sizes import Held, Made, Seen, Size, Source, holds
from autoprune.graph.types import Indices

_SCALE = "sets the scale of attention"
_ARITHMETIC = frozenset(
    f"{name}{end}"
    for name in "add sub mul div pow rsub true_divide multiply divide subtract".split()  # noqa: SIM905
    for end in ("", "_")
) | {"__rdiv__", "__rsub__", "__rpow__", "float_power"}
_VALUES = {"tensor": 0, "as_tensor": 0, "scalar_tensor": 0, "full": 1, "full_like": 1, "fill_": 1}
"""Functions that make a tensor of a value → the place of that value."""

Form = Counter[int]
"""A size as a sum: how often it counts each class of ids; under `_FIXED` what stays."""

_FIXED = -1


def note_numbers(
    flow: Flow, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> None:
    """Note the sizes among the numbers that a function of torch computed with."""
    if name == "scaled_dot_product_attention":
        _note_scale(flow, args, kwargs)
    elif name in _ARITHMETIC and isinstance(result, Tensor) and result.is_floating_point():
        for value in (*args, *kwargs.values()):
            if isinstance(value, Size):
                flow.compute_with(value.source)
    elif name in _VALUES and isinstance(result, Tensor):
        place = _VALUES[name]
        value = args[place] if len(args) > place else kwargs.get("fill_value", kwargs.get("data"))
        if isinstance(value, Size):
            flow.compute_with(value.source)


def _note_scale(flow: Flow, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Without an argument the scale is computed from the width of the queries."""
    if kwargs.get("scale") is None:
        labels = flow.known_labels(args[0] if args else kwargs["query"])
        if labels and labels[-1] is not None:
            flow.compute_with(Seen(labels[-1], flow), _SCALE)


def settle_numbers(flow: Flow) -> None:
    """Refuse the channels on which numbers depend, now that the run has ended."""
    computed, flow.computed = flow.computed, []
    if not computed:
        return
    held = _held_labels(flow)
    for source, reason in computed:
        form = _form(flow, source, held)
        if form is not None and not form.keys() - {_FIXED}:
            continue
        for label in _labels(flow, source, held):
            flow.refuse_parts(label)
            flow.ids.block(label, reason)


_HeldLabels = Mapping[tuple[str, str, tuple[str | int, ...]], Indices]


def _held_labels(flow: Flow) -> _HeldLabels:
    """The attributes that will change with the widths, with what they are the size of.

    Not guesses: those that change anything are dropped by verification.
    """
    found: dict[tuple[str, str, tuple[str | int, ...]], Indices] = {}
    for note in flow.notes:
        for place, label in enumerate(note.sizes if not note.guessed else ()):
            keys = note.keys if note.scalar else (*note.keys, place)
            if not isinstance(label, int):
                found.setdefault((note.module, note.name, keys), label)
    return found


def _labels(flow: Flow, source: Source | int, held: _HeldLabels) -> Iterator[Indices]:
    """The dimensions that a number is computed from."""
    if isinstance(source, Seen) and source.run is flow:
        yield source.label
    elif isinstance(source, Held):
        label = held.get((source.module, source.name, source.keys))
        if label is not None and holds(flow.modules.get(source.module), source):
            yield label
    elif isinstance(source, Made):
        yield from _labels(flow, source.left, held)
        yield from _labels(flow, source.right, held)


def _form(flow: Flow, source: Source | int, held: _HeldLabels) -> Form | None:
    """A number as a sum of sizes; None where it is none."""
    if isinstance(source, Made):
        left, right = (_form(flow, part, held) for part in (source.left, source.right))
        return _combined(source.operator, left, right) if left and right else None
    for label in _labels(flow, source, held):
        return Counter(max(root, _FIXED) for root in flow.ids.find(label).tolist())
    value = source if isinstance(source, int) else _plain(source)
    return Counter({_FIXED: value})


def _plain(source: Source) -> int:
    return source.value if isinstance(source, Held) else len(getattr(source, "label", ()))


def _combined(operator: str, left: Form, right: Form) -> Form | None:
    """A sum, product or quotient of two sizes as a sum; a ratio that stays counts as 1."""
    if operator == "+":
        return Counter({key: left[key] + right[key] for key in left | right})
    if operator == "*":
        one, other = (left, right) if left.keys() == {_FIXED} else (right, left)
        stays = one.keys() == {_FIXED}
        return Counter({key: n * one[_FIXED] for key, n in other.items()}) if stays else None
    first = next(iter(right))
    alike = (left[key] * right[first] == left[first] * right[key] for key in left | right)
    return Counter({_FIXED: 1}) if all(alike) else None
