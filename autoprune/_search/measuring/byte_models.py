"""What predicts peak memory and files, in each precision of a search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autoprune._search.measuring.target_devices import ProfiledModel, TargetDevice
from autoprune.architecture import FLOAT32, INT8
from autoprune.cost.activations import COUNTED, PeakMemory
from autoprune.cost.file_size import MARGIN, FileSize
from autoprune.cost.int8_file import Int8File
from autoprune.cost.model import CostModel, LatencyModel
from autoprune.cost_fields import FILE, MEMORY
from autoprune.graph import PruningGraph
from autoprune.quantization import fit_int8_file
from autoprune.tasks.base import Task

_COUNTED = (COUNTED,)


@dataclass(frozen=True)
class ByteModels:
    """By precision: peak memory in each device's runtime, and the size of the file.

    Peak memory is counted, and files are not known, in a precision that is not there.
    """

    memory: Mapping[str, tuple[PeakMemory, ...]] = field(default_factory=dict)
    files: Mapping[str, FileSize | Int8File] = field(default_factory=dict)

    @property
    def margins(self) -> dict[str, float]:
        """By how much upper bounds lie above the predictions, by cost."""
        found = {}
        factors = [fitted.upper_factor for models in self.memory.values() for fitted in models]
        if max(factors, default=1.0) > 1.0:
            found[MEMORY] = max(factors) - 1.0
        if self.files:
            margins = [it.margin for it in self.files.values() if isinstance(it, Int8File)]
            found[FILE] = max([MARGIN, *margins])
        return found

    def costs(
        self, graph: PruningGraph, latency: Mapping[str, LatencyModel], precision: str
    ) -> CostModel:
        """The costs of models in one precision."""
        return CostModel(
            graph,
            latency=latency,
            memory=self.memory.get(precision, _COUNTED),
            file=self.files.get(precision),
            precision=precision,
        )


def peak_memories(
    names: Collection[str],
    model: ProfiledModel,
    targets: Sequence[TargetDevice],
    precisions: Collection[str],
    say: Callable[[str], None],
) -> dict[str, tuple[PeakMemory, ...]]:
    """The peak memory on each device, by precision; none where it is not among `names`."""
    found = {}
    for precision in precisions if MEMORY in names and targets else ():
        say(f"peak memory of random prunings{'' if precision == FLOAT32 else ' in int8'}")
        found[precision] = tuple(target.peak_memory(model, precision) for target in targets)
    return found


def file_sizes(
    names: Collection[str],
    model: ProfiledModel,
    task: Task,
    reference: str,
    precisions: Collection[str],
    say: Callable[[str], None],
) -> dict[str, FileSize | Int8File]:
    """The size of files, by precision; none where it is not among `names`.

    That of float32, as packed with this reference of the task, is there for int8 models too: shares
    are of the dense model's.
    """
    if FILE not in names:
        return {}
    found: dict[str, FileSize | Int8File] = {
        FLOAT32: FileSize.of(model.dense.state_dict(), model.graph, reference)
    }
    if INT8 in precisions:
        say("int8 files of random prunings")
        found[INT8] = fit_int8_file(model.dense, model.graph, task)
    return found
