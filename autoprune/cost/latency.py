"""The measurement protocol: the latency of one forward pass, of one model or several."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.cost.inputs import Inputs, batch_size, dtype_of
from autoprune.cost.onnx_export import WrittenModule
from autoprune.cost.targets import Protocol, Timings, find_target
from autoprune.cost.timing import half_width, mean_ratio, median_interval
from autoprune.errors import NoisyError
from autoprune.graph.replica import check_module

_log = logging.getLogger(__name__)

PRECISION = 0.02  # relative half-width of the confidence intervals to reach


@dataclass(frozen=True, slots=True)
class Effort:
    """What a measurement does for its precision, and when it is tried again and refused.

    A first pass of `repeats` timed calls is followed by others until the intervals have a relative
    half-width of `precision` (None: no others). It is refused after `tries`, with pauses of
    `pause_s` and twice as long each time, where a half-width is above `max_half_width` (at 0.25 a
    model could not be distinguished from a 20 % faster one), or where other processes leave less
    than `min_free` of a core to each thread: with others on 88 % of two cores, one thread measured
    a model of 0.65 of the dense one's time as 0.90 of it, and the interval was narrow all the same;
    on 76 % as 0.76; on 53 % as 0.65.
    """

    precision: float | None = PRECISION
    repeats: int = 100
    tries: int = 4
    pause_s: float = 3.0
    max_half_width: float = 0.25
    min_free: float = 0.35


EFFORT = Effort()


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one forward pass, with the conditions of the measurement.

    `raw_ms` holds every timed call in order. `ratio` is the time relative to the first model that
    was measured together with this one (1 for itself): in each round the ratio of their medians,
    corrected for the speed of the processor (see `timing.Rounds`), and over all rounds the
    geometric mean without the fifth at either end. `ratio_ci` is its 95 %
    confidence interval (see `timing.mean_ratio`), `busy` the share of the cores that others used
    meanwhile.
    """

    median_ms: float
    p95_ms: float
    raw_ms: tuple[float, ...]
    device: Device
    ratio: float = 1.0
    ratio_ci: tuple[float, float] = (1.0, 1.0)
    busy: float | None = None

    @property
    def spread(self) -> float:
        """Distance between the quartiles relative to the median."""
        low, high = np.quantile(self.raw_ms, [0.25, 0.75])
        return float((high - low) / self.median_ms)

    @property
    def ci_ms(self) -> tuple[float, float]:
        """A 95 % confidence interval of the median, from order statistics."""
        return median_interval(self.raw_ms)

    @property
    def confidence(self) -> Confidence:
        """Confidence intervals and load of the measurement."""
        return Confidence(self.ci_ms, self.ratio, self.ratio_ci, self.spread, self.busy)

    @property
    def noisy(self) -> bool:
        """Whether spread or load show other use of the machine."""
        return bool(self.confidence.note)

    def added_to(self, cost: Cost, name: str = "") -> Cost:
        """The cost with this measured latency, replacing any other on the device of that name."""
        timing = Timing(name, self.median_ms, self.p95_ms, self.device, self.confidence)
        return cost.timed(timing, "measured")

    def __str__(self) -> str:
        """The figures and the device."""
        sure = f"± {self.confidence.half_width:.1%}"
        return f"{self.median_ms:.3f} ms ({sure}, p95 {self.p95_ms:.3f} ms; {self.device})"


