"""The target devices of a search: their profiles, and measuring on them.

Only this module distinguishes one device from several: elsewhere a latency is a cost with a name
(`latency_ms@phone`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.budget import Cost, Device
from autoprune.config.sections import DeviceConfig
from autoprune.cost.activations import COUNTED, PeakMemory
from autoprune.cost.analytic import count_cost
from autoprune.cost.inputs import Inputs, batched, dtype_of
from autoprune.cost.latency import measured_or_flagged
from autoprune.cost.memory import largest_peak
from autoprune.cost.precisions import int8_cost
from autoprune.cost.targets import find_target, is_remote, why_elsewhere
from autoprune.cost_fields import LATENCIES, field_at
from autoprune.device.memory import fit_peak_memory
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.profile import DeviceProfile
from autoprune.device.sampling import Convert, Sample, Sampler, random_architectures
from autoprune.errors import ConfigError, DeviceError
from autoprune.graph import PruningGraph
from autoprune.quantization import int8_for_timing

ONNX = "onnxruntime"
_MOVED = 12  # random int8 models that are measured to predict all others


@dataclass(frozen=True, eq=False)
class FinishedModel:
    """A model to be measured, in the precision in which it runs."""

    model: nn.Module
    precision: str = FLOAT32


@dataclass(frozen=True, eq=False)
class ProfiledModel:
    """The dense model whose prunings are measured, with its graph and an example of its inputs."""

    dense: nn.Module
    graph: PruningGraph
    example: Inputs


@dataclass(frozen=True)
class TargetDevice:
    """One device whose latency counts; `name` is empty where the configuration has a single one.

    `device` identifies the machine and runtime of the profile; `profile` is None where latencies
    are measured, but not predicted. `int8` is the profile of int8 models, where a search has them.
    """

    name: str
    config: DeviceConfig
    device: Device | None = None
    profile: DeviceProfile | None = None
    int8: DeviceProfile | None = None

    @property
    def is_offline(self) -> bool:
        """Whether it is another machine that cannot be measured from here, only predicted."""
        return bool(self.why_offline)

    @property
    def why_offline(self) -> str:
        """Why it cannot be measured from here, in words; empty where it can."""
        if self.device is None or is_remote(self.device.runtime):
            return ""
        return why_elsewhere(self.device)

    @property
    def where(self) -> str:
        """Where it is measured, for messages."""
        return self.config.runtime if is_remote(self.config.runtime) else "this machine"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its latencies among the costs."""
        return tuple(field_at(field, self.name) for field in LATENCIES)

    @property
    def margins(self) -> dict[str, float]:
        """Relative margin of the upper bound over the prediction, by field."""
        factors = [it.predictor.upper_factor for it in (self.profile, self.int8) if it]
        return dict.fromkeys(self.fields, max(factors) - 1.0) if factors else {}

    def is_predicted(self, names: Collection[str]) -> bool:
        """Whether one of these costs is its latency, or it already has a profile."""
        return self.profile is not None or any(field in names for field in self.fields)

    def inputs(self, example: Inputs) -> Inputs:
        """The example at this device's batch."""
        return batched(example, self.config.batch)

    def fitted(
        self,
        model: ProfiledModel,
        seed: int,
        say: Callable[[str], None],
    ) -> TargetDevice:
        """A copy with a profile of this model: the one it has, or one that is measured now."""
        config = self.config
        if self.profile is not None:
            matched = self.profile.matched(
                model.graph, batch=config.batch, dtype=dtype_of(model.dense)
            )
            return replace(self, profile=matched)
        on = f" on {self.name}" if self.name else ""
        say(f"latencies of random prunings in {config.runtime}{on}")
        found = LatencyPredictor.fit(
            model.dense,
            model.graph,
            self.inputs(model.example),
            runtime=config.runtime,
            threads=config.threads,
            seed=seed,
        )
        return replace(self, device=found.device, profile=DeviceProfile.of(found, model.graph))

    def with_int8(
        self,
        model: ProfiledModel,
        seed: int,
        say: Callable[[str], None],
    ) -> TargetDevice:
        """A copy that predicts int8 models too, from measurements of a few random ones.

        Raises DeviceError where it cannot be measured from here.
        """
        if self.profile is None:
            return self
        if self.int8 is not None:
            batch = self.config.batch
            return replace(self, int8=self.int8.matched(model.graph, batch=batch, dtype=INT8))
        if self.is_offline:
            raise DeviceError(
                f"space.precision: latencies of int8 models must be measured, and {self.device} is "
                "not this machine · search with precision: float32, or on that machine"
            )
        say("latencies of random prunings in int8")
        chosen = random_architectures(model.graph, _MOVED, seed)
        return self._moved(model, chosen, ())

    def corrected(
        self,
        model: ProfiledModel,
        chosen: Sequence[Architecture],
    ) -> TargetDevice:
        """The same with its predictors corrected by measuring these architectures now."""
        if self.profile is None or self.is_offline:
            return self
        found, floats = self, [each for each in chosen if each.precision == FLOAT32]
        if floats:
            samples = self._sampler(model).measure_these(floats).samples
            predictor = self.profile.predictor.corrected(samples)
            found = replace(self, profile=replace(self.profile, predictor=predictor))
        if self.int8 is None:
            return found
        quantized = [each for each in chosen if each.precision == INT8]
        return found._moved(model, quantized, self.int8.predictor.samples)

    def _moved(
        self,
        model: ProfiledModel,
        chosen: Sequence[Architecture],
        before: Sequence[Sample],
    ) -> TargetDevice:
        """With int8 predicted from the float32 predictor, earlier measurements, and new ones."""
        assert self.profile is not None
        samples, device = list(before), self.int8.device if self.int8 else None
        if chosen:
            inputs = self.inputs(model.example)
            sampler = self._sampler(model, lambda small: int8_for_timing(small, inputs))
            found = sampler.measure_these(chosen)
            samples, device = [*samples, *found.samples], found.pruned_device
        assert device is not None
        predictor = self.profile.predictor.moved(samples, device)
        return replace(self, int8=replace(self.profile, predictor=predictor))

    def _sampler(
        self,
        model: ProfiledModel,
        convert: Convert | None = None,
    ) -> Sampler:
        return Sampler(
            model.dense,
            model.graph,
            self.inputs(model.example),
            runtime=self.config.runtime,
            threads=self.config.threads,
            seed=0,
            convert=convert,
        )

    def peak_memory(self, model: ProfiledModel, precision: str = FLOAT32) -> PeakMemory:
        """The model of its peak memory at the batch of the example; a count if it is offline."""
        if self.is_offline:
            return COUNTED
        runtime, threads, example = self.config.runtime, self.config.threads, model.example
        return fit_peak_memory(
            model.dense,
            model.graph,
            example,
            runtime=runtime,
            threads=threads,
            int8=(lambda small: int8_for_timing(small, example)) if precision == INT8 else None,
        )


