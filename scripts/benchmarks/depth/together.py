"""The latencies of all chosen models, measured with the dense model in one session."""

from __future__ import annotations

import pandas as pd

from autoprune.cost.latency import measure_together
from autoprune.device.sampling import pruned
from autoprune.pruning.verification import prunable
from autoprune.tasks import Task, load_dense
from scripts.benchmarks import harness
from scripts.benchmarks.matching import Match

SHOWN = {
    "share": ("latency wanted", ".0%"),
    "kind": ("pruned", ""),
    "when_chosen": ("measured when chosen", ".1%"),
    "measured_share": ("measured together", ".1%"),
    "low": ("from", ".1%"),
    "high": ("to", ".1%"),
}


def measured(task: Task, chosen: dict[str, Match]) -> pd.DataFrame:
    """A row for each match (`kind share`) beside the dense model; equal models are measured once.

    `low` and `high` are the 95 % interval within the session.
    """
    dense, example = load_dense(task).eval(), task.example_input()
    graph = prunable(dense, example)
    models = {match.architecture.key: match.architecture for match in chosen.values()}
    small = [pruned(dense, graph, architecture) for architecture in models.values()]
    whole, *others = measure_together([dense, *small], example, "onnxruntime")
    found = dict(zip(models, others, strict=True))
    rows = []
    for name, match in chosen.items():
        kind, share = name.split()
        latency = found[match.architecture.key]
        rows.append(
            {
                **{"kind": kind, "share": float(share), "when_chosen": match.measured},
                **{"measured_share": latency.ratio, "dense_ms": whole.median_ms},
                **dict(zip(("low", "high"), latency.ratio_ci, strict=True)),
                "noisy": latency.noisy,
            }
        )
    return pd.DataFrame(rows).sort_values(["share", "kind"], ascending=[False, True])


def section(rows: pd.DataFrame) -> str:
    """The table as a section of the page; only ratios within it are of one session."""
    return (
        "\n## Measured together\n\nAll models and the dense one in turns, in one session; the "
        f"interval (95 %) is that within it. {harness.stamp(rows)}\n\n"
        f"{harness.table(rows, SHOWN)}\n"
    )
