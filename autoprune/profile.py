"""What the dense model costs: in all, layer by layer, and in each runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoprune.budget import Cost
from autoprune.config import RunConfig
from autoprune.cost.analytic import count_cost
from autoprune.cost.inputs import batched
from autoprune.cost.latency import Latency, measured_or_flagged
from autoprune.cost.layer_times import layer_times
from autoprune.cost.targets import find_target
from autoprune.device.profile import DeviceProfile
from autoprune.graph import PruningGraph
from autoprune.graph.types import Block, Frozen, Group
from autoprune.pruning.restrictions import Restrictions, restricted_by
from autoprune.pruning.verification import prunable
from autoprune.tasks.base import Task
from autoprune.tasks.load import built


@dataclass(frozen=True)
class Layer:
    """One layer that holds parameters: what it costs, and the group that its outputs belong to.

    A parameter of the model itself is a layer of its name. `ms` is its time in a pass in ONNX
    Runtime by `layer_times`, None where it has no operator of its own (it is fused into another).
    `group` has `units` prunable units, of which each is `channels` of this layer's outputs, such as
    a head of attention; both are empty where the outputs are not prunable.
    """

    name: str
    params: int
    macs: int
    group: str = ""
    units: int = 0
    channels: int = 1
    ms: float | None = None


@dataclass(frozen=True)
class Profile:
    """The dense model of a task before any pruning.

    `memory` is the measured peak by runtime, None where it does not tell; `restrictions` what the
    configuration keeps or bounds, `other_ms` the time in ONNX Runtime of all that is no layer.
    """

    cost: Cost
    latencies: tuple[Latency, ...]
    memory: tuple[tuple[str, int | None], ...]
    layers: tuple[Layer, ...]
    frozen: tuple[Frozen, ...]
    blocks: tuple[Block, ...] = ()
    restrictions: Restrictions = field(default_factory=Restrictions)
    other_ms: float | None = None


def profile(
    task: Task,
    *,
    runtimes: Sequence[str] = ("torch", "onnxruntime"),
    threads: int = 1,
    batch: int = 1,
    config: RunConfig | None = None,
) -> Profile:
    """Count, trace and time the dense architecture; weights do not matter and are not loaded.

    With `config`, `keep` and `bounds` of it are applied to the groups (ConfigError where a pattern
    matches nothing).

    Counts are for one example input, latencies and memory for `batch` of them. Raises DeviceError
    for a runtime that is missing, or a batch that the example cannot be repeated to, GraphError
    where the model cannot be traced.
    """
    model, example = built(task).eval(), task.example_input()
    graph = prunable(model, example, ignored_layers=task.ignored_layers, num_heads=task.num_heads)
    restricted = restricted_by(config, graph, config.space) if config else Restrictions()
    inputs = batched(example, batch)
    layers, rest = layers_of(graph), None
    if "onnxruntime" in runtimes:
        layers, rest = _timed(layers, layer_times(model, inputs, threads))
    return Profile(
        cost=count_cost(model, example),
        latencies=tuple(
            measured_or_flagged([model], inputs, runtime, threads)[0] for runtime in runtimes
        ),
        memory=tuple(
            (runtime, find_target(runtime).peak_memory(model, inputs, threads))
            for runtime in runtimes
        ),
        layers=layers,
        frozen=graph.frozen,
        blocks=graph.blocks,
        restrictions=restricted,
        other_ms=rest,
    )


def fit_device(
    task: Task, runtime: str, *, threads: int = 1, batch: int = 1, samples: int = 100
) -> DeviceProfile:
    """Measure random prunings of the dense architecture in `runtime`, here or remote, and fit.

    Raises DeviceError for a runtime that is missing or cannot be reached, a batch that the example
    cannot be repeated to, or a device that is too busy.
    """
    return DeviceProfile.fit(
        built(task).eval(),
        batched(task.example_input(), batch),
        runtime=runtime,
        threads=threads,
        samples=samples,
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )


def move_device(
    task: Task,
    profile: DeviceProfile,
    runtime: str,
    *,
    threads: int = 1,
    samples: int = 10,
) -> DeviceProfile:
    """A profile of the same dense architecture in another runtime, from few measurements there.

    At the batch of the given one. Raises DeviceError as `fit_device`, and where the profile is of
    another model.
    """
    return profile.moved(
        built(task).eval(),
        batched(task.example_input(), profile.device.batch),
        runtime=runtime,
        threads=threads,
        samples=samples,
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )


def layers_of(graph: PruningGraph) -> tuple[Layer, ...]:
    """The layers with parameters, in execution order; a parameter that is shared counts once."""
    sizes = graph.sizes()
    group_of = {
        part.tensor.rpartition(".")[0]: (group, part.indices.shape[1])
        for group in graph.groups
        for part in group.slices
        if part.role == "out"
    }
    seen: set[str] = set()
    params: dict[str, int] = {}
    macs: dict[str, int] = {}
    for op in graph.ops:
        own = [name for name in op.parameters if name in graph.parameters]
        if not own and not op.macs:
            continue
        fresh = [name for name in own if name not in seen]
        seen.update(fresh)
        held = sum(math.prod(d.size(sizes) for d in graph.parameters[name]) for name in fresh)
        layer = op.layer or ", ".join(own) or op.name
        params[layer] = params.get(layer, 0) + held
        done = math.prod(dim.size(sizes) for dim in op.macs) if op.macs else 0
        macs[layer] = macs.get(layer, 0) + done
    return tuple(
        Layer(name, params[name], macs[name], *_group(group_of.get(name))) for name in params
    )


def _timed(
    layers: Sequence[Layer], times: Mapping[str, float]
) -> tuple[tuple[Layer, ...], float | None]:
    """The layers with their times, and the time of everything else; None without any times."""
    timed = tuple(replace(layer, ms=times.get(layer.name)) for layer in layers)
    rest = sum(times.values()) - sum(layer.ms or 0.0 for layer in timed)
    return timed, max(0.0, rest) if times else None


def _group(found: tuple[Group, int] | None) -> tuple[str, int, int]:
    """The name of a layer's group, its units, and channels of the layer in each."""
    return (found[0].name, found[0].size, found[1]) if found else ("", 0, 1)
