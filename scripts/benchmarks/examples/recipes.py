"""The recipes that are compared on one example, and how each is trained and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from torch import nn

from autoprune._retraining.seeds import OnEntry, retrain
from autoprune._retraining.trial import SIMULATED
from autoprune.api import RetrainResult
from autoprune.architecture import INT8, Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost.inputs import as_call, tensors
from autoprune.cost.latency import measure_together
from autoprune.cost.model import CostModel, LatencyModel
from autoprune.cost.onnx_export import OnnxModel, to_onnx
from autoprune.cost.targets.memory import session_bytes
from autoprune.device.profile import DeviceProfile
from autoprune.loading import load, picked
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.verification import traced
from autoprune.quantization import int8_for_timing, twin_of
from autoprune.schedule import Schedule
from autoprune.space import kept_units
from autoprune.store import QuantizationSettings, RunFolder
from autoprune.tasks import load_dense, load_task
from autoprune.tasks.metrics import evaluated
from autoprune.training import choose
from autoprune.training.batches import sample

BYTES, LATENCY = "weight_bytes", "latency_ms"
IN_STEPS = Schedule("cubic", begin=0.0, end=0.4, steps=4)
PENALTY = 1.0  # the group lasso before each step: units are at zero when they are removed
PLAIN = "uniform, L2, no repair"
_RATIOS = np.linspace(0.0, 0.95, 400)


class Bench:
    """Task, dense model, graph and costs of a run, in the precision of its models."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.config = run, run.config
        self.task = load_task(self.config.task, data=self.config.data, args=self.config.task_args)
        self.dense = load_dense(self.task).eval()
        example, ignored = self.task.example_input(), self.task.ignored_layers
        self.graph = traced(self.dense, example, ignored_layers=ignored)
        _, self.record = picked(run, "recommended")
        self.precision = self.record.candidate.architecture.precision
        self.limited = LATENCY if LATENCY in self.config.budget.fields else BYTES
        self.costs = CostModel(
            self.graph, latency=latency_of(run, self.precision), precision=self.precision
        )
        self.arithmetic = choose(self.task, self.dense, "cpu")
        samples, seed = self.config.search.calibration_samples, self.config.search.seed
        batches = sample(self.task, seed, samples=samples)
        self.calibration = calibrate(
            self.dense, batches, max_samples=samples, seed=seed, forward=self.task.loss
        )

    @property
    def simulates_int8(self) -> bool | None:
        """Whether all recipes end in simulated int8; None for float32, where there is no choice."""
        return True if self.precision == INT8 else None

    def cost(self, architecture: Architecture, field: str) -> float:
        """As the budget counts or predicts it, in the run's precision."""
        return self.costs.cost(architecture, [field]).get(field)

    def trained(
        self, candidate: Candidate, epochs: float, seed: int, on_entry: OnEntry
    ) -> dict[str, object]:
        """One row: a candidate trained as `autoprune.retrain` does it."""
        done = retrain(
            *(self.task, self.dense, self.graph, candidate),
            epochs=epochs,
            seeds=[seed],
            calibration=self.calibration,
            precision=self.arithmetic,
            on_entry=on_entry,
            quantization_aware=SIMULATED if self.simulates_int8 else 0.0,
            convert=self._in_int8 if self.precision == INT8 else None,
        ).runs[0]
        metrics = {"val": done.validation, "test": done.test}
        return {"seed": seed, **self._measured(candidate, done.model), **_columns(metrics)}

    def retrained(self, done: RetrainResult) -> Iterator[dict[str, object]]:
        """A row for each seed of what `autoprune.retrain` made."""
        for report in done.summary.runs:
            model = load(done.path / f"seed-{report.seed}", task=self.task)
            written = self._in_int8(model) if self.precision == INT8 else model
            metrics = {"val": evaluated(self.task, written, "val"), "test": report.test}
            measured = self._measured(self.record.candidate, model)
            yield {"seed": report.seed, **measured, **_columns(metrics)}

    def dense_row(self) -> dict[str, object]:
        """The dense model in the run's precision, untrained by any recipe."""
        whole = Candidate(Architecture(precision=self.precision))
        model = self._in_int8(self.dense) if self.precision == INT8 else self.dense
        metrics = {split: evaluated(self.task, model, split) for split in ("val", "test")}
        return {**self._measured(whole, self.dense), **_columns(metrics)}

    def _in_int8(self, model: nn.Module) -> nn.Module:
        return twin_of(model, self.task, QuantizationSettings(), threads=1).int8

    def _measured(self, candidate: Candidate, model: nn.Module) -> dict[str, object]:
        """Bytes of weights as the budget counts them, of the ONNX file, and its peak memory."""
        example = self.task.example_input()
        written: OnnxModel = (
            twin_of(model, self.task, QuantizationSettings(), threads=1).int8.written
            if self.precision == INT8
            else to_onnx(model, example)
        )
        arrays = [tensor.numpy() for tensor in tensors(as_call(example))]
        feed = dict(zip(written.inputs, arrays, strict=True))
        return {
            "precision": self.precision,
            "weight_bytes": self.cost(candidate.architecture, BYTES),
            "file_bytes": len(written.data),
            "peak_bytes": session_bytes(written.data, feed, threads=1),
            **(self._timed(model) if self.limited == LATENCY else {}),
        }

    def _timed(self, model: nn.Module) -> dict[str, object]:
        """The latency in the budget's runtime, measured in turns with the dense model's."""
        device, example = self.config.device, self.task.example_input()
        module = int8_for_timing(model, example) if self.precision == INT8 else model
        _, found = measure_together(
            [self.dense, module], example, device.runtime, threads=device.threads
        )
        return {"latency_ms": found.median_ms, "latency_share": found.ratio, "busy": found.busy}


