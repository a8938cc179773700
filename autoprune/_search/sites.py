"""The devices of a search: where latencies count, what they are predicted from, who is measured.

Everything that tells one device from several is decided here: the rest of a search knows latencies
by their names only (`latency_ms@phone`).
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
from autoprune.cost.memory import counted_and_weighed
from autoprune.cost.targets import find_target, is_here, is_remote
from autoprune.cost_fields import LATENCIES, field_at
from autoprune.device.memory import fit_peak_memory
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.profile import DeviceProfile
from autoprune.device.sampling import Sampler
from autoprune.graph import PruningGraph


@dataclass(frozen=True)
class Site:
    """One device of a search; `name` is empty where the configuration has one without a name.

    `device` says where a profile was made, before it is read in full; `profile` is None where
    latencies are measured, but not predicted.
    """

    name: str
    config: DeviceConfig
    device: Device | None = None
    profile: DeviceProfile | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether its latencies are those of a machine that cannot be asked from here."""
        if self.device is None or is_remote(self.device.runtime):
            return False
        return not is_here(self.device)

    @property
    def where(self) -> str:
        """What is measured on, in words."""
        return self.config.runtime if is_remote(self.config.runtime) else "this machine"

    @property
    def fields(self) -> tuple[str, ...]:
        """What its latencies are called."""
        return tuple(field_at(field, self.name) for field in LATENCIES)

    @property
    def margins(self) -> dict[str, float]:
        """By how much the upper bound lies above the prediction, for each of the fields."""
        if self.profile is None:
            return {}
        return dict.fromkeys(self.fields, self.profile.predictor.upper_factor - 1.0)

    def is_predicted(self, names: Collection[str]) -> bool:
        """Whether one of these costs is its latency, or its profile is there anyway."""
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
    ) -> Site:
        """The same with the profile of this very model: the one it has, or one measured now."""
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
    ) -> Site:
        """The same with its predictor corrected by measuring these architectures now."""
        if self.profile is None or self.is_elsewhere or not chosen:
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
        """How activations take memory there, at the batch of the example; counted if unknown."""
        if self.is_elsewhere:
            return COUNTED
        runtime, threads = self.config.runtime, self.config.threads
        return fit_peak_memory(dense, graph, example, runtime=runtime, threads=threads)


def sites_of(
    targets: Mapping[str, DeviceConfig], known: Mapping[str, DeviceProfile]
) -> tuple[Site, ...]:
    """The devices with the profiles that are there already; `known` are those of the run itself.

    Raises DeviceError where a profile cannot be read.
    """
    sites = []
    for name, config in targets.items():
        profile = known.get(name)
        if profile is None and config.profile is not None:
            profile = DeviceProfile.load(config.profile)
        sites.append(Site(name, config, profile.device if profile else None, profile))
    return tuple(sites)


def local_sites(
    targets: Mapping[str, DeviceConfig], known: Mapping[str, Device]
) -> tuple[Site, ...]:
    """The devices that can be measured from here; `known` is where the search's profiles hold."""
    sites = [Site(name, config, known.get(name)) for name, config in targets.items()]
    return tuple(site for site in sites if not site.is_elsewhere)


def measured(models: Sequence[nn.Module], example: Inputs, sites: Iterable[Site]) -> list[Cost]:
    """What each model costs, its latencies measured in turns on each device that can be from here.

    Counts and bytes are those of the example as it is; peak memory is that of the device that takes
    most, None where one of them cannot be asked or does not tell.
    """
    sites = list(sites)
    here = [site for site in sites if not site.is_elsewhere]
    costs = [_counted(model, example, sites, here) for model in models]
    for site in here:
        runtime, threads = site.config.runtime, site.config.threads
        latencies = measured_or_flagged(models, site.inputs(example), runtime, threads)
        costs = [it.added_to(c, site.name) for it, c in zip(latencies, costs, strict=True)]
    return costs


def _counted(
    model: nn.Module, example: Inputs, sites: Sequence[Site], here: Sequence[Site]
) -> Cost:
    if len(here) < len(sites):
        return replace(count_cost(model, example), peak_memory_bytes=None)
    runtimes = [(site.config.runtime, site.config.threads) for site in here]
    return counted_and_weighed(model, example, runtimes) if here else count_cost(model, example)


def check(sites: Iterable[Site]) -> None:
    """Raise DeviceError where a search could not begin to measure; a profile is a beginning."""
    reach(site for site in sites if site.profile is None)


def reach(sites: Iterable[Site]) -> None:
    """Raise DeviceError where one of them cannot be asked now, or lacks what measuring needs."""
    for site in sites:
        find_target(site.config.runtime).reach(site.config.threads)
