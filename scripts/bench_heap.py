"""What it costs that the C library gives freed activations back: page faults of a forward pass.

    python scripts/bench_heap.py                 # about a minute; Linux with glibc

The dense MobileNet-like model in eager PyTorch, copied anew beside eight prunings, six times in a
process: page faults a call, and the median time, as the process happens to be and as the target
leaves it (`cost/targets/local.py` keeps what is freed). Writes `results/bench/latency/heap.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import AbstractContextManager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from bench_latency.families import FAMILIES

from autoprune.cost.targets import device_name, find_target
from autoprune.cost.targets.local import EagerTorch
from autoprune.device.sampling import pruned, random_architectures
from autoprune.pruning.verification import prunable

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency" / "heap.md"
FAMILY, PRUNINGS, TIMES, CALLS = "mobilenet", 8, 6, 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=("as it is", "kept"), help=argparse.SUPPRESS)
    way = parser.parse_args().way
    if way:
        print(json.dumps(passes(keep=way == "kept")))
        return
    rows = ["| heap | page faults a call | ms |", "| --- | --- | --- |"]
    for each in ("as it is", "kept"):
        told = subprocess.run(
            [sys.executable, __file__, "--way", each], capture_output=True, text=True, check=True
        )
        found = json.loads(told.stdout.splitlines()[-1])
        faults = ", ".join(f"{count:.0f}" for count, _ in found)
        rows.append(f"| {each} | {faults} | {', '.join(f'{ms:.1f}' for _, ms in found)} |")
    OUT.write_text(
        f"# Freed activations, given back or kept\n\n`python scripts/bench_heap.py`: the dense "
        f"{FAMILY} in PyTorch, {TIMES} copies in one process, {CALLS} calls each.\n"
        f"{device_name()}, 1 thread, Python {platform.python_version()}, torch "
        f"{version('torch')}; {date.today().isoformat()}.\n\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )
    print(OUT.read_text(encoding="utf-8"))


def passes(*, keep: bool) -> list[tuple[float, float]]:
    """By copy of the dense model: page faults a call, and the median milliseconds."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model, inputs = FAMILIES[FAMILY].build().eval(), FAMILIES[FAMILY].example()
    graph = prunable(model, inputs)
    models = [
        model,
        *(pruned(model, graph, each) for each in random_architectures(graph, PRUNINGS, 3)),
    ]
    target = find_target("torch")
    assert isinstance(target, EagerTorch)
    found = []
    for _ in range(TIMES):
        dense, *_ = target.prepare_all(models, inputs, 1)
        around: AbstractContextManager[None] = (
            target.pinned(1) if keep else torch.inference_mode()  # type: ignore[assignment]
        )
        with around:
            for _ in range(10):
                dense()
            before, times = _faults(), []
            for _ in range(CALLS):
                began = time.perf_counter()
                dense()
                times.append(1e3 * (time.perf_counter() - began))
        found.append(((_faults() - before) / CALLS, statistics.median(times)))
    return found


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main()
