"""A run's folder: who may write it, and each of its files as a value."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from filelock import FileLock, Timeout

from autoprune.budget import Device
from autoprune.config import RunConfig
from autoprune.errors import AutopruneError, StoreError
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import records as lines
from autoprune.store.files import (
    checked,
    first_line,
    plain,
    printable,
    read,
    read_json,
    write_json,
    write_text,
)
from autoprune.store.models import Recipe, save_model
from autoprune.store.retraining import RetrainingFolder
from autoprune.store.values import (
    DenseReport,
    FrontFile,
    FrontReport,
    Groups,
    ProfileSummary,
    RetrainingSummary,
    RunState,
    SearchPlan,
)

if TYPE_CHECKING:
    from torch import nn

CONFIG, ENVIRONMENT, RECORDS, TABLE = (
    "config.yaml",
    "environment.json",
    "records.jsonl",
    "trials.csv",
)
PLAN, STATE, DENSE, GROUPS, FRONT, IMPORTANCES, SENSITIVITY, REPORT = (
    "plan.json",
    "state.json",
    "dense.json",
    "groups.json",
    "front.json",
    "importances.json",
    "sensitivity.json",
    "report.html",
)
RETRAINED, LOCK = "retrained", ".lock"
T = TypeVar("T")


def device_file(name: str) -> str:
    """The run's file of a device's profile; `""` is the only device, without a name.

    >>> device_file(""), device_file("phone")
    ('device.json', 'device-phone.json')
    """
    return f"device-{name}.json" if name else "device.json"


class RunFolder:
    """One run on disk. Make one with `create`, or `open` one that is there.

    Reading needs no lock; whoever writes holds `writing()`, so that two searches never share a
    folder. What a run does not have yet is read as None. Every reader raises StoreError where a
    file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        """Point at a folder without touching it; prefer `create` and `open`, which check."""
        self.path = Path(path)

    @staticmethod
    def create(
        path: str | Path, config: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> RunFolder:
        """Start a run in a new or empty folder; StoreError when anything is in it."""
        RunFolder.check_free(path)
        folder = RunFolder(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be made: {error.strerror}") from error
        write_json(folder.path / ENVIRONMENT, environment)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(folder.path / CONFIG, text)
        return folder

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raise StoreError unless a run can be made here: the folder is new or empty."""
        folder = RunFolder(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise StoreError(f"{path} is a file · choose another output folder")
        if RunFolder.is_run(path):
            raise StoreError(
                f"{path} holds another run · choose another output folder, or resume it with: "
                f"autoprune resume {path}"
            )
        if folder.path.exists() and any(folder.path.iterdir()):
            raise StoreError(f"{path} is not empty · choose another output folder")

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Whether the folder holds a run."""
        return (Path(path) / CONFIG).is_file()

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """A run that is there; StoreError when the folder holds none."""
        folder = RunFolder(path)
        if not RunFolder.is_run(path):
            what = "is not a run folder" if folder.path.is_dir() else "does not exist"
            raise StoreError(f"{path} {what} (no {CONFIG}) · a run is a folder that search made")
        return folder

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for writing; StoreError while another process holds it.

        The lock ends with the process: a killed writer leaves none. A record that was half written
        when the last writer died is cut off.
        """
        try:
            with FileLock(self.path / LOCK, timeout=0):
                lines.cut_half_line(self.path / RECORDS)
                yield
        except Timeout as error:
            raise StoreError(
                f"{self.path} is being written by another process · wait for it or stop it"
            ) from error

    @property
    def config(self) -> RunConfig:
        """The configuration as it was resolved."""
        file = self.path / CONFIG
        try:
            content = printable(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise StoreError(f"{file} cannot be read: {first_line(error)}") from error
        if not isinstance(content, dict):
            raise StoreError(f"{file} holds no mapping · the run folder is damaged")
        try:
            return RunConfig.from_dict(content, place=str(file), base=self.path, resolved=True)
        except AutopruneError as error:
            raise StoreError(str(error)) from error

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and seeds at the start of the run."""
        return self._read(ENVIRONMENT, dict[str, Any]) or {}

    def append(self, record: TrialRecord) -> None:
        """Add a record; of two with one number the later counts. On disk when this returns."""
        lines.append(self.path / RECORDS, record)

    def records(self) -> tuple[TrialRecord, ...]:
        """All records by rising number; a half-written last line is left out.

        Raises StoreError with the line where the file is damaged.
        """
        found, sizes = lines.read(self.path / RECORDS), self.sizes()
        for record in found if sizes else ():
            try:
                record.candidate.architecture.complete(sizes)
            except ValueError as error:
                place = f"{self.path / RECORDS}: trial {record.number}"
                raise StoreError(f"{place} does not fit {GROUPS}: {error}") from error
        return found

    def write_csv(self) -> Path:
        """Write `trials.csv`: one row a record, every group's ratio and every cost in a column."""
        text = lines.csv_text(self.records(), self.sizes())
        return write_text(self.path / TABLE, text)

    def write_report(self, page: str) -> Path:
        """Write the report's page."""
        return write_text(self.path / REPORT, page)

    def save_model(self, number: int, model: nn.Module, recipe: Recipe) -> str:
        """Save a finished model as `models/<number>`; returns that path, relative to the run."""
        artifact = f"{lines.MODELS}/{number}"
        save_model(self.path / artifact, model, recipe)
        return artifact

    def model_folder(self, record: TrialRecord) -> Path:
        """Where a record's model is saved. Raises StoreError where it has none in this run."""
        if record.artifact is None:
            raise StoreError(
                f"trial {record.number} ({record.state}) has no saved model · retrain it with: "
                f"autoprune retrain {self.path} --pick trial={record.number}"
            )
        folder = self.path / record.artifact
        if not folder.resolve().is_relative_to((self.path / lines.MODELS).resolve()):
            raise StoreError(f"{folder} lies outside {self.path / lines.MODELS}")
        return folder

    def drop_model(self, record: TrialRecord) -> TrialRecord:
        """Remove a record's saved model; the record that says so is appended and returned."""
        if record.artifact is None:
            return record
        folder = self.model_folder(record)
        without = replace(record, artifact=None)
        self.append(without)
        shutil.rmtree(folder, ignore_errors=True)
        return without

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
        """Write how far the search is."""
        write_json(self.path / STATE, state)

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

    def importances(self) -> dict[str, dict[str, float]] | None:
        """The importance of each search variable, by objective."""
        return self._read(IMPORTANCES, dict[str, dict[str, float]])

    def save_importances(self, importances: Mapping[str, Mapping[str, float]]) -> None:
        """Write the importance of each search variable."""
        write_json(self.path / IMPORTANCES, importances)

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
        self, devices: Iterable[str], parse: Callable[[Mapping[str, Any]], T]
    ) -> dict[str, T]:
        """The device profiles that the run holds by the devices' names, as `parse` makes them."""
        found = ((name, self._parsed(device_file(name), parse)) for name in devices)
        return {name: profile for name, profile in found if profile is not None}

    def profile_summaries(self, devices: Iterable[str]) -> dict[str, ProfileSummary]:
        """What a reader needs of the device profiles that the run holds."""
        return self.profiles(devices, _summary)

    def devices(self, names: Iterable[str]) -> dict[str, Device]:
        """Where the run's device profiles were made."""
        return {name: found.device for name, found in self.profile_summaries(names).items()}

    def save_profile(self, device: str, content: Mapping[str, Any]) -> None:
        """Write the profile of a device."""
        write_json(self.path / device_file(device), content)

    def retraining(self, number: int) -> RetrainingFolder:
        """The folder in which a trial is retrained."""
        return RetrainingFolder(self.path / RETRAINED / str(number))

    def retrainings(self) -> tuple[RetrainingSummary, ...]:
        """All finished retrainings, by the number of their trial."""
        folder = self.path / RETRAINED
        there = [RetrainingFolder(path) for path in (folder.iterdir() if folder.is_dir() else ())]
        found = [retraining.summary() for retraining in there if retraining.is_finished]
        return tuple(sorted(found, key=lambda summary: summary.number))

    def _read(self, name: str, wanted: type[T]) -> T | None:
        file = self.path / name
        return read(file, wanted) if file.is_file() else None

    def _parsed(self, name: str, parse: Callable[[Mapping[str, Any]], T]) -> T | None:
        """A file through a reader of another room; whatever it stumbles over is damage."""
        file = self.path / name
        if not file.is_file():
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
