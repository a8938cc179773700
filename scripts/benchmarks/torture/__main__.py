"""What is lost, doubled, wrong or unclear after kills, signals, hangs, damaged folders and configs.

    python -m scripts.benchmarks.torture [FAULT ...] [--tries N] [--seed S]

Each try makes one fault in a real run of a small task and looks at what is left:

- lost: a finished trial or its model that is not there after `resume`, or a run that cannot go on
- doubled: a candidate that was trained twice to its end, or a number with two different trials
- wrong: another result than without the fault, without a word (tables, models, the study's states)
- unclear: a traceback, no message, a message of many lines, a hang

Faults: kill (SIGKILL to the process group at a random moment, then resume), resume (the same with
one trial at a time, compared trial by trial with a run that was not killed), signal (SIGTERM or
SIGHUP to the search), hang (a trial that sleeps for ever), folder (one file of a finished run
damaged, then looked at and mended), config (one random change of a configuration), cluster (two Ray
nodes, one of them killed).
Rows: `results/reliability/torture.csv`.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.torture import clusters, configs, folders, processes
from scripts.benchmarks.torture.outcome import BAD, Fault

FAULTS: dict[str, Fault] = {
    "kill": processes.kills,
    "resume": processes.resumes,
    "signal": processes.signals,
    "hang": processes.hangs,
    "folder": folders.damages,
    "config": configs.changes,
    "cluster": clusters.lost_nodes,
}
SHOWN = {
    "fault": ("fault", ""),
    "tries": ("tries", "d"),
    **{kind: (kind, "d") for kind in BAD},
    "seconds": ("seconds", ".0f"),
    "seed": ("seed", "d"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], default=list(FAULTS))
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    file = Rows(RESULTS / "reliability" / "torture.csv", ["fault", "seed", "tries"])
    about = harness.circumstances()
    for fault in given.faults:
        began, counts = time.monotonic(), Counter[str]()
        with tempfile.TemporaryDirectory(prefix="torture-") as place:
            for number, found in enumerate(FAULTS[fault](Path(place), given.tries, given.seed)):
                counts[found.kind] += 1
                if found.kind != "fine":
                    print(f"{fault} {number}: {found.kind}: {found.what}", flush=True)
        row = {"fault": fault, "seed": given.seed, "tries": sum(counts.values())}
        row |= {kind: counts[kind] for kind in BAD}
        file.put({**row, "seconds": time.monotonic() - began, **about})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


if __name__ == "__main__":
    main()
