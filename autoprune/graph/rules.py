"""The table of operators: how channel ids pass through each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.graph import contract, indexing, modules, movement, norms, positions, statistics
from autoprune.graph.calls import Call, Statistic
from autoprune.graph.flow import Flow, Rule
from autoprune.graph.given import made, shape_given
from autoprune.graph.ids import Labels
from autoprune.graph.types import Indices


def pointwise(flow: Flow, call: Call) -> None:
    """Unite ids that meet at a position; an operand of size 1 couples nothing."""
    for out in call.outs:
        labels: list[Indices | None] = [None] * out.dim()
        for dim in range(out.dim()):
            held, size, first = None, out.shape[dim], True
            for tensor in call.tensors:
                place = dim - out.dim() + tensor.dim()
                if place < 0 or tensor.shape[place] != size or (size == 1 and tensor is not out):
                    continue
                label = flow.labels(tensor)[place]
                if not first and (held is None) != (label is None):
                    _want_parts(flow, call, place - tensor.dim(), size)
                held, first = (label if first else flow.join(held, label)), False
            labels[dim] = held
        call.labels.append(tuple(labels))
    call.zero = keeps_zero(flow, call)
    if call.name in DIVISORS and isinstance(divisor := call[DIVISORS[call.name]], Tensor):
        state = flow.state(divisor)
        flow.take_statistic([label for label in state.labels if state.zero and label is not None])


def _want_parts(flow: Flow, call: Call, place: int, size: int) -> None:
    """Activations without ids in a dimension in which another activation has some."""
    given = [tensor for tensor in call.tensors if not flow.state(tensor).weight]
    given = [tensor for tensor in given if tensor.dim() >= -place and tensor.shape[place] == size]
    labels = [flow.labels(tensor) for tensor in given]
    if any(held[place] is not None for held in labels):
        for held in labels:
            if held[place] is None:
                flow.want_part(held, size)


DIVISORS = {"div": "other", "reciprocal": "self", "rsqrt": "self", "log": "self"}
"""Operator → the argument where a zero, such as of a pruned parameter, gives no finite result."""


def alike(flow: Flow, call: Call) -> None:
    """Results with the layout of the first argument (dropout, random fills, `zeros_like`)."""
    labels = flow.labels(call.tensors[0])
    call.labels = [labels if out.shape == call.tensors[0].shape else () for out in call.outs]
    call.labels = [
        found or (None,) * out.dim() for found, out in zip(call.labels, call.outs, strict=True)
    ]
    zeros = call.name in {"zeros_like", "zero_"}
    call.zero = zeros or ("dropout" in call.name and flow.state(call.tensors[0]).zero)


def constant(flow: Flow, call: Call) -> None:
    """One value everywhere: its dimensions are free."""
    call.labels = [made(flow, shape_given(flow, out.dim()), out.shape) for out in call.outs]
    call.zero = "zeros" in call.name


def numbers(flow: Flow, call: Call) -> None:
    """Values that depend on the position: fixed dimensions."""
    call.labels = [(None,) * out.dim() for out in call.outs]


def reduction(flow: Flow, call: Call) -> None:
    """Other dimensions keep their ids; over channels only sums and statistics survive pruning."""
    source = call.tensors[0]
    state = flow.state(source)
    gone = reduced(call, source.dim())
    summed = call.name in statistics.SUMS
    harmless = state.zero and (summed or call.name == "any")
    over = tuple(label for dim in sorted(gone) if (label := state.labels[dim]) is not None)
    if over and call.name in statistics.REDUCTIONS:
        flow.take_statistic(over)
        if not state.weight:
            heads = any(map(flow.are_heads, over))
            what = "over attention heads" if heads else "over channels"
            call.statistic = Statistic(over, flow.place(f"{call.name} {what}"))
    elif not harmless:
        for label in over:
            flow.refuse_parts(label)
            if not summed:
                flow.block(label, f"{call.name} over channels")
        if summed:
            flow.take_statistic(over)
    kept: list[Indices | None] = [
        None if dim in gone else label for dim, label in enumerate(state.labels)
    ]
    short = tuple(label for dim, label in enumerate(kept) if dim not in gone)
    call.labels = [tuple(kept) if out.dim() == source.dim() else short for out in call.outs]
    call.zero = state.zero and call.name not in {"prod", "all", "argmax", "argmin"}


def softmax(flow: Flow, call: Call) -> None:
    """Softmax and its logarithm: a normalization over the kept channels, where it is over them."""
    source = call["self"]
    labels = flow.labels(source)
    over = labels[call["dim"]] if source.dim() else None
    if over is not None:
        flow.refuse_parts(over)
        flow.take_statistic([over])
    call.labels = [labels]
    call.zero = over is not None and sum(label is not None for label in labels) == 1


def along(flow: Flow, call: Call) -> None:
    """Sorting, cumulative sums: the dimension they work along is not prunable."""
    source = call.tensors[0]
    labels = flow.labels(source)
    dim = call["dim"] if call["dim"] is not None else -1
    if source.dim():
        flow.refuse_parts(labels[dim])
        flow.block(labels[dim], f"{call.name} over channels")
    call.labels = [labels if out.dim() == source.dim() else () for out in call.outs]


def glu(flow: Flow, call: Call) -> None:
    """The two halves of a dimension are united."""
    labels = list(flow.labels(call["self"]))
    held = labels[call["dim"]]
    if held is not None:
        half = len(held) // 2
        labels[call["dim"]] = flow.join(held[:half], held[half:])
    call.labels = [tuple(labels)]
    call.zero = flow.state(call["self"]).zero


def unknown(flow: Flow, call: Call) -> None:
    """All inputs are not prunable; the operator's name is the reason."""
    for tensor in call.tensors:
        for label in flow.labels(tensor):
            flow.block(label, f"{call.name} is not understood")
    call.labels = [(None,) * out.dim() for out in call.outs]


