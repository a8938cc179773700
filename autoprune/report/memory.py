"""The page's table of peak memory: predicted or counted, and measured."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.budget import Cost
from autoprune.cost_fields import MEMORY
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import cell, escape, heads, section

_HOW = {
    "predicted": "Predicted is fitted to measured prunings, and held against the limit",
    "counted": "Counted is what the model's own code holds, where no limit needs a prediction: a "
    "runtime may take more",
}


def memory(view: RunView) -> str:
    """Dense and members; empty where no peak was measured."""
    named = [("dense", view.dense.predicted, view.dense.measured)]
    named += [(f"trial {r.number}", r.predicted, r.measured) for r in view.members]
    measured = [cost for _, _, cost in named if cost is not None]
    sure = [cost.confidence_of(name) for cost in measured for name in cost.names or ("",)]
    if not any(sure) or not any(cost.peak_memory_bytes for cost in measured):
        return ""  # runs from before it was measured hold the count there
    how = "predicted" if MEMORY in view.goals else "counted"
    columns = ("model", "weights", f"{how} peak", "measured peak", f"{how} / measured")
    rows = "".join(_row(columns, *row) for row in named)
    devices = [c.device_of(name) for c in measured for name in c.names or ("",)]
    runtimes = ", ".join(dict.fromkeys(device.runtime for device in devices if device))
    most = " (of the one that takes most)" if len(view.latencies) > 1 else ""
    return section(
        "Peak memory",
        f'<div class="scroll"><table class="cards"><thead><tr>{heads(columns)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="note">Weights, inputs and the activations of one forward pass in '
        f"{escape(runtimes)}{most}, at the batch of the example input. {_HOW[how]}; measured is "
        "what the runtime allocated.</p>",
    )


def _row(columns: Sequence[str], name: str, predicted: Cost | None, measured: Cost | None) -> str:
    told = predicted.peak_memory_bytes if predicted else None
    allocated = measured.peak_memory_bytes if measured else None
    values = (
        text.cost("weight_bytes", predicted.weight_bytes if predicted else None),
        text.cost("peak_memory_bytes", told),
        text.cost("peak_memory_bytes", allocated),
        text.share(told, allocated),
    )
    cells = (cell(escape(v), label) for v, label in zip(values, columns[1:], strict=True))
    return f"<tr>{cell(escape(name), '', 'l full')}{''.join(cells)}</tr>"
