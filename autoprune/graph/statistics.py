"""Means, variances and extremes over channels: which uses of them are prunable.

They change when channels are pruned: the smaller model takes them over the kept channels. That is
right where one only centers or scales the tensor it was taken from, as a normalization does, or
where a layer has learned to read it, as in spatial attention (Woo et al. 2018, arXiv:1807.06521).
Where it is used as a value, or one of the channels is selected and used, the channels are not
prunable (code may select one only for the shape of the rest).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autoprune.graph.calls import Call, Statistic
from autoprune.graph.flow import Flow

REDUCTIONS = frozenset(
    "mean var std var_mean std_mean amax amin max min".split()  # noqa: SIM905
)

SUMS = frozenset({"sum", "nansum", "linalg_vector_norm", "norm"})
"""Reductions to which a pruned channel adds nothing."""

_JOINED = frozenset({"cat", "stack"})
"""Operators that put statistics beside other tensors."""

_SAME = _JOINED | frozenset(
    """_to_copy clone detach alias view _unsafe_view reshape unsqueeze squeeze expand contiguous
    transpose permute t sqrt pow square abs neg clamp clamp_min clamp_max maximum minimum add
    sub rsub mul div rsqrt reciprocal repeat slice constant_pad_nd reflection_pad2d
    replication_pad2d avg_pool2d max_pool2d_with_indices _adaptive_avg_pool2d upsample_nearest2d
    upsample_bilinear2d""".split()  # noqa: SIM905
)
"""Operators that keep a statistic one, alone or with numbers and other statistics."""


_READERS = frozenset("convolution linear addmm mm".split())  # noqa: SIM905
"""Operators of layers, whose weights read a statistic like any other input."""


def follow(flow: Flow, call: Call) -> None:
    """Pass the statistics that enter a call to its result, or mark their channels not prunable."""
    before = [flow.state(tensor) for tensor in call.tensors]
    held = [state.statistic for state in before if state.statistic is not None]
    if not held:
        return
    name = call.name.removesuffix("_")
    others = [
        tensor
        for tensor, state in zip(call.tensors, before, strict=True)
        if state.statistic is None and tensor.numel() > 1
    ]
    picked = any(one.picked for one in held)
    if name in _SAME and (not others or (name in _JOINED and not picked)):
        labels = tuple(label for one in held for label in one.labels)
        call.statistic = Statistic(labels, held[0].reason, _inverted(call, name, held), picked)
    elif len(others) == 1 and _normalizes(call, name, others[0], held):
        call.zero = call.zero and name != "sub"  # a mean is taken off everywhere
    elif picked or name not in _READERS or not all(flow.state(other).weight for other in others):
        refuse(flow, held)


def refuse(flow: Flow, statistics: Sequence[Statistic | None]) -> None:
    """Mark the channels of these statistics as not prunable."""
    for one in statistics:
        for label in one.labels if one is not None else ():
            if not flow.are_heads(label):  # which part of a split they are is known
                flow.refuse_parts(label)
            flow.ids.block(label, one.reason if one is not None else "")


def _inverted(call: Call, name: str, held: Sequence[Statistic]) -> bool:
    inverse = any(one.inverse for one in held)
    exponent = call["exponent"]
    if name in {"rsqrt", "reciprocal"} or (name == "pow" and _negative(exponent)):
        return not inverse
    return inverse or (name == "div" and isinstance(call["other"], Tensor))


def _negative(exponent: object) -> bool:
    return isinstance(exponent, (int, float)) and exponent < 0


def _normalizes(call: Call, name: str, other: Tensor, held: Sequence[Statistic]) -> bool:
    if any(one.picked for one in held):
        return False
    if name == "mul":
        return all(one.inverse for one in held)
    return name == "sub" or (name == "div" and call["other"] is not other)
