"""What a search takes over from an earlier run: profiles, sensitivities, trained trials."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace

from autoprune._search.plan import Plan
from autoprune.architecture import PRECISIONS
from autoprune.config import RunConfig
from autoprune.device.profile import DeviceProfile
from autoprune.errors import StoreError, UsageError
from autoprune.graph import PruningGraph
from autoprune.pruning.sensitivity import RATIOS, Sensitivity
from autoprune.record import REUSED, TrialRecord
from autoprune.space import FittedSpace
from autoprune.store import RunFolder

_ROUNDED = 1.5  # samples by which a share of them may differ
_SAME = 1e-3  # relative difference of the dense model's metrics: rounding, not another model
_LOG = logging.getLogger(__name__)


class EarlierRun:
    """A finished or interrupted run of the same task, by its folder."""

    def __init__(self, config: RunConfig) -> None:
        """That of `config.from_run`. Raises StoreError, or UsageError if it is of another task."""
        self.folder = RunFolder.open(config.from_run or "")
        self.folder.check_single()
        self._before, self._now = self.folder.config, config
        for key in ("task", "task_args"):
            theirs, ours = getattr(self._before, key), getattr(config, key)
            if theirs != ours:
                raise UsageError(
                    f"from_run: {self.folder.path} has {key} {theirs!r}, this search has {ours!r} "
                    "· start it without from_run"
                )

    def profiles(self) -> dict[str, dict[str, DeviceProfile]]:
        """Those of the devices that this search has too, by precision and their names."""
        before = self._before.targets
        same = [
            name
            for name, device in self._now.targets.items()
            if device.profile is None
            and name in before
            and _place(before, name) == _place(self._now.targets, name)
        ]
        parse = DeviceProfile.from_dict
        return {each: self.folder.profiles(same, parse, each) for each in PRECISIONS}

    def check(self, graph: PruningGraph, metrics: Mapping[str, float], samples: int | None) -> None:
        """Raise UsageError unless it was of this very dense model (see `check_same_model`)."""
        if self.folder.groups() is None or self.folder.dense() is None:
            raise StoreError(f"from_run: {self.folder.path} has not got as far as its first trial")
        check_same_model(self.folder, graph, metrics, samples, "from_run")

    def sensitivity(self, plan: Plan) -> Sensitivity | None:
        """Its sensitivities, where they were measured as far down as this space needs them.

        The factor of blocks is that of its own budget: it is to be settled again. An item that was
        fixed in the earlier space, or had a smaller largest ratio, was not measured: then all are
        measured anew.
        """
        found = self.folder.sensitivity(Sensitivity.from_dict)
        short = unmeasured(found, plan.space) if found is not None else []
        if short:
            _LOG.warning(
                "sensitivities are measured anew: %s has none of %s at the widths of this space",
                *(self.folder.path, short[0]),
            )
        return replace(found, block_factor=None) if found is not None and not short else None

    def copy_trials(self, plan: Plan, into: RunFolder) -> int:
        """Take over the trials that say something here, with the models that are in the budget.

        Those are complete or stopped, were trained as long, and the space can express them.
        Returns how many.
        """
        if self._before.search.epochs != plan.epochs:
            _LOG.warning(
                "trials of %s are not used: they had %g epochs, those of this search have %g",
                *(self.folder.path, self._before.search.epochs, plan.epochs),
            )
            return 0
        known = [r for r in self.folder.records() if r.state in ("complete", "stopped")]
        number = 0
        for record in (r for r in known if _is_expressible(r, plan)):
            self._copy(record, number, plan, into)
            number += 1
        return number

    def _copy(self, record: TrialRecord, number: int, plan: Plan, into: RunFolder) -> None:
        cost = plan.cost(record.candidate)
        first = record.origin if record.is_reused else f"{REUSED}{record.number} {record.origin}"
        artifact = None
        if record.artifact is not None and plan.allows(cost):
            artifact = f"models/{number}"
            shutil.copytree(self.folder.model_folder(record), into.path / artifact)
        into.append(
            replace(
                record,
                number=number,
                predicted=cost,
                measured=None,
                artifact=artifact,
                origin=first,
            )
        )


def unmeasured(found: Sensitivity, space: FittedSpace) -> list[str]:
    """The items of a space that were not measured as far down as a measurement for it would.

    Of an item that was fixed in the space it was measured for, only the dense model is known.
    """
    rest = 1.0 - max(RATIOS)
    least = {item: space.nearest(item, rest * space.sizes.get(item, 1)) for item in space.items}
    known = {item: found.counts.get(item, (math.inf,))[0] for item in least}
    return [item for item, count in least.items() if known[item] > count]


def check_same_model(
    folder: RunFolder,
    graph: PruningGraph,
    metrics: Mapping[str, float],
    samples: int | None,
    what: str,
) -> None:
    """Raise UsageError where a run, as far as it got, was of another dense model than this.

    `what` begins the error. Compared are the groups, and the metrics on the validation split of
    `samples`: on another machine, rounding may change what one of them is taken for.
    """
    tolerance = _ROUNDED / samples if samples else 0.0
    groups, dense = folder.groups(), folder.dense()
    if groups is not None and groups.sizes != graph.sizes():
        raise UsageError(
            f"{what}: the model of {folder.path} has other groups than this one · its trials say "
            "nothing of another dense model"
        )
    for name, value in (dense.metrics if dense is not None else {}).items():
        now = metrics.get(name, value)
        if not math.isclose(value, now, rel_tol=_SAME, abs_tol=tolerance):
            raise UsageError(
                f"{what}: the dense model of {folder.path} has {name} {value:.4g}, this one "
                f"{now:.4g} · its trials say nothing of another dense model"
            )


def _place(targets: Mapping[str, object], name: str) -> tuple[object, ...]:
    device = targets[name]
    return tuple(getattr(device, key) for key in ("runtime", "threads", "batch"))


def _is_expressible(record: TrialRecord, plan: Plan) -> bool:
    """Whether the space has the record's settings, widths, blocks, precision and patterns.

    Widths count as in the space between its smallest and its largest, however it rounds.
    """
    architecture, space = record.candidate.architecture, plan.space
    try:
        space.params(record.candidate)
        architecture.complete(space.sizes)
    except ValueError:
        return False
    ends = {name: space.choices(name) for name in architecture.widths}
    return (
        all(ends[name][0] <= count <= ends[name][-1] for name, count in architecture.widths.items())
        and len(architecture.dropped) <= space.most_dropped
        and all(name in space.blocks for name in architecture.dropped)
        and architecture.precision in space.space.precisions
        and space.patterns.allows(architecture.patterns)
    )
