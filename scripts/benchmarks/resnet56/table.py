"""The table: our rows, and those that were published."""

from __future__ import annotations

import pandas as pd

from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS

OUT = RESULTS / "resnet56"
KEY = ["cost", "wanted", "dense_epochs", "epochs", "trials", "search_epochs", "seed"]
GROUP = [name for name in KEY if name != "seed"]
PUBLISHED = (  # method, speed-up in MACs, accuracy of the dense model, accuracy; % on test
    ("L1 norm, long cosine schedule", 1.99, 93.78, 93.74),
    ("DepGraph", 2.11, 93.53, 93.77),
    ("AutoBot", 2.27, 93.26, 93.76),
    ("DepGraph", 2.57, 93.53, 93.64),
    ("OCSPruner", 2.57, 93.97, 93.65),
    ("CORING", 3.6, None, 92.84),
    ("PPSM", 4.1, 93.44, 93.22),
)
SHOWN = {
    "method": ("method", ""),
    "macs": ("MACs", ".2f"),
    "latency": ("latency", ".2f"),
    "dropped": ("blocks dropped", ".0f"),
    "trials": ("trials", ".0f"),
    "reused": ("reused trials", ".0f"),
    "epochs": ("epochs", "g"),
    "seeds": ("seeds", ".0f"),
    "dense": ("dense, %", ".2f"),
    "test": ("pruned, %", ""),
    "difference": ("difference", "+.2f"),
}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each limit, after the published ones, by speed-up."""
    found = [
        {"method": name, "macs": macs, "dense": dense, "test": f"{test:.2f}"}
        | {"difference": None if dense is None else test - dense}
        for name, macs, dense, test in PUBLISHED
    ]
    for values, group in rows.groupby(GROUP, sort=False):
        about = dict(zip(GROUP, values, strict=True))
        spread = f" ± {100 * group.test.std():.2f}" if len(group) > 1 else ""
        found.append(
            {
                "method": f"autoprune, {about['wanted']:g} x {about['cost']} wanted",
                "macs": group.macs_speedup.mean(),
                "latency": group.latency_speedup.mean(),
                "dropped": group.dropped.mean(),
                "trials": about["trials"],
                "reused": group.reused.mean(),
                "epochs": about["epochs"],
                "seeds": len(group),
                "dense": 100 * group.dense_test.mean(),
                "test": f"{100 * group.test.mean():.2f}{spread}",
                "difference": 100 * (group.test - group.dense_test).mean(),
            }
        )
    return pd.DataFrame(found).sort_values("macs", kind="stable")


def write_page(rows: pd.DataFrame) -> None:
    """Write `README.md` from the rows."""
    text = (
        "# ResNet-56 on CIFAR-10\n\n"
        "Speed-ups over the dense model in multiply-accumulates (MACs) and, where measured, in "
        "latency (ONNX Runtime, one thread, batch 1). Rows with epochs are ours: chosen on "
        "validation data, the test images read once for each seed; reused trials are those of an "
        "earlier search with another limit, which this one knows. The others are published, after "
        "longer trainings.\n\n"
        f"{harness.table(summary(rows), SHOWN)}\n\n{harness.stamp(rows)}\n"
    )
    write_text(OUT / "README.md", text)
