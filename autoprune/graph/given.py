"""Sizes that the model's own code passes to a call, and the attributes that must follow them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.graph.flow import Flow
from autoprune.graph.ids import FIXED, Labels, free
from autoprune.graph.sizes import Held, Made, Seen, Size, Source, holds
from autoprune.graph.types import Indices

_SHAPES = frozenset("view reshape expand unsafe_view".split())  # noqa: SIM905
_NEW = frozenset("new_zeros new_ones new_full new_empty".split())  # noqa: SIM905
_FRESH = frozenset("zeros ones full empty rand randn".split())  # noqa: SIM905


def seen(flow: Flow, func: Any, args: Sequence[Any], result: Any) -> Any:
    """The shape of a tensor as integers that remember their dimension."""
    name = getattr(func, "__name__", "")
    if name not in ("__get__", "size") or not args or not isinstance(args[0], Tensor):
        return result
    if not isinstance(result, (torch.Size, int)) or isinstance(result, bool):
        return result
    labels = flow.known_labels(args[0])
    if isinstance(result, torch.Size):
        if len(result) != len(labels):
            return result
        sizes = [_size(flow, n, label) for n, label in zip(result, labels, strict=True)]
        return torch.Size(sizes)
    if name == "size" and len(args) > 1 and isinstance(args[1], int) and labels:
        return _size(flow, result, labels[args[1]])
    return result


def _size(flow: Flow, value: int, label: Indices | None) -> int:
    if label is None or len(label) != value or not bool((label >= 0).any()):
        return value
    return Size(value, Seen(label, flow))


def shape_given(flow: Flow, ndim: int) -> list[Any]:
    """The sizes that the code passed for `ndim` dimensions of a result; None if it passed none."""
    name, (args, kwargs) = flow.caller, flow.arguments
    nothing: list[Any] = [None] * ndim
    if name in _SHAPES or name in _NEW:
        sizes = _flat(args[1:] or [kwargs.get("size", kwargs.get("shape"))])
    elif name in _FRESH:
        sizes = _flat(args or [kwargs.get("size")])
    elif name == "unflatten" and len(args) == 3:
        place, sizes = int(args[1]) % (ndim - len(args[2]) + 1), list(args[2])
        return [*nothing[:place], *sizes, *nothing[place + len(sizes) :]]
    else:
        return nothing
    return sizes[:ndim] if len(sizes) >= ndim else nothing


def _flat(sizes: Sequence[Any]) -> list[Any]:
    first = sizes[0] if sizes else None
    return list(first) if isinstance(first, (tuple, list)) else list(sizes)


def meet(flow: Flow, given: Sequence[Any], labels: Labels) -> set[int]:
    """Relate dimensions with these labels to the sizes passed for them, and note the attributes.

    Returns the dimensions whose size has a known source.
    """
    around = {
        size.source: label
        for size, label in zip(given, labels, strict=False)
        if isinstance(size, Size) and isinstance(size.source, Held)
    }
    known = set()
    for place, (size, label) in enumerate(zip(given, labels, strict=False)):
        if isinstance(size, Size) and _is_of(flow, size.source):
            known.add(place)
            if isinstance(size.source, Held) and label is None:
                flow.constants.add(size.source)
            settle(flow, size.source, label, int(size), around)
    return known


def _is_of(flow: Flow, source: Source | int) -> bool:
    """Whether a number comes from this run; code may keep one from an earlier run."""
    if isinstance(source, Seen):
        return source.run is flow
    if isinstance(source, Held):
        return holds(flow.modules.get(source.module), source)
    return isinstance(source, Made) and (_is_of(flow, source.left) or _is_of(flow, source.right))


def is_ratio(size: Any) -> bool:
    """Whether a size is the quotient of two sizes: both may change and leave it as it is."""
    source = size.source if isinstance(size, Size) else None
    if not isinstance(source, Made) or source.operator != "//":
        return False
    return not isinstance(source.right, int)


def meet_norm(flow: Flow, args: Sequence[Any], kwargs: Mapping[str, Any], labels: Labels) -> None:
    """The normalized shape of a norm is that of the last dimensions."""
    given = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    if isinstance(given, (tuple, list)) and len(given) <= len(labels):
        meet(flow, given, labels[len(labels) - len(given) :])


def meet_groups(flow: Flow, channels: Indices | None) -> None:
    """The number of groups that the code passed is that of these channels."""
    args, kwargs = flow.arguments
    name, place = ("num_groups", 1) if flow.caller == "group_norm" else ("groups", 6)
    meet(flow, [kwargs.get(name, args[place] if len(args) > place else None)], (channels,))


def cut_given(flow: Flow, edge: int) -> Source | None:
    """The source of the bound of a slice, or of a part; None for a literal."""
    for end in _bounds(flow):
        if isinstance(end, Size) and end == edge:
            return end.source
    return None


def _bounds(flow: Flow) -> list[Any]:
    args, kwargs = flow.arguments
    if flow.caller in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        slices = [part for part in index if isinstance(part, slice)]
        return [end for part in slices for end in (part.start, part.stop)]
    if flow.caller == "narrow":
        start, length = (
            kwargs.get(name, args[place] if len(args) > place else None)
            for place, name in ((2, "start"), (3, "length"))
        )
        return [start + length if start else length, start]
    if flow.caller == "tensor_split":
        return _parts(flow, args, kwargs)
    return []


def _parts(flow: Flow, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The bounds between the parts of `tensor_split`: as passed, or those of equal parts."""
    given = kwargs.get("indices_or_sections", kwargs.get("indices", kwargs.get("sections")))
    given = args[1] if len(args) > 1 else given
    if isinstance(given, (tuple, list)):
        return list(given)
    source, dim = args[0], kwargs.get("dim", args[2] if len(args) > 2 else 0)
    size, labels = source.shape[dim], flow.known_labels(source)
    if not isinstance(given, int) or size % given or not labels or labels[dim] is None:
        return []
    part = Size(size, Seen(labels[dim], flow)) // int(given)
    return [part * place for place in range(1, given)]


