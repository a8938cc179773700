"""Does a latency budget hold? A search at 40 % of dense, its front measured again by itself.

    python scripts/bench_budget.py               # digits in ONNX Runtime, a few minutes

Runs `autoprune search`, then a fresh process loads every member of the front, measures it in turns
with the dense model, and says whether it is within the budget. Writes
`results/bench/latency/budget.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency"
SHARE, RUNTIME = 0.4, "onnxruntime"
CONFIG = """task: {task}
output: {run}
budget: {{latency_ms: {share:.0%}}}
device: {{runtime: {runtime}, threads: 1}}
space: {{ratios: {{max: 0.9}}, round_to: auto, importance: obs, schedule: {{kind: one_shot}}}}
search: {{trials: {trials}, epochs: {epochs}, rungs: 0, concurrent: 1, seed: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)  # the fresh process
    given = parser.parse_args()
    if given.again:
        print(json.dumps(again(given.again)))
        return
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder) / "budget.yaml", Path(folder) / "run"
        config.write_text(
            CONFIG.format(
                task=given.task,
                run=run,
                share=SHARE,
                runtime=RUNTIME,
                trials=given.trials,
                epochs=given.epochs,
            ),
            encoding="utf-8",
        )
        search = ["autoprune", "search", str(config)]
        subprocess.run([sys.executable, "-m", *search], check=True)
        fresh = [sys.executable, __file__, "--again", str(run)]
        done = subprocess.run(fresh, check=True, capture_output=True, text=True)
    _write(given.task, json.loads(done.stdout.splitlines()[-1]))


def again(run: Path) -> dict[str, object]:
    """Every member of a run's front, measured beside the dense model in this process."""
    import autoprune
    from autoprune.config import RunConfig
    from autoprune.cost.latency import measured_or_flagged
    from autoprune.tasks.load import load_dense, load_task

    result = autoprune.Result.read(run)
    task = load_task(RunConfig.load(run / "config.yaml").task)
    dense, example = load_dense(task).eval(), task.example_input()
    rows = []
    for record in result.front.members:
        small = autoprune.load(run, pick=f"trial={record.number}").eval()
        first, found = measured_or_flagged([dense, small], example, RUNTIME, 1)
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
    return {"rows": rows, "device": str(found.device)}


def _write(task: str, found: dict[str, object]) -> None:
    rows: list[dict[str, float]] = found["rows"]  # type: ignore[assignment]
    off = statistics.median(abs(r["measured_ms"] / r["predicted_ms"] - 1.0) for r in rows)
    within = sum(r["again_ratio"] <= SHARE for r in rows)
    head = "| trial | accuracy | predicted ms | measured ms | fresh process ms | of dense | |"
    lines = [
        "# A latency budget, held",
        "",
        f"`python scripts/bench_budget.py`: search of `{task}` at {SHARE:.0%} of the dense model's "
        f"latency; {found['device']}; torch {version('torch')}, onnxruntime "
        f"{version('onnxruntime')}; {date.today().isoformat()}. In a fresh process {within} of "
        f"{len(rows)} members of the front are within it; median of |measured / predicted - 1| is "
        f"{off:.1%}.",
        "",
        head,
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {r['trial']:.0f} | {r['accuracy']:.2%} | {r['predicted_ms']:.3f} | "
        f"{r['measured_ms']:.3f} | {r['again_ms']:.3f} | {r['again_ratio']:.1%} | {r['note']} |"
        for r in rows
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "budget.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
