"""What filling one ONNX graph with the weights of each pruning saves of a latency profile.

    python -m scripts.benchmarks.latency.onnx    # about a minute

A few prunings beside the dense model, timed as a profile times them (with graphs that are filled,
`cost.onnx_prunings`); and the same models exported one by one, and filled, without being timed.
Seconds are the processor's own, so that other programs on the machine do not count. Rows:
`results/latency/onnx.csv`; table: `onnx.md`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch

from autoprune.cost.latency import measure_together
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.onnx_prunings import onnx_of_prunings
from autoprune.cost.targets import RUNTIMES
from autoprune.device.sampling import pruned, random_architectures
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES, mobilenet_v2

PRUNINGS, TIMED_S, RUNTIME = 6, 0.25, "onnxruntime"
SHOWN = {
    "network": ("network", ""),
    "exported_s": ("exported", ".2f"),
    "filled_s": ("filled", ".2f"),
    "profile_exported_s": ("profile, exported", ".2f"),
    "profile_filled_s": ("profile, filled", ".2f"),
    "shorter_by": ("shorter by", ".2f"),
}
NETWORKS = {
    "MobileNetV2, 96 x 96": (mobilenet_v2, (1, 3, 96, 96)),
    "ResNet-20, 32 x 32": (FAMILIES["resnet20"].build, FAMILIES["resnet20"].shape),
}


def main() -> None:
    harness.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    file = Rows(RESULTS / "latency" / "onnx.csv", ["network"])
    for name in NETWORKS:
        file.put({"network": name, **row(name), "seed": 0, **harness.circumstances()})
    rows = file.read()
    words = (
        "# Prunings as ONNX: exported one by one, or one graph that is filled\n\n"
        f"Seconds of the processor for each pruning.\n{harness.stamp(rows)}\n\n"
        f"{harness.table(rows, SHOWN)}\n"
    )
    write_text(RESULTS / "latency" / "onnx.md", words)
    print(words)


def row(name: str) -> dict[str, float]:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    graph = prunable(model, x)
    models = [
        model,
        *(pruned(model, graph, keep) for keep in random_architectures(graph, PRUNINGS, 0)),
    ]
    list(onnx_of_prunings(models, x))  # the graph to be filled is made once a model
    filled = seconds(lambda: list(onnx_of_prunings(models, x))) / len(models)
    exported = seconds(lambda: [to_onnx(each, x) for each in models]) / len(models)
    call = RUNTIMES[RUNTIME].prepare(model, x, 1)
    one = seconds(lambda: [call() for _ in range(20)]) / 20
    repeats = max(5, round(TIMED_S / one))
    timed = seconds(lambda: measure_together(models, x, RUNTIME, warmup_s=0.05, repeats=repeats))
    profile = timed / PRUNINGS
    before = profile + (exported - filled) * len(models) / PRUNINGS
    return {
        "exported_s": exported,
        "filled_s": filled,
        "profile_exported_s": before,
        "profile_filled_s": profile,
        "shorter_by": before / profile,
    }


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
