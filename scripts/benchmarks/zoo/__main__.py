"""Half of all units pruned from many models: does it run, train, export, load, and is it right?

    python -m scripts.benchmarks.zoo                    # 2 h; --source timm, --only 'swin*'

Models of torchvision, timm and transformers (small random configurations), and the nets of the
tests. Each is pruned by half of every group, by the L2 norm, in a forked process with a time limit;
then it must run forward and backward, have lost parameters (a floor for each), equal the masked
dense model, equal itself in ONNX Runtime and when saved and loaded. Beside it what Torch-Pruning
does with the same model. Needs `pip install transformers timm torchvision`; torchvision's compiled
operators are not needed. Rows: `results/zoo/zoo.csv`; models that have one are left out unless
`--again`.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.zoo.one import SIDES, SOURCES, asked, prepare
from scripts.benchmarks.zoo.questions import DENSE_TOO

OUT = RESULTS / "zoo"
KEY = ["source", "model"]
LIMITS = dict.fromkeys(SIDES, 240)  # seconds
_FORK = multiprocessing.get_context("fork")
EQUAL, SAME_FILE = 1e-5, 1e-4
OWN = "hand-made"


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--source", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--side", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--again", action="store_true", help="also models with a row already")
    options = parser.parse_args()
    prepare()
    rows = Rows(OUT / "zoo.csv", KEY)
    where = harness.circumstances((*harness.PACKAGES, "torch-pruning", "transformers", "timm"))
    for source in options.source:
        for name, entry in SOURCES[source].items():
            if not fnmatch(name, options.only):
                continue
            known = rows.find(source=source, model=name)
            if len(known) and not options.again:
                continue
            found = known.iloc[0].dropna().to_dict() if len(known) else {}
            for side in options.side:
                stale = [key for key in found if key.startswith("tp_") == (side != "ours")]
                found = {key: value for key, value in found.items() if key not in stale}
                found |= _answers(source, name, side)
            row = {"source": source, "model": name, "floor": entry.floor, **found}
            row |= {"passed": not (wrong := _wrong(row)), "wrong": wrong}
            rows.put(row | {"tp_passed": _tp_passed(row), **where})
            print(source, name, wrong or "passed", flush=True)
    write_text(OUT / "README.md", page(rows.read()))


def _answers(source: str, name: str, side: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        file, start = Path(folder) / "answers.json", time.perf_counter()
        child = _FORK.Process(target=asked, args=(source, name, side, file))
        child.start()
        child.join(LIMITS[side])
        error = f"exit code {child.exitcode}" if child.exitcode else ""
        if child.is_alive():
            error = f"more than {LIMITS[side]} s"
            child.kill()
            child.join()
        found = json.loads(file.read_text()) if file.is_file() else {}
    prefix = "" if side == "ours" else "tp_"
    crash = found.pop(f"{side}_error", error)
    return {**found, f"{prefix}error": crash, f"{prefix}total_s": time.perf_counter() - start}


def _wrong(row: dict[str, object]) -> str:
    """The first question with a wrong answer; empty where there is none."""
    if row.get("error"):
        return str(row["error"])
    wrong = {
        "forward": row.get("forward") is not True,
        "drop": not _at_least(row.get("drop"), row["floor"]),
        "equal": not _at_most(row.get("equal"), EQUAL),
        "loaded": not _at_most(row.get("loaded"), EQUAL),
        "saved_hf": row.get("saved_hf_error") is not None,
        "onnx": not _is_exported(row, ""),
        "backward": row.get("backward") is not True,
    }
    name = next((name for name, is_wrong in wrong.items() if is_wrong), "")
    reason = row.get(f"{name}_error") or (row.get("frozen") if name == "drop" else "")
    return f"{name} ({row.get(name)}): {reason}" if name else ""


def _is_exported(row: dict[str, object], prefix: str) -> bool:
    """Also where there is nothing to compare with."""
    excused = DENSE_TOO in str(row.get(f"{prefix}onnx_error"))
    return excused or _at_most(row.get(f"{prefix}onnx"), SAME_FILE)


def _tp_passed(row: dict[str, object]) -> bool:
    """The same for Torch-Pruning, with the questions that were asked of it."""
    return (
        row.get("tp_forward") is True
        and row.get("tp_backward") is True
        and _at_least(row.get("tp_drop"), row["floor"])
        and _is_exported(row, "tp_")
    )


def _at_least(value: object, floor: object) -> bool:
    return isinstance(value, float) and isinstance(floor, float) and value >= floor


def _at_most(value: object, limit: float) -> bool:
    return isinstance(value, float) and value <= limit


SHOWN = {
    "source": ("source", ""),
    "models": ("models", ""),
    "passed": ("passed", ""),
    "tp_passed": ("Torch-Pruning", "g"),
    "asked": ("of", ""),
    "drop": ("parameters removed, median", ".0%"),
    "tp_drop": ("by Torch-Pruning", ".0%"),
    "trace_s": ("graph, median s", ".1f"),
    "slowest_s": ("slowest", ".1f"),
    "tp_prune_s": ("Torch-Pruning, median s", ".1f"),
    "config": ("read by `from_pretrained`", ""),
}


def _of(rows: pd.DataFrame) -> str:
    return f"{int(rows.passed.sum())} of {len(rows)}"


def _not_exported(rows: pd.DataFrame) -> int:
    return int(rows.onnx_error.astype(str).str.contains(DENSE_TOO).sum())


def page(rows: pd.DataFrame) -> str:
    """Sums by source, then every model that failed."""
    grouped = rows.groupby("source", sort=False)
    sums = grouped.agg(
        models=("model", "size"),
        passed=("passed", "sum"),
        tp_passed=("tp_passed", "sum"),
        asked=("tp_total_s", "count"),
        drop=("drop", "median"),
        tp_drop=("tp_drop", "median"),
        trace_s=("trace_s", "median"),
        slowest_s=("trace_s", "max"),
        tp_prune_s=("tp_prune_s", "median"),
        config=("saved_hf", lambda column: (column == "config").sum()),
    ).reset_index()
    failed = [
        f"- {row['source']} {row['model']}: {row['wrong']}"
        for row in rows.to_dict("records")
        if not row["passed"]
    ]
    measured = set(zip(rows.source, rows.model, strict=True))
    missing = [
        f"{s} {n}" for s, models in SOURCES.items() for n in models if (s, n) not in measured
    ]
    return (
        "# Half of all units, many models\n\n"
        f"{_of(rows)} pass: {_of(rows[rows.source != OWN])} of torchvision, timm and transformers, "
        f"{_of(rows[rows.source == OWN])} of this project's own tests. Of {_not_exported(rows)} "
        "not even the dense model can be exported to ONNX, so export was not checked. Torch-"
        "Pruning was asked only whether the model runs, trains, shrinks and exports, called as its "
        "examples call it (heads, output, the better of narrower and fewer heads, sizes in "
        f"attributes corrected), within the same {LIMITS['ours']} s a model. This project's own "
        "tests were written for what its tracer must follow, and say little of other libraries. "
        f"{harness.stamp(rows)}\n\n"
        + harness.table(sums, SHOWN)
        + "\n\nWhat fails:\n\n"
        + "\n".join(failed or ["- nothing"])
        + (f"\n\nNot measured yet: {', '.join(missing)}.\n" if missing else "\n")
    )


if __name__ == "__main__":
    main()