def keeps_zero(flow: Flow, call: Call) -> bool:
    """Whether the result is zero wherever the arguments known to be zero are.

    The operator runs once on one number for each operand, 0 where the operand is known to be
    zero.
    """
    states = [flow.state(tensor) for tensor in call.tensors]
    if not any(state.zero for state in states):
        return False
    kinds = (tensor.is_floating_point() or tensor.is_complex() for tensor in call.tensors)
    known = tuple(zip((state.zero for state in states), kinds, strict=True))
    key = (call.name, known, repr(_scalars(call)))
    if key not in _ZERO:
        _ZERO[key] = _probe(call, iter(state.zero for state in states))
    return _ZERO[key]


_ZERO: dict[Any, bool] = {}


def _scalars(call: Call) -> list[Any]:
    return [
        (name, value)
        for name, value in call.args.items()
        if isinstance(value, (int, float, bool, str, type(None)))
    ]


def _probe(call: Call, zeros: Any) -> bool:
    def stand_in(value: Any) -> Any:
        if isinstance(value, Tensor):
            zero = next(zeros)
            if value.is_floating_point() or value.is_complex():
                return torch.tensor([0.0 if zero else 1.7])
            return torch.zeros(1, dtype=value.dtype)
        return value

    packet = getattr(torch.ops.aten, call.name.removesuffix("_"), None)
    arguments = {name: stand_in(value) for name, value in call.args.items()}
    try:
        first = pytree.tree_leaves(packet(**arguments))[0]  # type: ignore[misc]
        return bool((first == 0).all())
    except (RuntimeError, TypeError, NotImplementedError):
        return False


def reduced(call: Call, ndim: int) -> set[int]:
    """The reduced dimensions."""
    dims = call["dim"]
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return set(range(ndim))
    chosen = dims if isinstance(dims, Sequence) else [dims]
    return {dim % ndim for dim in chosen} if ndim else set()


def _fit(call: Call) -> list[Labels]:
    """Labels of the right length for every result, None where a rule said nothing."""
    return [
        labels if len(labels) == out.dim() else (None,) * out.dim()
        for labels, out in zip(call.labels, call.outs, strict=False)
    ]


def _fitted(rule: Rule) -> Rule:
    def wrapped(flow: Flow, call: Call) -> None:
        rule(flow, call)
        statistics.follow(flow, call)
        call.labels = _fit(call)
        for place, (labels, out) in enumerate(zip(call.labels, call.outs, strict=False)):
            if any(
                label is not None and len(label) != size
                for label, size in zip(labels, out.shape, strict=True)
            ):
                for label in labels:
                    flow.block(label, f"{call.name} changes a labelled size")
                call.labels[place] = (None,) * out.dim()

    return wrapped


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), _fitted(rule))


BY_NAME: dict[str, Rule] = {
    **_table(
        pointwise,
        """_prelu_kernel where masked_fill copy copy_ _to_copy lift_fresh lift_fresh_copy clone
        log_sigmoid_forward hardswish rrelu_with_noise contiguous
        fake_quantize_per_tensor_affine_cachemask
        _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
        _unsafe_masked_fill detach alias alias_copy detach_copy polar complex _conj resolve_conj""",
    ),
    **_table(
        alike,
        """native_dropout zeros_like ones_like full_like empty_like rand_like randn_like bernoulli
        bernoulli_ fill_ fill zero_ normal_ uniform_ _fused_dropout exponential_""",
    ),
    **_table(
        constant,
        """zeros ones full empty empty_strided new_zeros new_ones new_full new_empty
        new_empty_strided scalar_tensor""",
    ),
    **_table(
        numbers,
        "arange linspace eye rand randn randperm randint tril_indices triu_indices normal",
    ),
    **_table(
        reduction,
        """mean sum amax amin prod std var std_mean var_mean logsumexp linalg_vector_norm norm
        nansum any all argmax argmin max min median nanmedian count_nonzero aminmax kthvalue
        mode""",
    ),
    **_table(softmax, "_softmax _log_softmax _safe_softmax"),
    **_table(along, "cumsum cumprod sort topk cummax logcumsumexp"),
    **_table(glu, "glu"),
    **{name: _fitted(rule) for name, rule in movement.RULES.items()},
    **{name: _fitted(rule) for name, rule in indexing.RULES.items()},
    **{name: _fitted(rule) for name, rule in positions.RULES.items()},
    **{name: _fitted(rule) for name, rule in norms.RULES.items()},
    **{name: _fitted(rule) for name, rule in contract.RULES.items()},
}
_POINTWISE = _fitted(pointwise)


class Rules:
    """The rule of each operator: by its name, or that of an elementwise one."""

    unknown: Rule = staticmethod(_fitted(unknown))
    finish = staticmethod(modules.finish)

    @staticmethod
    def rule_for(func: Any) -> Rule | None:
        """The rule of an operator, None for an unknown one."""
        name = str(func._schema.name).removeprefix("aten::")
        rule = BY_NAME.get(name) or BY_NAME.get(name.removesuffix("_"))
        if rule is not None and not _binary_extreme(name, func):
            return rule
        pointwise = torch.Tag.pointwise in func.tags or _binary_extreme(name, func)
        return _POINTWISE if pointwise else None


RULES = Rules()
"""What `Flow` is given."""


def _binary_extreme(name: str, func: Any) -> bool:
    """`max(a, b)` shares its name with the reduction."""
    return name in {"max", "min"} and func._schema.arguments[-1].name == "other"
