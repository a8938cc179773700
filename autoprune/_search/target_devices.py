"""The target devices of a search: their profiles, and measuring on them.

Only this module distinguishes one device from several: elsewhere a latency is a cost with a name
(`latency_ms@phone`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device
from autoprune.config import DeviceConfig
from autoprune.cost.activations import COUNTED, PeakMemory
from autoprune.cost.analytic import count_cost
from autoprune.cost.inputs import Inputs, batched, dtype_of
from autoprune.cost.latency import measured_or_flagged
from autoprune.cost.memory import measured_memory_cost
from autoprune.cost.targets import find_target, is_here, is_remote
from autoprune.cost_fields import LATENCIES, field_at
from autoprune.device.memory import fit_peak_memory
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.profile import DeviceProfile
from autoprune.device.sampling import Sampler
from autoprune.graph import PruningGraph


@dataclass(frozen=True)
class TargetDevice:
    """One device whose latency counts; `name` is empty where the configuration has a single one.

    `device` identifies the machine and runtime of the profile; `profile` is None where latencies
    are measured, but not predicted.
    """

    name: str
    config: DeviceConfig
    device: Device | None = None
    profile: DeviceProfile | None = None

    @property
    def is_offline(self) -> bool:
        """Whether it is another machine that cannot be measured from here, only predicted."""
        if self.device is None or is_remote(self.device.runtime):
            return False
        return not is_here(self.device)

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
        if self.profile is None:
            return {}
        return dict.fromkeys(self.fields, self.profile.predictor.upper_factor - 1.0)

    def is_predicted(self, names: Collection[str]) -> bool:
        """Whether one of these costs is its latency, or it already has a profile."""
        return self.profile is not None or any(field in names for field in self.fields)

    def inputs(self, example: Inputs) -> Inputs:
        """The example at this device's batch."""
        return batched(example, self.config.batch)

    def fitted(
        self,
        dense: nn.Module,
        graph: PruningGraph,
        example: Inputs,
        seed: int,
        say: Callable[[str], None],
    ) -> TargetDevice:
        """A copy with a profile of this model: the one it has, or one that is measured now."""
        config = self.config
        if self.profile is not None:
            matched = self.profile.matched(graph, batch=config.batch, dtype=dtype_of(dense))
            return replace(self, profile=matched)
        on = f" on {self.name}" if self.name else ""
        say(f"latencies of random prunings in {config.runtime}{on}")
        found = LatencyPredictor.fit(
            dense,
            graph,
            self.inputs(example),
            runtime=config.runtime,
            threads=config.threads,
            seed=seed,
        )
        return replace(self, device=found.device, profile=DeviceProfile.of(found, graph))

    def corrected(
        self,
        dense: nn.Module,
        graph: PruningGraph,
        example: Inputs,
        chosen: Sequence[Architecture],
    ) -> TargetDevice:
        """The same with its predictor corrected by measuring these architectures now."""
        if self.profile is None or self.is_offline or not chosen:
            return self
        sampler = Sampler(
            dense,
            graph,
            self.inputs(example),
            runtime=self.config.runtime,
            threads=self.config.threads,
            seed=0,
        )
        predictor = self.profile.predictor.corrected(sampler.measure_these(chosen).samples)
        return replace(self, profile=replace(self.profile, predictor=predictor))

    def peak_memory(self, dense: nn.Module, graph: PruningGraph, example: Inputs) -> PeakMemory:
        """The model of its peak memory at the batch of the example; a count if it is offline."""
        if self.is_offline:
            return COUNTED
        runtime, threads = self.config.runtime, self.config.threads
        return fit_peak_memory(dense, graph, example, runtime=runtime, threads=threads)


def load_targets(
    configs: Mapping[str, DeviceConfig], known: Mapping[str, DeviceProfile]
) -> tuple[TargetDevice, ...]:
    """The target devices with their profiles; `known` are those saved in the run.

    Raises DeviceError where a profile cannot be read.
    """
    targets = []
    for name, config in configs.items():
        profile = known.get(name)
        if profile is None and config.profile is not None:
            profile = DeviceProfile.load(config.profile)
        targets.append(TargetDevice(name, config, profile.device if profile else None, profile))
    return tuple(targets)


def measurable_targets(
    configs: Mapping[str, DeviceConfig], known: Mapping[str, Device]
) -> tuple[TargetDevice, ...]:
    """The target devices that can be measured from here; `known` are those of saved profiles."""
    targets = [TargetDevice(name, config, known.get(name)) for name, config in configs.items()]
    return tuple(target for target in targets if not target.is_offline)


def measured(
    models: Sequence[nn.Module], example: Inputs, targets: Iterable[TargetDevice]
) -> list[Cost]:
    """The costs of each model; latencies are measured interleaved, on all devices not offline.

    Counts and bytes are for the example as given; peak memory is the largest over the devices, None
    where one of them is offline or does not report it.
    """
    targets = list(targets)
    online = [target for target in targets if not target.is_offline]
    costs = [_counted(model, example, targets, online) for model in models]
    for target in online:
        runtime, threads = target.config.runtime, target.config.threads
        latencies = measured_or_flagged(models, target.inputs(example), runtime, threads)
        costs = [it.added_to(c, target.name) for it, c in zip(latencies, costs, strict=True)]
    return costs


def _counted(
    model: nn.Module,
    example: Inputs,
    targets: Sequence[TargetDevice],
    online: Sequence[TargetDevice],
) -> Cost:
    if len(online) < len(targets):
        return replace(count_cost(model, example), peak_memory_bytes=None)
    runtimes = [(target.config.runtime, target.config.threads) for target in online]
    return measured_memory_cost(model, example, runtimes) if online else count_cost(model, example)


def check(targets: Iterable[TargetDevice]) -> None:
    """Raise DeviceError where a device without a profile cannot be measured."""
    reach(target for target in targets if target.profile is None)


def reach(targets: Iterable[TargetDevice]) -> None:
    """Raise DeviceError where a device cannot be reached, or lacks what measuring needs."""
    for target in targets:
        find_target(target.config.runtime).reach(target.config.threads)
