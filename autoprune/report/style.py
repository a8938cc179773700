"""What all plots share: layout, axes, and the colors of a front's members."""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]

_RAMP = ((0x12, 0xA5, 0x94), (0x3B, 0x7C, 0xF0), (0xA3, 0x5C, 0xF0))  # cheap → dear
_BASE: Figure = {
    "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
    "showlegend": False,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "hovermode": "closest",
    "dragmode": False,
    "font": {"color": "--ink-2", "size": 12},
    "hoverlabel": {
        "bgcolor": "--raised",
        "bordercolor": "--line",
        "align": "left",
        "font": {"color": "--ink"},
    },
}


def colors(count: int) -> list[str]:
    """One color a member, from cheap to dear: the same in every plot and in the table."""
    return [_ramp(index / max(1, count - 1)) for index in range(count)]


def axis(title: str, **options: Any) -> Figure:
    """An axis with a title and a quiet grid."""
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "fixedrange": True,
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zeroline": False,
        **options,
    }


def layout(**options: Any) -> Figure:
    """The layout that all plots start from."""
    return {**_BASE, "height": 320, **options}


def level(y: float) -> Figure:
    """A dotted horizontal line: the dense model's value."""
    line = {"color": "--ink-2", "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def _ramp(at: float) -> str:
    place = at * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)
