"""A running search in the terminal: one snapshot as a panel, or as one plain line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoprune.cost_fields import is_cost, is_latency
from autoprune.report import text

if TYPE_CHECKING:
    from autoprune._search.state.progress import Snapshot

_ROWS = 12  # members shown while the search runs; `show` has them all
_PHASES = {
    "prepare": "preparing",
    "search": "searching",
    "verify": "measuring the front",
    "done": "done",
}


def panel(snapshot: Snapshot) -> RenderableType:
    """What the search does, how far it is, and the front so far."""
    head = Text(_PHASES.get(snapshot.phase, snapshot.phase), "bold")
    head.append(f"  {snapshot.note}" if snapshot.note else "", "not bold")
    parts: list[RenderableType] = [head]
    if snapshot.trials:
        bar = ProgressBar(snapshot.trials, snapshot.done, width=60)
        parts += [Padding(bar, 0), Text(counts(snapshot))]  # a bar alone does not end its line
    parts.append(Text(clock(snapshot), "dim"))
    if snapshot.front:
        parts.append(_front(snapshot))
    return Group(*parts)


def line(snapshot: Snapshot) -> str:
    """The snapshot as one line, for logs and pipes."""
    parts = [_PHASES.get(snapshot.phase, snapshot.phase)]
    parts += [snapshot.note] if snapshot.note else []
    parts += [counts(snapshot)] if snapshot.trials else []
    parts += [f"front {len(snapshot.front)}"] if snapshot.front else []
    return " · ".join([*parts, clock(snapshot)])


def counts(snapshot: Snapshot) -> str:
    """How many trials ended in which way, and how many run or are paused."""
    names = ("running", "complete", "stopped", "infeasible", "failed")
    words = {"running": "in progress", "infeasible": "over budget"}
    counted = [(getattr(snapshot, name), words.get(name, name)) for name in names]
    states = ", ".join(f"{count} {word}" for count, word in counted if count)
    return f"{snapshot.done} of {snapshot.trials} trials" + (f" ({states})" if states else "")


def clock(snapshot: Snapshot) -> str:
    """Time spent and left, training done, and the front's hypervolume."""
    parts = [text.seconds(snapshot.elapsed_s)]
    if snapshot.left_s and snapshot.phase == "search":
        parts.append(f"about {text.seconds(snapshot.left_s)} left")
    if snapshot.epochs:
        parts.append(f"{snapshot.epochs:.4g} epochs")
    if snapshot.hypervolume is not None:
        parts.append(f"hypervolume {snapshot.hypervolume:.4g}")
    return " · ".join(parts)


def _front(snapshot: Snapshot) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    columns = list(dict.fromkeys(name for member in snapshot.front for name in member))
    for column in columns:
        word = f"{snapshot.source} {column}" if is_latency(column) else column
        table.add_column(Text(word), justify="right")
    for member in snapshot.front[:_ROWS]:
        table.add_row(*(_cell(column, member.get(column)) for column in columns))
    hidden = len(snapshot.front) - _ROWS
    if hidden > 0:
        table.caption = f"and {hidden} more"
    return table


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return text.NONE
    if column in ("trial", "number"):
        return f"{value:.0f}"
    return text.cost(column, value) if is_cost(column) else text.metric(column, value)
