"""A whole front as int8: the dense model and every member, compared in one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from autoprune.errors import AutopruneError
from autoprune.quantization.twins import Measure, Twin, compared, saved, timed, twin_of
from autoprune.store import (
    INT8_FILE,
    INT8_REPORT,
    FrontQuantization,
    QuantizationReport,
    QuantizationSettings,
    RunFolder,
)
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense

Loader = Callable[[], tuple[nn.Module, Path]]
DENSE_REPORT, DENSE_FILE = "dense.int8.json", "dense.int8.onnx"


def quantize_front(
    run: RunFolder,
    members: Mapping[int, Loader],
    task: Task,
    settings: QuantizationSettings,
    *,
    threads: int,
    test: bool = False,
    measure: Measure | None = None,
) -> FrontQuantization:
    """Quantize the dense model and the members; `members` give each model and its folder.

    The caller holds the run for writing. `measure` as for `timed`. Raises where the dense model
    cannot be quantized; a member that cannot is skipped, with the reason.
    """

    def made(model: nn.Module) -> tuple[Twin, QuantizationReport]:
        twin = twin_of(model, task, settings, threads)
        return twin, compared(twin, task, settings, test=test)

    found = {-1: made(load_dense(task).eval())}
    folders, skipped = {-1: run.path}, {}
    for number, load in members.items():
        try:
            model, folders[number] = load()
            found[number] = made(model)
        except AutopruneError as error:
            skipped[number] = str(error)
    twins, reports = zip(*found.values(), strict=True)
    done = {}
    for number, twin, report in zip(found, twins, timed(twins, reports, measure), strict=True):
        names = (DENSE_FILE, DENSE_REPORT) if number < 0 else (INT8_FILE, INT8_REPORT)
        file = folders[number] / names[0]
        done[number] = saved(twin, report, file, folders[number], names[1])
    seeds = {number: run.retraining(number).seed_at(folders[number]) for number in done}
    retrained = {number: seed for number, seed in seeds.items() if seed is not None}
    return FrontQuantization(done.pop(-1), done, skipped, retrained)