def others(bench: Bench, chosen: Candidate) -> dict[str, Candidate]:
    """The recipes beside the recommended one, by name."""
    sizes, recovery = bench.graph.sizes(), chosen.recovery
    planned = len(chosen.schedule.milestones()) > 1
    beside = Candidate.planned(
        chosen.architecture,
        sizes,
        selection=chosen.selection,
        schedule=Schedule() if planned else IN_STEPS,
        recovery=dataclasses.replace(recovery, regularizer=0.0 if planned else PENALTY),
    )
    uniform = _uniform(bench, bench.limited, bench.cost(chosen.architecture, bench.limited))
    repaired = Candidate.planned(
        uniform,
        sizes,
        selection=chosen.selection,
        schedule=chosen.schedule,
        recovery=recovery,
    )
    plain = Candidate(
        uniform,
        Selection("l2", repair=False),
        Schedule(),
        Recovery(lr=recovery.lr, distillation=0.0),
    )
    same = "same widths, at once" if planned else "same widths, in steps, group lasso"
    return {same: beside, "uniform, repaired": repaired, PLAIN: plain}


def latency_of(run: RunFolder, precision: str) -> LatencyModel | None:
    """How the run predicts latencies of the device that its budget is for; None without one."""
    found = run.profiles(run.config.targets, DeviceProfile.from_dict, precision)
    return next((profile.predictor for profile in found.values()), None)


def _uniform(bench: Bench, field: str, limit: float) -> Architecture:
    """The same ratio for every group, as small as this cost allows."""
    for ratio in _RATIOS:
        widths = {name: kept_units(size, ratio) for name, size in bench.graph.sizes().items()}
        found = Architecture(widths, precision=bench.precision)
        if bench.cost(found, field) <= limit:
            return found
    raise ValueError(f"no uniform ratio up to {_RATIOS[-1]:g} has {field} of at most {limit:g}")


def _columns(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{split}_{name}": value
        for split, values in metrics.items()
        for name, value in values.items()
        if name != "loss"
    }
