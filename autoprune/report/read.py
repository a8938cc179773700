"""Run folder → `RunView`; files that are not there yet leave their part empty."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.architecture import BLOCK
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.report.data import RunView
from autoprune.store import (
    DONE,
    DenseReport,
    FrontReport,
    Groups,
    ProfileSummary,
    RunFolder,
    RunState,
    SearchPlan,
)


def read(run: RunFolder | str | Path) -> RunView:
    """Read a run, finished or not. Raises StoreError where a file is damaged."""
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    folder.check_single()
    folder.check_whole()
    config, records, plan = folder.config, folder.records(), folder.plan()
    stored, state, groups = folder.front(records), folder.state(), folder.groups() or Groups()
    known: dict[str, ProfileSummary] = folder.profile_summaries(config.targets)
    return RunView(
        name=folder.path.resolve().name,
        config=config,
        environment=folder.environment,
        devices={name: known.get(name) for name in config.targets},
        records=records,
        front=_front(stored, plan, records),
        finished=stored is not None and (state or RunState(DONE)).phase == DONE,
        dense=folder.dense() or DenseReport(),
        groups=groups.sizes,
        frozen=groups.frozen,
        retrained=folder.retrainings(),
        importances=folder.importances() or {},
        wall_s=state.elapsed_s if state else None,
        not_measured=stored.not_measured if stored else None,
        over=stored.over_budget if stored else {},
        plan=plan,
        blocks=tuple(block.name for block in groups.blocks),
        network=folder.network(),
        ended_by=state.ended_by if state else "",
        folder=relative(folder.path),
        sensitivity=folder.sensitivity(_at_half) or {},
        smaller=folder.smaller(),
        quantized={r.number: found for r in records if (found := folder.quantizations(r))},
    )


def _at_half(found: Mapping[str, Any]) -> dict[str, float]:
    """The sensitivity of each measured group at half of its width, between the measured ones."""
    widths, rises = found["kept"], found["damage"]
    factor = found.get("block_factor") or 1.0
    several = [name for name in widths if len(widths[name]) > 1]
    return {
        n: float(np.interp(widths[n][-1] / 2, widths[n], rises[n]))
        * (factor if n.startswith(BLOCK) else 1.0)
        for n in several
    }


def relative(path: Path, start: Path | None = None) -> str:
    """A path from the working directory, or from `start`; only the name where there is no way."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # another drive
        return path.resolve().name


def _front(
    stored: FrontReport | None, plan: SearchPlan | None, records: tuple[TrialRecord, ...]
) -> ParetoFront | None:
    """The stored front, or that of the records so far while the search is still in progress."""
    if stored is not None:
        return stored.front
    if plan is None:
        return None
    return ParetoFront(plan.objectives, records, plan.reference)
