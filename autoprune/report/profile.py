"""A dense model's profile in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.report import text

if TYPE_CHECKING:
    from autoprune.profile import Layer, Profile


def render(name: str, profile: Profile) -> RenderableType:
    """Costs, latencies with their devices, the layers, and what is not prunable and why."""
    facts = Table.grid(padding=(0, 2))
    for field in ("params", "macs", "weight_bytes", "peak_memory_bytes"):
        value = getattr(profile.cost, field)
        facts.add_row(Text(text.LABELS[field], "bold"), text.cost(field, value))
    for runtime, measured in profile.memory:
        if measured is not None:
            figure = text.cost("peak_memory_bytes", measured)
            facts.add_row(Text("", "bold"), f"{figure} measured ({runtime})")
    for latency in profile.latencies:
        note = latency.confidence.note
        facts.add_row(
            Text(text.LABELS["latency_ms"], "bold"), f"{latency}{f' · {note}' if note else ''}"
        )
    parts: list[RenderableType] = [Text(f"{name}, dense", "bold"), facts, _layers(profile)]
    if profile.blocks:
        parts.append(Text("residual blocks that can be dropped", "bold"))
        kept = profile.restrictions.blocks
        words = (f"{b.name} ({b.kind}{', kept' if b.name in kept else ''})" for b in profile.blocks)
        parts.append(Text("  " + ", ".join(words)))
    if profile.frozen:
        parts.append(Text("not prunable", "bold"))
        parts += [Text(f"  {f.name} ({f.size}): {f.reason}") for f in profile.frozen]
    return Group(*parts)


def _layers(profile: Profile) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("layer")
    for column in ("params", "MACs", "of all MACs"):
        table.add_column(column, justify="right")
    timed = profile.other_ms is not None
    if timed:
        table.add_column("ms (onnxruntime)", justify="right")
    table.add_column("group (units)")
    limited = bool(profile.restrictions.ranges)
    if limited:
        table.add_column("keep, bounds")
    for layer in profile.layers:
        table.add_row(
            Text(layer.name),
            text.cost("params", layer.params),
            text.cost("macs", layer.macs) if layer.macs else text.NONE,
            text.share(layer.macs, profile.cost.macs) if layer.macs else "",
            *([_ms(layer.ms)] if timed else []),
            Text(f"{layer.group} ({_units(layer)})" if layer.group else text.NONE),
            *([Text(profile.restrictions.words(layer.group))] if limited else []),
        )
    if profile.other_ms is not None:
        table.add_row("all else", "", "", "", _ms(profile.other_ms))
    return table


def _ms(value: float | None) -> str:
    return text.NONE if value is None else f"{value:.3f}"


def _units(layer: Layer) -> str:
    """How many units, and how many channels of this layer each of them is, where it is several."""
    return f"{layer.units} × {layer.channels} channels" if layer.channels > 1 else f"{layer.units}"
