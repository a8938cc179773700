"""Views: reshapes, transposes, dimensions of size 1, pairs as complex numbers."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.graph import reshape as shapes
from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow, Rule, table
from autoprune.graph.given import is_ratio, made, meet, shape_given


def view(flow: Flow, call: Call) -> None:
    """Reshapes of every kind; a view as another dtype of the same shape passes."""
    source, out = call["self"], call.outs[0]
    labels = flow.labels(source)
    if source.shape != out.shape:
        labels = shapes.reshape(flow.ids, labels, source.shape, out.shape, flow.choose, flow.rank)
    known = meet(flow, shape_given(flow, out.dim()), labels)
    flow.note_sizes(labels, out.shape, known)
    call.labels = [labels]
    call.zero = flow.state(source).zero


def strided(flow: Flow, call: Call) -> None:
    """Other strides of the same shape pass; any other use of raw strides does not."""
    source = call["self"]
    labels = flow.labels(source)
    if tuple(call["size"]) != tuple(source.shape):
        for label in labels:
            flow.block(label, f"{call.name} is not understood")
        labels = (None,) * call.outs[0].dim()
    call.labels = [labels]
    call.zero = flow.state(source).zero


def permute(flow: Flow, call: Call) -> None:
    """Reordered dimensions."""
    source = call["self"]
    labels = flow.labels(source)
    order = list(range(source.dim()))
    if call.name.startswith("permute"):
        order = [dim % source.dim() for dim in call["dims"]]
    elif source.dim() > 1 and "dim0" in call.args:
        a, b = call["dim0"] % source.dim(), call["dim1"] % source.dim()
        order[a], order[b] = order[b], order[a]
    elif source.dim() > 1:
        order = order[::-1]
    call.labels = [tuple(labels[dim] for dim in order)]
    call.zero = flow.state(source).zero


def unsqueeze(flow: Flow, call: Call) -> None:
    """A new dimension of size 1."""
    labels = list(flow.labels(call["self"]))
    labels.insert(call["dim"] % (len(labels) + 1), None)
    call.labels = [tuple(labels)]
    call.zero = flow.state(call["self"]).zero


def squeeze(flow: Flow, call: Call) -> None:
    """Dimensions of size 1 are removed."""
    source = call["self"]
    given = call["dim"]
    dims = (
        range(source.dim()) if given is None else given if isinstance(given, Sequence) else [given]
    )
    gone = {dim % source.dim() for dim in dims if source.shape[dim] == 1} if source.dim() else set()
    call.labels = [tuple(label for dim, label in enumerate(flow.labels(source)) if dim not in gone)]
    call.zero = flow.state(source).zero


def expand(flow: Flow, call: Call) -> None:
    """Dimensions of size 1 are repeated; new ones are added in front."""
    source, out = call["self"], call.outs[0]
    labels = flow.labels(source)
    front = out.dim() - source.dim()
    given = [None if is_ratio(size) else size for size in shape_given(flow, out.dim())]
    wide = made(flow, given, out.shape)
    back = [
        label if old == new else repeated
        for label, repeated, old, new in zip(
            labels, wide[front:], source.shape, out.shape[front:], strict=True
        )
    ]
    call.labels = [(*wide[:front], *back)]
    call.zero = flow.state(source).zero


def complex_(flow: Flow, call: Call) -> None:
    """Real and imaginary parts, the last dimension, become one number: that one is not prunable."""
    source = call["self"]
    *labels, pairs = flow.labels(source)
    flow.refuse_parts(pairs)
    flow.block(pairs, "are real and imaginary parts")
    call.labels = [tuple(labels)]
    call.zero = flow.state(source).zero


def real(flow: Flow, call: Call) -> None:
    """Complex numbers as pairs, in a new last dimension."""
    call.labels = [(*flow.labels(call["self"]), None)]
    call.zero = flow.state(call["self"]).zero


RULES: dict[str, Rule] = {
    **table(
        view,
        """view _unsafe_view reshape _reshape_alias _reshape_copy view_copy flatten unflatten
        _unsafe_reshape""",
    ),
    **table(
        permute, "permute permute_copy transpose transpose_ t t_ numpy_T transpose_copy t_copy"
    ),
    **table(strided, "as_strided as_strided_ as_strided_copy"),
    **table(unsqueeze, "unsqueeze unsqueeze_ unsqueeze_copy"),
    **table(squeeze, "squeeze squeeze_ squeeze_copy"),
    **table(expand, "expand expand_copy"),
    **table(complex_, "view_as_complex view_as_complex_copy"),
    **table(real, "view_as_real view_as_real_copy"),
}
"""Operator → rule."""
