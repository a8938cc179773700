"""Dense models of several runs measured in turns, so that latencies of the runs can be compared.

What is measured at other times differs by what else the machine does. Within a run every model has
its ratio to the run's dense model, measured in turns; the dense models' own ratios are measured
here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoprune._search.measuring.target_devices import (
    FinishedModel,
    TargetDevice,
    check_measurable,
    measured,
)
from autoprune.budget import Cost
from autoprune.cost.inputs import tensors
from autoprune.errors import UsageError
from autoprune.store import RunFolder
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense


def dense_together(
    tasks: Mapping[str, Task], runs: Mapping[str, RunFolder], before: Collection[str] = ()
) -> dict[str, Cost]:
    """The measured costs of the runs' dense models, by the names of both, in turns.

    Raises UsageError where inputs have other shapes, DeviceError where a device is out of reach,
    no device can be measured from here, or not one of those that were measured `before`.
    """
    examples = {name: task.example_input() for name, task in tasks.items()}
    shapes = {name: [list(t.shape) for t in tensors(each)] for name, each in examples.items()}
    first = next(iter(tasks))
    for name, found in shapes.items():
        if found != shapes[first]:
            raise UsageError(f"inputs of {name} are {found}, those of {first} {shapes[first]}")
    config = runs[first].config
    known = runs[first].devices(config.targets)
    targets = [TargetDevice(name, it, known.get(name)) for name, it in config.targets.items()]
    check_measurable(targets, before)
    models = [FinishedModel(load_dense(task).eval()) for task in tasks.values()]
    return dict(zip(tasks, measured(models, examples[first], targets), strict=True))