Profiles = Mapping[str, Mapping[str, DeviceProfile]]
"""Device profiles by precision and device."""


def load_targets(configs: Mapping[str, DeviceConfig], known: Profiles) -> tuple[TargetDevice, ...]:
    """The target devices with their profiles; `known` are those saved in the run.

    Raises DeviceError where a profile cannot be read.
    """
    floats, int8 = known.get(FLOAT32, {}), known.get(INT8, {})
    targets = []
    for name, config in configs.items():
        profile = floats.get(name)
        if profile is None and config.profile is not None:
            profile = DeviceProfile.load(config.profile)
        device = profile.device if profile else None
        targets.append(TargetDevice(name, config, device, profile, int8.get(name)))
    return tuple(targets)


def measurable_targets(
    configs: Mapping[str, DeviceConfig], known: Mapping[str, Device]
) -> tuple[TargetDevice, ...]:
    """The target devices that can be measured from here; `known` are those of saved profiles."""
    targets = [TargetDevice(name, config, known.get(name)) for name, config in configs.items()]
    return tuple(target for target in targets if not target.is_offline)


def check_measurable(targets: Sequence[TargetDevice], before: Collection[str]) -> None:
    """Raise DeviceError where none can be measured from here, or one that was measured `before`."""
    away = [target for target in targets if target.is_offline]
    lost = [target for target in away if target.name in before]
    if lost or len(away) == len(targets):
        first = (lost or away)[0]
        raise DeviceError(
            f"{first.device} cannot be measured from here: {first.why_offline} · do it there, or "
            "give its address as device.runtime"
        )


def measured(
    models: Sequence[FinishedModel], example: Inputs, targets: Iterable[TargetDevice]
) -> list[Cost]:
    """The costs of each model; latencies are measured interleaved, on all devices not offline.

    Counts and bytes are for the example as given; peak memory is the largest over the devices, None
    where one of them is offline or does not report it.
    """
    targets = list(targets)
    online = [target for target in targets if not target.is_offline]
    costs = [_counted(each, example, targets, online) for each in models]
    for target in online:
        runtime, threads, inputs = (
            target.config.runtime,
            target.config.threads,
            target.inputs(example),
        )
        modules = [
            int8_for_timing(each.model, inputs) if each.precision == INT8 else each.model
            for each in models
        ]
        latencies = measured_or_flagged(modules, inputs, runtime, threads)
        costs = [it.added_to(c, target.name) for it, c in zip(latencies, costs, strict=True)]
    return costs


def _counted(
    finished: FinishedModel,
    example: Inputs,
    targets: Sequence[TargetDevice],
    online: Sequence[TargetDevice],
) -> Cost:
    model, is_int8 = finished.model, finished.precision == INT8
    counted = int8_cost(model, example) if is_int8 else count_cost(model, example)
    if not targets:
        return counted
    if len(online) < len(targets):
        return replace(counted, peak_memory_bytes=None)
    runtimes = [(target.config.runtime, target.config.threads) for target in online]
    measurable = int8_for_timing(model, example) if is_int8 else model
    return replace(counted, peak_memory_bytes=largest_peak(measurable, example, runtimes))


def check_int8(targets: Iterable[TargetDevice]) -> None:
    """Raise ConfigError where int8 models do not run on a device."""
    for target in targets:
        runtime = target.config.runtime
        if runtime != ONNX and not is_remote(runtime):
            raise ConfigError(
                f"space.precision: int8 models run in {ONNX}, and device.runtime is {runtime} · "
                f"set it to {ONNX}, or leave out int8"
            )


def check(targets: Iterable[TargetDevice]) -> None:
    """Raise DeviceError where a device without a profile cannot be measured."""
    reach(target for target in targets if target.profile is None)


def reach(targets: Iterable[TargetDevice]) -> None:
    """Raise DeviceError where a device cannot be reached, or lacks what measuring needs."""
    for target in targets:
        find_target(target.config.runtime).reach(target.config.threads)
