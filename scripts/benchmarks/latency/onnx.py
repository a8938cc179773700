"""What filling one ONNX graph with the weights of each pruning saves of a latency profile.

    python -m scripts.benchmarks.latency.onnx > results/latency/onnx.md    # about a minute

A few prunings beside the dense model, timed as a profile times them (with graphs that are filled,
`cost.onnx_prunings`); and the same models exported one by one, and filled, without being timed.
Seconds are the processor's own, so that other programs on the machine do not count.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from bench_latency.families import FAMILIES, mobilenet_v2

from autoprune.cost.latency import measure_together
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.onnx_prunings import onnx_of_prunings
from autoprune.cost.targets import RUNTIMES, device_name
from autoprune.device.sampling import pruned, random_architectures
from autoprune.pruning.verification import prunable

PRUNINGS, TIMED_S, RUNTIME = 6, 0.25, "onnxruntime"
NETWORKS = {
    "MobileNetV2, 96 x 96": (mobilenet_v2, (1, 3, 96, 96)),
    "ResNet-20, 32 x 32": (FAMILIES["resnet20"].build, FAMILIES["resnet20"].shape),
}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("# Prunings as ONNX: exported one by one, or one graph that is filled\n")
    print("`python -m scripts.benchmarks.latency.onnx`: seconds of the processor for each pruning.")
    print(
        f"{device_name()}, 1 thread, Python {platform.python_version()}, torch {version('torch')}, "
        f"onnxruntime {version('onnxruntime')}.\n"
    )
    print("| network | exported | filled | profile, exported | profile, filled | shorter by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in NETWORKS:
        print(row(name), flush=True)


def row(name: str) -> str:
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
    figures = (f"{value:.2f}" for value in (exported, filled, before, profile, before / profile))
    return f"| {name} | {' | '.join(figures)} x |"


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
