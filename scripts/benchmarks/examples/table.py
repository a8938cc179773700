"""The table of an example: mean and spread over seeds for each recipe."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import Rows

SIZES = {"weight_bytes": "weights, kB", "file_bytes": "ONNX file, kB", "peak_bytes": "peak, kB"}
SHARE = "latency_share"  # measured where the budget is a latency
NOTES = "notes.md"  # written by hand: what the figures say


def write_page(name: str, folder: Path, rows: Rows) -> None:
    """`README.md` from the rows and the notes."""
    found = rows.read()
    notes = folder / NOTES
    text = (
        f"# {name.replace('_', ' ').capitalize()}\n\n"
        f"[`examples/{name}.yaml`](../../../examples/{name}.yaml); every trial: "
        "[trials.csv](trials.csv), resolved configuration: [config.yaml](config.yaml).\n\n"
        "![The front of the search](front.png)\n\n"
        f"{markdown(found)}\n\n"
        "`autoprune` is the recommended model of the search after `autoprune.retrain`; `same "
        "widths` the same architecture on another schedule; `uniform` has uniform widths of as "
        "many bytes (where the budget is a latency: of the same latency, as predicted): "
        "`repaired` with the order of units, the repair and the training of `autoprune`, `L2, no "
        "repair` with units by their L2 norm, pruned at once and fine-tuned on the labels alone "
        "at the same learning rate, which suits repaired models, so the difference to it is not "
        "that of the widths alone. Equal epochs and seeds; mean and standard deviation over the "
        "seeds. Weights as the budget counts them; peak memory of one inference in ONNX Runtime, "
        "measured (weights, input, arena). Rows that are missing were not run.\n\n"
        f"{notes.read_text(encoding='utf-8') if notes.is_file() else ''}\n"
        f"{harness.stamp(found)}\n"
    )
    write_text(folder / "README.md", text)


def markdown(rows: pd.DataFrame) -> str:
    """One line for each recipe, in the order in which they were run."""
    metrics = [name.removeprefix("test_") for name in rows if name.startswith("test_")]
    columns = [f"{split}_{metric}" for split in ("val", "test") for metric in metrics]
    tests = [column for column in columns if column in rows]
    is_timed = SHARE in rows
    titles = ["model", "schedule", "epochs", "seeds", *SIZES.values()]
    titles += ["latency of dense"] if is_timed else []
    lines = [[*titles, *(name.replace("_", " ") for name in tests)]]
    lines.append(["---"] * len(lines[0]))
    for name in dict.fromkeys(rows.recipe):
        part = rows[rows.recipe == name]
        first = part.iloc[0]
        schedule = "" if pd.isna(first.get("schedule")) else str(first.schedule)
        sizes = [f"{part[size].mean() / 1000:.1f}" for size in SIZES]
        sizes += [f"{part[SHARE].mean():.1%}"] if is_timed else []
        cells = [name, schedule, f"{first.epochs:g}", str(len(part)), *sizes]
        lines.append([*cells, *(spread(part[test]) for test in tests)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def spread(values: pd.Series) -> str:
    """`0.913 ± 0.004`, or the one value."""
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"
