"""The page's table of peak memory: analytic and measured."""

from __future__ import annotations

from autoprune.budget import Cost
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import cell, escape, heads, section

_COLUMNS = ("model", "weights", "analytic peak", "measured peak", "analytic to measured")


def memory(view: RunView) -> str:
    """Dense and members; empty where no peak was measured."""
    named = [("dense", view.dense.predicted, view.dense.measured)]
    named += [(f"trial {r.number}", r.predicted, r.measured) for r in view.members]
    measured = [cost for _, _, cost in named if cost is not None]
    sure = [cost.confidence_of(name) for cost in measured for name in cost.names or ("",)]
    if not any(sure) or not any(cost.peak_memory_bytes for cost in measured):
        return ""  # runs from before it was measured hold the count there
    rows = "".join(_row(*row) for row in named)
    devices = [c.device_of(name) for c in measured for name in c.names or ("",)]
    runtimes = ", ".join(dict.fromkeys(device.runtime for device in devices if device))
    most = " (of the one that takes most)" if len(view.latencies) > 1 else ""
    return section(
        "Peak memory",
        f'<div class="scroll"><table class="cards"><thead><tr>{heads(_COLUMNS)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="note">Weights, inputs and the activations of one forward pass in '
        f"{escape(runtimes)}{most}, at the batch of the example input. Analytic is "
        "computed from the model, as limits are; measured is what the runtime allocated.</p>",
    )


def _row(name: str, predicted: Cost | None, measured: Cost | None) -> str:
    analytic = predicted.peak_memory_bytes if predicted else None
    allocated = measured.peak_memory_bytes if measured else None
    values = (
        text.cost("weight_bytes", predicted.weight_bytes if predicted else None),
        text.cost("peak_memory_bytes", analytic),
        text.cost("peak_memory_bytes", allocated),
        text.share(analytic, allocated),
    )
    cells = (cell(escape(v), label) for v, label in zip(values, _COLUMNS[1:], strict=True))
    return f"<tr>{cell(escape(name), '', 'l full')}{''.join(cells)}</tr>"
