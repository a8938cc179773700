"""The measurement protocol: how long one forward pass takes, alone or beside other models."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from autoprune.budget import Cost, Device
from autoprune.cost.inputs import Inputs, batch_size, dtype_of
from autoprune.cost.targets import Protocol, find_target

_SPREAD = 0.15  # a wider spread of the timings is flagged


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one forward pass, with everything that they depend on.

    `raw_ms` holds every timed call in order. `ratio` is the time relative to the first model that
    was measured together with this one (1 for itself): the median over the rounds of the two
    medians in that round, so that slow phases of the machine cancel.
    """

    median_ms: float
    p95_ms: float
    raw_ms: tuple[float, ...]
    device: Device
    ratio: float = 1.0

    @property
    def spread(self) -> float:
        """Distance between the quartiles relative to the median."""
        low, high = np.quantile(self.raw_ms, [0.25, 0.75])
        return float((high - low) / self.median_ms)

    @property
    def noisy(self) -> bool:
        """Whether the spread is so large (above 0.15) that something else used the machine."""
        return self.spread > _SPREAD

    def added_to(self, cost: Cost, name: str = "") -> Cost:
        """The cost with this measured latency, in place of any other on the device of that name."""
        return cost.timed(self.median_ms, self.p95_ms, self.device, "measured", name)

    def __str__(self) -> str:
        """Both figures with the device they hold for."""
        return f"{self.median_ms:.3f} ms (p95 {self.p95_ms:.3f} ms; {self.device})"


def measure_latency(
    model: nn.Module,
    example_inputs: Inputs,
    runtime: str = "torch",
    *,
    threads: int = 1,
    warmup_s: float = 0.2,
    repeats: int = 100,
) -> Latency:
    """How long one forward pass takes, here or on another machine: median and 95th percentile.

    A copy of the model in eval mode, at the batch of `example_inputs`, in `runtime` (a key of
    `targets.RUNTIMES`, or `ssh://user@host`) with `threads` threads. It is warmed up for `warmup_s`
    seconds and on until two windows agree, then timed `repeats` times (fewer, where that would take
    over 10 s). The model and the process's number of threads stay as they were.

    Raises:
        DeviceError: unknown or missing runtime, more threads than cores, a remote device that fails
            (DeviceLostError where it cannot be reached, or is lost on the way).
        ExportError: the runtime needs ONNX, and the model cannot be written.

    >>> import torch
    >>> latency = measure_latency(nn.Linear(8, 8), torch.zeros(1, 8), repeats=10, warmup_s=0.01)
    >>> 0 < latency.median_ms <= latency.p95_ms
    True
    >>> latency.device.runtime, latency.device.batch, latency.device.threads
    ('torch', 1, 1)
    """
    return measure_together(
        [model], example_inputs, runtime, threads=threads, warmup_s=warmup_s, repeats=repeats
    )[0]


def measure_together(
    models: Sequence[nn.Module],
    example_inputs: Inputs,
    runtime: str = "torch",
    *,
    threads: int = 1,
    warmup_s: float = 0.2,
    repeats: int = 100,
) -> list[Latency]:
    """Latencies of several models that take turns, so that the machine's drift hits all alike.

    Each round gives every model a short burst (one call that is not counted, then five that are),
    in alternating order. Put the dense model first: every result's `ratio` is relative to it.
    Otherwise as `measure_latency`.
    """
    target = find_target(runtime)
    if not models:
        raise ValueError("measure_together needs at least one model")
    if repeats < 1 or not warmup_s >= 0.0:
        raise ValueError(f"need repeats >= 1 and warmup_s >= 0, got {repeats} and {warmup_s}")
    timed = target.time(models, example_inputs, Protocol(threads, warmup_s, repeats))
    batch = batch_size(example_inputs)
    devices = [Device(timed.device, runtime, dtype_of(model), batch, threads) for model in models]
    return [_latency(timed.rounds, place, device) for place, device in enumerate(devices)]


def _latency(rounds: Sequence[Sequence[Sequence[float]]], place: int, device: Device) -> Latency:
    raw = [value for bursts in rounds for value in bursts[place]]
    ratios = [statistics.median(b[place]) / statistics.median(b[0]) for b in rounds]
    return Latency(
        median_ms=statistics.median(raw),
        p95_ms=float(np.quantile(raw, 0.95)),
        raw_ms=tuple(raw),
        device=device,
        ratio=statistics.median(ratios),
    )
