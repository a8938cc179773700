"""The files of a run that are single values: each one read and written here only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from autoprune.architecture import FLOAT32
from autoprune.budget import Device
from autoprune.errors import AutopruneError, StoreError
from autoprune.pareto import ParetoFront
from autoprune.printable import quoted
from autoprune.record import TrialRecord
from autoprune.store import records as lines
from autoprune.store.earlier_names import renamed_record
from autoprune.store.files import checked, first_line, plain, read, read_json, write_json
from autoprune.store.values import (
    DONE,
    DenseReport,
    FrontFile,
    FrontReport,
    Groups,
    Network,
    ProfileSummary,
    RunState,
    SearchPlan,
    StartingState,
)

LAYERS = "layers.json"
STARTING = "starting.json"
SMALLER = "smaller.json"
RECORDS, PLAN, STATE, DENSE, GROUPS, FRONT, IMPORTANCES, SENSITIVITY, ARITHMETIC = (
    "records.jsonl",
    "plan.json",
    "state.json",
    "dense.json",
    "groups.json",
    "front.json",
    "importances.json",
    "sensitivity.json",
    "arithmetic.json",
)
T = TypeVar("T")


def device_file(name: str, precision: str = FLOAT32) -> str:
    """The run's file of a device's profile; `""` is the only device, without a name.

    >>> device_file(""), device_file("phone", "int8")
    ('device.json', 'device-phone.int8.json')
    """
    stem = f"device-{name}" if name else "device"
    return f"{stem}.json" if precision == FLOAT32 else f"{stem}.{precision}.json"


class RunContents:
    """What a run has written so far; every reader raises StoreError where its file is damaged."""

    path: Path

    def records(self) -> tuple[TrialRecord, ...]:
        """All records by rising number; a half-written last line is left out.

        Raises StoreError with the line where the file is damaged.
        """
        found, sizes = self._renamed(lines.read(self.path / RECORDS)), self.sizes()
        for record in found if sizes else ():
            try:
                record.candidate.architecture.complete(sizes)
            except ValueError as error:
                place = f"{self.path / RECORDS}: trial {record.number}"
                raise StoreError(f"{place} does not fit {GROUPS}: {error}") from error
        return found

    def smaller(self) -> tuple[TrialRecord, ...]:
        """The smaller dense models that were trained as baselines; their numbers are below 0."""
        file = self.path / SMALLER
        return self._renamed(lines.read_smaller(file)) if file.exists() else ()

    def save_smaller(self, records: Iterable[TrialRecord]) -> None:
        """Write all of them."""
        write_json(self.path / SMALLER, {"models": list(records)})

    def plan(self) -> SearchPlan | None:
        """What was decided before the first trial."""
        return self._read(PLAN, SearchPlan)

    def save_plan(self, plan: SearchPlan) -> None:
        """Write what was decided before the first trial."""
        write_json(self.path / PLAN, plan)

    def state(self) -> RunState | None:
        """How far the search is."""
        return self._read(STATE, RunState)

    def save_state(self, state: RunState) -> None:
        """Write how far the search is; at its end with the number of lines that records have."""
        if state.phase == DONE:
            state = replace(state, lines=lines.count(self.path / RECORDS))
        write_json(self.path / STATE, state)

    def starting(self) -> StartingState | None:
        """How a search from several starting models has divided its trials."""
        return self._read(STARTING, StartingState)

    def save_starting(self, state: StartingState) -> None:
        """Write how the trials are divided."""
        write_json(self.path / STARTING, state)

    def lost_lines(self) -> int:
        """How many lines of the records are gone since the search ended."""
        state = self.state() or RunState()
        return max(0, state.lines - lines.count(self.path / RECORDS))

    def check_whole(self) -> None:
        """Raise StoreError where a search has ended and a file that it wrote is gone or shorter."""
        if not self.has_front:
            return
        again = f"go on with what is there: autoprune resume {quoted(self.path)}"
        for name in (GROUPS, PLAN, DENSE, STATE):
            if not (self.path / name).exists():
                raise StoreError(f"{self.path / name} is missing beside {FRONT} · {again}")
        lost = self.lost_lines()
        if lost:
            raise StoreError(f"{self.path / RECORDS} lacks {lost} of its lines · {again}")

    def dense(self) -> DenseReport | None:
        """The dense model's metrics and costs."""
        return self._read(DENSE, DenseReport)

    def save_dense(self, dense: DenseReport) -> None:
        """Write the dense model's metrics and costs."""
        write_json(self.path / DENSE, dense)

    def groups(self) -> Groups | None:
        """The groups that can be pruned, and what cannot."""
        return self._read(GROUPS, Groups)

    def sizes(self) -> dict[str, int]:
        """The units of each group of the dense model; empty before they are known."""
        return (self.groups() or Groups()).sizes

    def save_groups(self, groups: Groups) -> None:
        """Write the groups that can be pruned, and what cannot."""
        write_json(self.path / GROUPS, groups)

    def arithmetic(self) -> dict[str, bool] | None:
        """In which precision and memory layout trials are trained: timed once per run."""
        return self._read(ARITHMETIC, dict[str, bool])

    def save_arithmetic(self, arithmetic: Mapping[str, bool]) -> None:
        """Write how trials are trained."""
        write_json(self.path / ARITHMETIC, arithmetic)

    def network(self) -> Network | None:
        """The layers of the dense model and of the front."""
        return self._read(LAYERS, Network)

    def save_network(self, network: Network) -> None:
        """Write the layers of the dense model and of the front."""
        write_json(self.path / LAYERS, network)

    def importances(self) -> dict[str, dict[str, float]] | None:
        """The importance of each search variable, by objective."""
        return self._read(IMPORTANCES, dict[str, dict[str, float]])

    def save_importances(self, importances: Mapping[str, Mapping[str, float]]) -> None:
        """Write the importance of each search variable."""
        write_json(self.path / IMPORTANCES, importances)

    @property
    def has_front(self) -> bool:
        """Whether a search here has ended with a front."""
        return (self.path / FRONT).exists()

    def front(self, records: Iterable[TrialRecord] | None = None) -> FrontReport | None:
        """The front of the search that has ended; `records` where they were read already."""
        stored = self._read(FRONT, FrontFile)
        if stored is None:
            return None
        known = {r.number: r for r in (self.records() if records is None else records)}
        file = self.path / FRONT
        missing = [member.number for member in stored.members if member.number not in known]
        if missing:
            raise StoreError(f"{file} names trial {missing[0]}, which {RECORDS} lacks")
        try:
            front = ParetoFront(
                stored.objectives,
                tuple(known[member.number] for member in stored.members),
                stored.reference,
                stored.source,
                stored.predicted_only,
            )
        except ValueError as error:
            raise StoreError(f"{file} is damaged: {error}") from error
        return FrontReport(front, stored.over_budget_when_measured, stored.not_measured)

    def save_front(self, found: FrontReport) -> None:
        """Write the front of a search that has ended."""
        over = {"over_budget_when_measured": plain(found.over_budget)}
        content = {**found.front.to_dict(), **over, "not_measured": found.not_measured}
        write_json(self.path / FRONT, content)

    def sensitivity(self, parse: Callable[[Mapping[str, Any]], T]) -> T | None:
        """The sensitivity of each group, as `parse` makes it from what `save_sensitivity` wrote."""
        return self._parsed(SENSITIVITY, parse)

    def save_sensitivity(self, content: Mapping[str, Any]) -> None:
        """Write the sensitivity of each group."""
        write_json(self.path / SENSITIVITY, content)

    def profiles(
        self,
        devices: Iterable[str],
        parse: Callable[[Mapping[str, Any]], T],
        precision: str = FLOAT32,
    ) -> dict[str, T]:
        """The device profiles that the run holds by the devices' names, as `parse` makes them."""
        found = ((name, self._parsed(device_file(name, precision), parse)) for name in devices)
        return {name: profile for name, profile in found if profile is not None}

    def profile_summaries(self, devices: Iterable[str]) -> dict[str, ProfileSummary]:
        """What a reader needs of the device profiles that the run holds."""
        return self.profiles(devices, _summary)

    def devices(self, names: Iterable[str]) -> dict[str, Device]:
        """Where the run's device profiles were made."""
        return {name: found.device for name, found in self.profile_summaries(names).items()}

    def save_profile(
        self, device: str, content: Mapping[str, Any], precision: str = FLOAT32
    ) -> None:
        """Write the profile of a device."""
        write_json(self.path / device_file(device, precision), content)

    def _renamed(self, records: tuple[TrialRecord, ...]) -> tuple[TrialRecord, ...]:
        dense = self.dense() if records else None
        return tuple(renamed_record(r, dense.metrics) for r in records) if dense else records

    def _read(self, name: str, wanted: type[T]) -> T | None:
        file = self.path / name
        return read(file, wanted) if file.exists() else None

    def _parsed(self, name: str, parse: Callable[[Mapping[str, Any]], T]) -> T | None:
        """A file through a reader of another room; whatever it stumbles over is damage."""
        file = self.path / name
        if not file.exists():
            return None
        content = checked(read_json(file), dict[str, Any], str(file))
        try:
            return parse(content)
        except AutopruneError as error:
            raise StoreError(f"{file}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise StoreError(f"{file} is damaged: {first_line(error)}") from error


def _summary(content: Mapping[str, Any]) -> ProfileSummary:
    simple = {k: v for k, v in content.items() if not isinstance(v, list | dict)}
    return checked({**content, "facts": simple}, ProfileSummary, "the device profile")