def measure_latency(
    model: nn.Module,
    example_inputs: Inputs,
    runtime: str = "torch",
    *,
    threads: int = 1,
    warmup_s: float = 0.2,
    repeats: int | None = None,
) -> Latency:
    """How long one forward pass takes, here or on another machine: median and 95th percentile.

    A copy of the model in eval mode, at the batch of `example_inputs`, in `runtime` (a key of
    `targets.RUNTIMES`, or `ssh://user@host`) with `threads` threads. It is warmed up for `warmup_s`
    seconds and on until two windows agree. Then it is timed at least 100 times and on until the
    median is known to 2 % with 95 % confidence, or 4 s are over; or exactly `repeats` times. Either
    ends after 10 s. The model and the process's number of threads stay as they were.

    Raises:
        DeviceError: unknown or missing runtime, more threads than cores, a remote device that fails
            (DeviceLostError where it cannot be reached, or is lost on the way).
        NoisyError: a DeviceError; without `repeats`, where the interval is wider than ±25 % after
            four tries, or other processes use too much of the cores.
        ExportError: the runtime needs ONNX, and the model cannot be written.
        GraphError: the model is no `nn.Module`, but a program of `torch.jit` or `torch.export`.

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
    repeats: int | None = None,
) -> list[Latency]:
    """Latencies of several models, measured interleaved, so that drift affects all equally.

    Each round gives every model a short burst (one call that is not counted, then three that are),
    in a new random order, with a probe of the processor's speed around each call. Put the
    dense model first: it has several turns a round (see `timing.rounds_of`), every result's `ratio`
    is relative to it, and is measured until it is known to 2 % as well. Otherwise as
    `measure_latency`.
    """
    target = find_target(runtime)
    if not models:
        raise ValueError("measure_together needs at least one model")
    for model in models:
        check_module(model)
    if (repeats is not None and repeats < 1) or not warmup_s >= 0.0:
        raise ValueError(f"need repeats >= 1 and warmup_s >= 0, got {repeats} and {warmup_s}")
    effort = EFFORT
    more = None if repeats else effort.precision
    protocol = Protocol(threads, warmup_s, repeats or effort.repeats, more)
    for attempt in range(effort.tries):
        if attempt:
            time.sleep(effort.pause_s * 2 ** (attempt - 1))
        timed = target.time(models, example_inputs, protocol)
        found = _latencies(timed, models, example_inputs, runtime, threads)
        reason = "" if repeats else _why_refused(timed, found, effort)
        if not reason:
            return found
    raise NoisyError(
        f"the measurement is refused after {effort.tries} tries: {reason} · "
        "stop other processes there",
        found,
    )


def measured_or_flagged(
    models: Sequence[nn.Module], example_inputs: Inputs, runtime: str, threads: int
) -> list[Latency]:
    """As `measure_together`, but a refused measurement is logged and returned as noisy."""
    try:
        return measure_together(models, example_inputs, runtime, threads=threads)
    except NoisyError as error:
        _log.warning("%s", error)
        return list(error.latencies)


def _why_refused(timed: Timings, latencies: Sequence[Latency], effort: Effort) -> str:
    """Why a measurement must be refused; empty where it is good enough."""
    half = latencies[0].confidence.half_width  # of a single model; of several, that of their ratios
    if len(latencies) > 1:
        half = max(half_width(it.ratio_ci) for it in latencies)
    if half > effort.max_half_width:
        return (
            f"latencies are known to ±{half:.0%} only, "
            f"at most ±{effort.max_half_width:.0%} is accepted"
        )
    threads = latencies[0].device.threads
    if timed.busy is not None and (1.0 - timed.busy) * timed.cores < effort.min_free * threads:
        return f"other processes took {timed.busy:.0%} of the cores"
    return ""


def _latencies(
    timed: Timings,
    models: Sequence[nn.Module],
    example_inputs: Inputs,
    runtime: str,
    threads: int,
) -> list[Latency]:
    batch = batch_size(example_inputs)
    devices = [Device(timed.device, runtime, _dtype(model), batch, threads) for model in models]
    each = zip(timed.rounds.times(), timed.rounds.ratios(), devices, strict=True)
    return [_latency(raw, ratios, device, timed.busy) for raw, ratios, device in each]


def _dtype(model: nn.Module) -> str:
    return model.written.dtype if isinstance(model, WrittenModule) else dtype_of(model)


def _latency(
    raw: Sequence[float], ratios: Sequence[float], device: Device, busy: float | None
) -> Latency:
    ratio, interval = mean_ratio(ratios)
    return Latency(
        median_ms=statistics.median(raw),
        p95_ms=float(np.quantile(raw, 0.95)),
        raw_ms=tuple(raw),
        device=device,
        ratio=ratio,
        ratio_ci=interval,
        busy=busy,
    )
