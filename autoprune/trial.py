"""One candidate → one record, without Ray."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.graph import PruningGraph
from autoprune.pruning.compensate import Calibration
from autoprune.record import TrialRecord
from autoprune.tasks.base import Task
from autoprune.training import Precision, RecoveryRun

OnEvaluation = Callable[[Mapping[str, float]], bool]


@dataclass(frozen=True, slots=True)
class Trial:
    """What `run_trial` gives back.

    `model` is the smaller model in eval mode on the CPU, `keep` the dense units it still has;
    `model` is None for a failed trial.
    """

    record: TrialRecord
    model: nn.Module | None
    keep: Mapping[str, tuple[int, ...]]


def run_trial(
    task: Task,
    dense: nn.Module,
    graph: PruningGraph,
    candidate: Candidate,
    *,
    epochs: float,
    seed: int,
    number: int = 0,
    rungs: Sequence[float] = (),
    on_evaluation: OnEvaluation | None = None,
    round_to: int = 1,
    calibration: Calibration | None = None,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
    predicted: Cost | None = None,
    origin: str = "",
) -> Trial:
    """Train `candidate` for `epochs` and record what became of it.

    The model is validated at each of `rungs` (epochs, ascending) and at the end. After each
    validation but the last `on_evaluation(entry)` says whether to go on; where it says no, the
    state is `stopped`. Whatever goes wrong inside (a loss that is not finite, an exception of the
    task, no memory) becomes the state `failed`: the first line of `error` is the reason, then
    comes the traceback. KeyboardInterrupt passes through.
    """
    start = time.perf_counter()
    blank = TrialRecord(number, candidate, "failed", seed, predicted=predicted, origin=origin)
    run: RecoveryRun | None = None
    try:
        run = RecoveryRun(
            task,
            dense,
            graph,
            candidate,
            epochs=epochs,
            seed=seed,
            round_to=round_to,
            calibration=calibration,
            device=device,
            precision=precision,
        )
        going = _train(run, rungs, on_evaluation)
    except Exception as error:  # noqa: BLE001 - the task is foreign code: the search must survive it
        record = replace(describe(blank, run, start), error=reason(error))
        run = None
        release_memory()
        return Trial(record, None, {})
    record = replace(
        describe(blank, run, start),
        state="complete" if going else "stopped",
        metrics=metrics_of(run),
    )
    return Trial(record, run.result(), dict(run.keep))


def describe(record: TrialRecord, run: RecoveryRun | None, start: float) -> TrialRecord:
    """`record` with what a run knows: epochs, history, and times since `start` (perf_counter)."""
    wall = {"wall_s": time.perf_counter() - start}
    if run is None:
        return replace(record, times=wall)
    return replace(
        record, epochs=run.epoch, history=tuple(run.history), times={**run.times, **wall}
    )


def metrics_of(run: RecoveryRun) -> dict[str, float]:
    """The validation metrics of the last evaluation, without what describes training."""
    extra = ("epoch", "loss", "params", "lr")
    return {key: value for key, value in run.history[-1].items() if key not in extra}


def reason(error: Exception) -> str:
    """Why a trial failed: one line, then the traceback."""
    kind = type(error).__name__
    if is_out_of_memory(error):
        kind = "out of memory"
    text = str(error).strip().splitlines()
    first = f"{kind}: {text[0]}" if text else kind
    return "\n".join([first, *traceback.format_exception(error)]).rstrip()


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def release_memory() -> None:
    """Give back what a failed run held, so that the next one can start."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(run: RecoveryRun, rungs: Sequence[float], on_evaluation: OnEvaluation | None) -> bool:
    """Train through the rungs to the end; False when `on_evaluation` ended it before."""
    run.build()
    for rung in [*(r for r in rungs if r < run.epochs), run.epochs]:
        if run.finished and run.history:
            break
        entry = run.advance(rung - run.epoch)
        if not run.finished and on_evaluation is not None and not on_evaluation(entry):
            return False
    return True
