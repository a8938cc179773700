"""Does a latency budget hold? A search at 40 % of dense, its front measured again by itself.

    python -m scripts.benchmarks.latency.budget --runtimes torch onnxruntime openvino ncnn  # 10 min

Runs `autoprune search` on digits for each runtime, one thread, then a fresh process loads every
member of the front, measures it in turns with the dense model, and says whether it is within the
budget. Rows: `results/latency/budget.csv`; table: `budget.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import autoprune
from autoprune.config import RunConfig
from autoprune.cost.latency import measured_or_flagged
from autoprune.store import write_text
from autoprune.tasks.load import load_dense, load_task
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, ROOT, Rows

OUT = RESULTS / "latency"
SHARE = 0.4
SHOWN = {
    "runtime": ("runtime", ""),
    "trial": ("trial", ""),
    "accuracy": ("accuracy", ".2%"),
    "predicted_ms": ("predicted ms", ".3f"),
    "measured_ms": ("measured ms", ".3f"),
    "again_ms": ("fresh process ms", ".3f"),
    "again_ratio": ("of dense", ".1%"),
    "note": ("", ""),
}
CONFIG = """task: {task}
output: {run}
budget: {{latency_ms: {share:.0%}}}
device: {{runtime: {runtime}, threads: 1}}
space: {{ratios: {{max: 0.9}}, round_to: auto, importance: obs, schedule: {{kind: one_shot}}}}
search:
  {{trials: {trials}, epochs: {epochs}, rungs: 0, concurrent: 1, seed: 0, patience: 0}}
"""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime"])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)  # the fresh process
    given = parser.parse_args()
    if given.again:
        print(json.dumps(again(given.again)))
        return
    for runtime in given.runtimes:
        _write(given.task, runtime, searched(given, runtime))


def searched(given: argparse.Namespace, runtime: str) -> list[dict[str, object]]:
    """The members of a search for this runtime, as a fresh process measures them."""
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder) / "budget.yaml", Path(folder) / "run"
        config.write_text(
            CONFIG.format(
                task=given.task,
                run=run,
                share=SHARE,
                runtime=runtime,
                trials=given.trials,
                epochs=given.epochs,
            ),
            encoding="utf-8",
        )
        search = ["autoprune", "search", str(config)]
        subprocess.run([sys.executable, "-m", *search], check=True)
        fresh = [sys.executable, "-m", "scripts.benchmarks.latency.budget", "--again", str(run)]
        done = subprocess.run(fresh, check=True, capture_output=True, text=True, cwd=ROOT)
    found: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def again(run: Path) -> list[dict[str, object]]:
    """Every member of a run's front, measured beside the dense model in this process."""
    result = autoprune.Result.read(run)
    config = RunConfig.load(run / "config.yaml")
    task = load_task(config.task)
    dense, example = load_dense(task).eval(), task.example_input()
    rows = []
    for record in result.front.members:
        small = autoprune.load(run, pick=f"trial={record.number}").eval()
        first, found = measured_or_flagged([dense, small], example, config.device.runtime, 1)
        predicted, measured = record.predicted, record.measured
        assert predicted is not None
        assert measured is not None
        rows.append(
            {
                "trial": record.number,
                "accuracy": record.metrics[task.metric],
                "predicted_ms": predicted.get("latency_ms"),
                "measured_ms": measured.get("latency_ms"),
                "again_ms": found.median_ms,
                "again_ratio": found.ratio,
                "dense_ms": first.median_ms,
                "note": found.confidence.note,
            }
        )
    return rows


def _write(task: str, runtime: str, found: list[dict[str, object]]) -> None:
    file = Rows(OUT / "budget.csv", ["task", "runtime"])
    key = {"task": task, "runtime": runtime}
    file.put(*({**key, **row, **harness.circumstances()} for row in found))
    rows = file.find(task=task)
    off = (rows.measured_ms / rows.predicted_ms - 1.0).abs().median()
    within = int((rows.again_ratio <= SHARE).sum())
    words = (
        f"# A latency budget, held\n\nSearches of `{task}` at {SHARE:.0%} of the dense model's "
        f"latency, one for each runtime. In a fresh process {within} of {len(rows)} members of the "
        f"fronts are within it; median of |measured / predicted - 1| is {off:.1%}.\n"
        f"{harness.stamp(rows)}\n\n{harness.table(rows, SHOWN)}\n"
    )
    write_text(OUT / "budget.md", words)
    print(words)


if __name__ == "__main__":
    main()
