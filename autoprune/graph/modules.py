"""Layers of torch whose sizes must agree though no operator shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from autoprune.graph.flow import Flow
from autoprune.graph.types import Indices


def recurrent(flow: Flow, path: str, layer: nn.RNNBase) -> None:
    """One hidden size, and one projected size, for all layers and both directions.

    Torch takes an LSTM whose two sizes are equal for one without projection: the hidden size stays
    above the projected one, which alone is prunable then.
    """
    hidden: Indices | None = None
    projected: Indices | None = None
    for name in (name for names in layer._all_weights for name in names):
        if name.startswith("weight_hh"):
            used = flow.owner_of(path, name, 1)
            if layer.proj_size:
                projected = flow.join(projected, used) if projected is not None else used
            else:
                hidden = flow.join(hidden, used) if hidden is not None else used
        if name.startswith("weight_hr"):
            used = flow.owner_of(path, name, 1)
            hidden = flow.join(hidden, used) if hidden is not None else used
    if layer.proj_size and hidden is not None:
        flow.block(hidden, "must be larger than proj_size")
    first = flow.owner_of(path, "weight_ih_l0", 1)
    flow.note_layer(path, hidden_size=hidden, proj_size=projected, input_size=first)


def cell(flow: Flow, path: str, layer: nn.RNNCellBase) -> None:
    """One step of a recurrent layer."""
    flow.note_layer(
        path,
        hidden_size=flow.owner_of(path, "weight_hh", 1),
        input_size=flow.owner_of(path, "weight_ih", 1),
    )


def heads(flow: Flow, path: str, layer: nn.MultiheadAttention) -> None:
    """The width of the queries is heads times the width of a head."""
    query = "in_proj_weight" if layer._qkv_same_embed_dim else "q_proj_weight"
    width = flow.owner_of(path, query, 1)
    inside = flow.owner_of(path, "out_proj.weight", 1)
    if width is None or inside is None:
        return
    flow.join(width, inside)
    places = inside.reshape(layer.num_heads, -1)
    flow.ids.tie_columns(places.T.copy(), "is the width of an attention head")
    first = places[:, 0].copy()
    flow.heads_seen.append(first)
    same = layer._qkv_same_embed_dim
    key = width if same else flow.owner_of(path, "k_proj_weight", 1)
    value = width if same else flow.owner_of(path, "v_proj_weight", 1)
    flow.note_layer(path, embed_dim=width, num_heads=first, kdim=key, vdim=value)


def slopes(flow: Flow, path: str, layer: nn.PReLU) -> None:
    """One slope for each channel, or one for all."""
    flow.note_layer(path, num_parameters=flow.owner_of(path, "weight", 0))


LAYERS: tuple[tuple[type[nn.Module], Callable[[Flow, str, Any], None]], ...] = (
    (nn.RNNBase, recurrent),
    (nn.RNNCellBase, cell),
    (nn.MultiheadAttention, heads),
    (nn.PReLU, slopes),
)
"""Layer → what is said when it has run."""


_SIZES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], dict[str, int]], ...] = (
    (nn.Linear, {"out_features": 0, "in_features": 1}),
    (nn.Embedding, {"embedding_dim": 1}),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), {"out_channels": 0, "in_channels": 1}),
    (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        {"in_channels": 0, "out_channels": 1},
    ),
)
"""Layer → attribute → the dimension of the weight that has this size, without groups."""


def note_sizes(flow: Flow) -> None:
    """Layers whose weight was read by other code, which did not call them, know its sizes, too."""
    for path, module in flow.modules.items():
        for attribute, dim in next(
            (d for kind, d in _SIZES if isinstance(module, kind)), {}
        ).items():
            size = flow.owner_of(path, "weight", dim)
            if size is not None and len(size) == getattr(module, attribute):
                flow.note_layer(path, **{attribute: size})


def finish(flow: Flow, path: str, module: nn.Module) -> None:
    """Apply what is known of a layer type after it has run."""
    for kind, rule in LAYERS:
        if isinstance(module, kind):
            rule(flow, path, module)
