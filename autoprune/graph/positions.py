"""Operators on positions: pooling and resizing, sampling at a grid, Fourier transforms."""

from __future__ import annotations

from torch import nn

from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow, Rule, table
from autoprune.graph.ids import Labels
from autoprune.graph.types import Indices


def leading(spatial: int) -> Rule:
    """Pooling and resizing: the last `spatial` dimensions change, the others pass."""

    def rule(flow: Flow, call: Call) -> None:
        source = call.tensors[0]
        passed = _others(flow, call, flow.labels(source), spatial)
        call.labels = [passed if out.dim() == source.dim() else () for out in call.outs]
        call.zero = flow.state(source).zero

    return rule


def averaged(spatial: int) -> Rule:
    """Averages of neighbors: as `leading`, and of channels in a `LocalResponseNorm`.

    The smaller layer puts zeros where channels were pruned, which is what the masked model has.
    """

    def rule(flow: Flow, call: Call) -> None:
        held = _normalized_channels(flow, call)
        if held is None:
            leading(spatial)(flow, call)
        else:
            rest: list[Indices | None] = [None] * (spatial - 1)
            call.labels = [(*flow.labels(call["self"])[:2], held, *rest)]

    return rule


def _normalized_channels(flow: Flow, call: Call) -> Indices | None:
    """The ids of the channels that a `LocalResponseNorm` sums over; None for any other average."""
    source, size = call["self"], call.outs[0].shape[2]
    layer, label = flow.modules.get(flow.layer), flow.labels(source)[2]
    if label is None or type(layer) is not nn.LocalResponseNorm or not flow.state(source).zero:
        return None
    before = layer.size // 2  # zeros
    channels = label[before : before + size]
    if len(channels) != size or channels.min() < 0:
        return None
    held = flow.own_positions(size)
    return flow.join(channels, held) if len(held) == size else None


def fractional(spatial: int) -> Rule:
    """Pooling at random places: prunable where those of each channel are held, not drawn."""

    def rule(flow: Flow, call: Call) -> None:
        leading(spatial)(flow, call)
        channels = flow.labels(call["self"])[-1 - spatial]
        held = flow.labels(call["random_samples"])[1]
        if held is None:
            flow.block(channels, f"{call.name} draws random numbers for each channel")
        else:
            flow.join(channels, held)

    return rule


def unpooled(spatial: int) -> Rule:
    """Values back at the places that pooling took them from, each channel at its own."""

    def rule(flow: Flow, call: Call) -> None:
        leading(spatial)(flow, call)
        (labels,) = call.labels
        places = _others(flow, call, flow.labels(call["indices"]), spatial)
        call.labels = [tuple(flow.join(a, b) for a, b in zip(labels, places, strict=True))]

    return rule


def sampled(flow: Flow, call: Call) -> None:
    """Values between positions, at the places that a grid says."""
    source, grid = call["input"], call["grid"]
    labels, places = flow.labels(source), flow.labels(grid)
    for label in places[1:]:
        flow.refuse_parts(label)
        flow.block(label, f"are places of {call.name}")
    _, channels, *rest = _others(flow, call, labels, source.dim() - 2)
    call.labels = [(flow.join(labels[0], places[0]), channels, *rest)]
    call.zero = flow.state(source).zero


def placed(flow: Flow, call: Call) -> None:
    """The grid of an affine map: the numbers of the map are not prunable."""
    first, *others = flow.labels(call["theta"])
    for label in others:
        flow.refuse_parts(label)
        flow.block(label, "are numbers of an affine map")
    call.labels = [(first, *[None] * (call.outs[0].dim() - 1))]


def fourier(flow: Flow, call: Call) -> None:
    """Fourier transforms: the dimensions that are transformed change, the others pass."""
    source = call["self"]
    labels = list(flow.labels(source))
    for dim in call["dim"]:
        flow.refuse_parts(labels[dim])
        flow.block(labels[dim], "Fourier transform over channels")
        labels[dim] = None
    call.labels = [tuple(labels)]
    call.zero = flow.state(source).zero


def _others(flow: Flow, call: Call, labels: Labels, spatial: int) -> Labels:
    """The labels without those of the spatial dimensions, which are not prunable."""
    first = len(labels) - spatial
    for label in labels[first:]:
        flow.refuse_parts(label)
        flow.block(label, f"is a spatial dimension of {call.name}")
    rest: list[Indices | None] = [None] * spatial
    return (*labels[:first], *rest)


RULES: dict[str, Rule] = {
    **table(
        leading(1),
        """avg_pool1d max_pool1d adaptive_avg_pool1d _adaptive_avg_pool1d adaptive_max_pool1d
        upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d reflection_pad1d
        replication_pad1d""",
    ),
    **table(
        leading(2),
        """max_pool2d_with_indices _adaptive_avg_pool2d adaptive_avg_pool2d
        adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
        _upsample_nearest_exact2d _upsample_bilinear2d_aa reflection_pad2d replication_pad2d
        mkldnn_max_pool2d _upsample_bicubic2d_aa""",
    ),
    **table(
        leading(3),
        """max_pool3d_with_indices _adaptive_avg_pool3d adaptive_max_pool3d
        upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d reflection_pad3d
        replication_pad3d""",
    ),
    "avg_pool2d": averaged(2),
    "avg_pool3d": averaged(3),
    "max_unpool2d": unpooled(2),
    "max_unpool3d": unpooled(3),
    "fractional_max_pool2d": fractional(2),
    "fractional_max_pool3d": fractional(3),
    **table(sampled, "grid_sampler_2d grid_sampler_3d cudnn_grid_sampler"),
    **table(placed, "affine_grid_generator"),
    **table(fourier, "_fft_r2c _fft_c2r _fft_c2c"),
}
"""Operator → rule."""
