"""The layers of the front's models: how wide they are, and how long each takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from autoprune._search.measuring.verify import MeasurementRig
from autoprune._search.preparing.prepare import Prepared
from autoprune.architecture import INT8
from autoprune.cost.inputs import batched
from autoprune.cost.layer_times import layer_times
from autoprune.cost_fields import field_at, split_field
from autoprune.device.layers import DENSE, SMALLEST, halves, network
from autoprune.errors import ExportError, StoreError
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import LayerInfo, Network, RunFolder

_LOG = logging.getLogger(__name__)


def save_layers(store: RunFolder, ready: Prepared, front: ParetoFront) -> None:
    """Write the layers of the front's models, and how long each takes.

    Estimated is that for the first device with a profile whose latency is an objective or has a
    limit. Measured are float32 models, where a device is ONNX Runtime on this machine.
    """
    goals = (*(o.name for o in front.objectives), *(it.field for it in ready.plan.budget.limits))
    wanted = {split_field(name)[1] for name in goals if name.startswith("latency")}
    known = [target for target in ready.targets if target.profile is not None]
    target = min(known, key=lambda it: it.name not in wanted, default=None)
    predictor = target.profile.predictor if target and target.profile else None
    found = network(
        ready.graph,
        predictor,
        {
            SMALLEST: ready.plan.smallest_architecture,
            **{str(r.number): r.candidate.architecture for r in front.members},
        },
        field_at("latency_ms", target.name) if target else "",
        target.int8.predictor if target and target.int8 else None,
    )
    found = replace(found, halves=halves(ready.graph, predictor))
    store.save_network(_timed(found, store, ready, front))


def _timed(found: Network, store: RunFolder, ready: Prepared, front: ParetoFront) -> Network:
    """With the measured times of the layers; as it is where none of the devices can tell them."""
    rig = ready.rig
    here = (it.config for it in ready.targets if not it.is_offline)
    device = next((each for each in here if each.runtime == "onnxruntime"), None)
    if device is None:
        return found
    members = {str(r.number): r for r in front.members if r.artifact is not None}
    models = dict(found.models)
    inputs = batched(rig.example, device.batch)
    for name, costs in found.models.items():
        try:
            model = rig.dense if name == DENSE else _in_float(rig, store, members.get(name))
            times = layer_times(model, inputs, device.threads) if model is not None else {}
        except (StoreError, ExportError) as error:
            _LOG.warning("the layers of %s are not timed: %s", _named(name), error)
            continue
        if times:
            models[name] = replace(costs, measured=_by_layer(found.layers, times))
    return replace(found, models=models)


def _named(name: str) -> str:
    return f"trial {name}" if name.isdigit() else f"the {name} model"


def _in_float(
    rig: MeasurementRig, store: RunFolder, record: TrialRecord | None
) -> nn.Module | None:
    """The model of a record in float32; None for others, whose operators have no names."""
    if record is None or record.candidate.architecture.precision == INT8:
        return None
    return rig.load(store.model_folder(record)).model


def _by_layer(layers: Sequence[LayerInfo], times: Mapping[str, float]) -> tuple[float | None, ...]:
    """The time of each layer; of those of one module, the first has it."""
    first = {layer.name: place for place, layer in reversed([*enumerate(layers)])}
    return tuple(
        times.get(layer.name) if first[layer.name] == place else None
        for place, layer in enumerate(layers)
    )