def parts_given(flow: Flow, count: int) -> list[int] | None:
    """The sizes of the parts of a split, where the source of one or more is known."""
    args, kwargs = flow.arguments
    given = kwargs.get("split_size_or_sections", kwargs.get("split_size", None))
    if given is None and flow.caller in ("split", "split_with_sizes") and len(args) > 1:
        given = args[1]
    known = isinstance(given, (tuple, list)) and len(given) == count
    if not known or not any(isinstance(size, Size) for size in given):
        return None
    return list(given)


def made(flow: Flow, given: Sequence[Any], shape: Sequence[int]) -> Labels:
    """Labels of a constant: dimensions whose passed size has a source; the others are free."""
    labels: list[Indices | None] = []
    for size, known in zip(shape, given, strict=True):
        if not isinstance(known, Size) or size < 2:
            labels.append(free(size))
        elif isinstance(known.source, Seen) and known.source.run is flow:
            labels.append(known.source.label)
        else:
            labels.append(flow.own_nothing(size))
            settle(flow, known.source, labels[-1], size, {})
    return tuple(labels)


def settle(
    flow: Flow,
    source: Source | int,
    label: Indices | None,
    size: int,
    around: Mapping[Held, Indices | None],
) -> None:
    """Note that a dimension with that label gets its size from `source`."""
    if label is not None and not bool((label >= 0).any()):
        label = None
    if isinstance(source, Seen):
        if source.run is not flow:
            return  # a number that the model's code kept from another run
        if label is None:
            flow.block(source.label, "gives a dimension of fixed size its size")
        elif not _have_same_ids(flow, label, source.label):
            flow.join(label, source.label)
    elif isinstance(source, Held) and label is not None:
        flow.note_held(source, label)
    elif isinstance(source, Made) and source.operator == "//":
        _divided(flow, source, label, size, around)
    elif isinstance(source, Made) and source.operator == "+" and label is not None:
        _added(flow, source, label)
    elif isinstance(source, Made) and label is not None:
        _multiplied(flow, source, label, around)


def _have_same_ids(flow: Flow, label: Indices, other: Indices) -> bool:
    """Whether one is the other in another order (a shuffle), and so has its size in any case."""
    return np.array_equal(np.sort(flow.ids.find(label)), np.sort(flow.ids.find(other)))


def _divided(
    flow: Flow,
    source: Made,
    label: Indices | None,
    size: int,
    around: Mapping[Held, Indices | None],
) -> None:
    """`left // right` is this dimension: `left` has its ids `right` times over."""
    times = _value(source.right)
    whole = _value(source.left)
    if label is not None and times:
        wide = np.tile(label, times)
    else:
        heads = around.get(source.right) if isinstance(source.right, Held) else None
        if heads is None:
            settle(flow, source.left, None, whole or size, around)
            return
        wide = np.repeat(heads, size)
    if whole is None or whole < len(wide):
        return
    rest = np.full(whole - len(wide), FIXED, dtype=np.int64)
    settle(flow, source.left, np.concatenate([wide, rest]), whole, around)


def _added(flow: Flow, source: Made, label: Indices) -> None:
    """`left + right` is this dimension, or `right + left`: only what the model holds has its place.

    A sum of the sizes of tensors fits them in any order.
    """
    edge = _value(source.left)
    for part, held in ((source.left, label[:edge]), (source.right, label[edge:])):
        if edge is not None and not isinstance(part, (Seen, int)):
            settle(flow, part, held, len(held), {})


def settle_rest(flow: Flow) -> None:
    """Products whose dimension was split only after it was cut, now that the run has ended."""
    waiting, flow.waiting = flow.waiting, []
    for source, label in waiting:
        settle(flow, source, label, len(label), {})
    flow.waiting.clear()


def _multiplied(
    flow: Flow, source: Made, label: Indices, around: Mapping[Held, Indices | None]
) -> None:
    """`left * right` is this dimension: one factor follows its ids, the other is not prunable.

    The left one is the outer one, unless the other is known not to change. Where neither does, a
    later call may still tie the ids.
    """
    roots = flow.ids.find(label)
    for one, other, outer in (
        (source.left, source.right, True),
        (source.right, source.left, False),
    ):
        times = _value(other)
        stays = isinstance(other, int) or other in flow.constants
        if isinstance(one, int) or one in flow.constants or not times or len(label) % times:
            continue
        repeated, tiled = roots.reshape(-1, times), roots.reshape(times, -1)
        if bool((repeated == repeated[:, :1]).all()) and (outer or stays):
            settle(flow, one, label.reshape(-1, times)[:, 0].copy(), len(label) // times, around)
            return
        if bool((tiled == tiled[:1]).all()) and (not outer or stays):
            settle(flow, one, label.reshape(times, -1)[0].copy(), len(label) // times, around)
            return
    flow.waiting.append((source, label))


def _value(source: Source | int) -> int | None:
    if isinstance(source, int):
        return int(source)
    if isinstance(source, Seen):
        return len(source.label)
    if isinstance(source, Held):
        return source.value
    left, right = _value(source.left), _value(source.right)
    if left is None or not right:
        return None
    return int(_COMPUTE[source.operator](left, right))


_COMPUTE = {"*": operator.mul, "//": operator.floordiv, "+": operator.add}
