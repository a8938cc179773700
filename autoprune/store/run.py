"""A run's folder: made, opened and locked; its configuration, records, models, retrainings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from autoprune.config import RunConfig
from autoprune.config.limited_yaml import read_yaml
from autoprune.errors import AutopruneError, StoreError
from autoprune.printable import printable, quoted
from autoprune.record import TrialRecord
from autoprune.store import records as lines
from autoprune.store.contents import RECORDS, STARTING, RunContents
from autoprune.store.files import check_regular, write_json, write_text
from autoprune.store.models import Recipe, save_model
from autoprune.store.quantization import QuantizationReport, model_name, read_quantization
from autoprune.store.retraining import RetrainingFolder
from autoprune.store.values import RetrainingSummary

if TYPE_CHECKING:
    from torch import nn

CONFIG, ENVIRONMENT, TABLE, REPORT = (
    "config.yaml",
    "environment.json",
    "trials.csv",
    "report.html",
)
RETRAINED, LOCK, STUDY, STARTS = "retrained", ".lock", "study.db", "starts"


class RunFolder(RunContents):
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
    @contextmanager
    def claim(path: str | Path) -> Iterator[None]:
        """Hold a new or empty folder for a run to be made in it; it is gone if none was made.

        Raises StoreError where the folder is not free, cannot be made, or is held by another.
        """
        RunFolder.check_free(path)
        folder = RunFolder(path)
        missing = [each for each in (folder.path, *folder.path.parents) if not each.exists()]
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be made: {error.strerror}") from error
        try:
            with folder.writing():
                yield
        finally:
            if not RunFolder.is_run(path):
                (folder.path / LOCK).unlink(missing_ok=True)
                for each in missing:
                    with suppress(OSError):  # another has written there meanwhile
                        each.rmdir()

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raise StoreError unless a run can be made here: the folder is new or empty."""
        folder = RunFolder(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise StoreError(f"{path} is a file · choose another output folder")
        if RunFolder.is_run(path):
            raise StoreError(
                f"{path} holds another run · choose another output folder, or resume it with: "
                f"autoprune resume {quoted(path)}"
            )
        others = folder.path.iterdir() if folder.path.exists() else ()
        if any(each.name != LOCK for each in others):
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
        self._check_own()
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"{self.path} is being written by another process · wait for it or stop it"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            lines.cut_half_line(self.path / RECORDS)
            yield
        finally:
            lock.release()

    def _check_own(self) -> None:
        """Raise StoreError where what is written in place is a link, or no file."""
        for name in (LOCK, RECORDS, STUDY, lines.MODELS, RETRAINED, STARTS):
            file = self.path / name
            if file.is_symlink():
                raise StoreError(f"{file} must not be a link: what is written would go elsewhere")
            if name not in (lines.MODELS, RETRAINED, STARTS):
                check_regular(file)

    def check_single(self) -> None:
        """Raise StoreError where the folder holds runs from several starting models."""
        names = self.config.starting_models
        if names:
            places = ", ".join(str(self.starting_model(name).path) for name in names)
            raise StoreError(
                f"{self.path} holds several runs · name one of {places} (from Python, for all: "
                "resume_starting_models, verify_starting_models, JointFront)"
            )

    def discard(self) -> None:
        """Remove what says that this is a run: none has begun in it."""
        for name in (CONFIG, ENVIRONMENT, STARTING):
            (self.path / name).unlink(missing_ok=True)

    @property
    def config(self) -> RunConfig:
        """The configuration as it was resolved; its output is where the run lies now."""
        file = self.path / CONFIG
        try:
            content = printable(read_yaml(file, str(file)))
            if not isinstance(content, dict):
                raise StoreError(f"{file} holds no mapping · the run folder is damaged")
            here = {**content, "output": str(self.path.resolve())}
            return RunConfig.from_dict(here, place=str(file), base=self.path, resolved=True)
        except StoreError:
            raise
        except AutopruneError as error:
            raise StoreError(str(error)) from error

    def save_config(self, config: RunConfig) -> None:
        """Replace the configuration: a search is given other limits."""
        write_text(self.path / CONFIG, config.to_yaml())

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and seeds at the start of the run."""
        return self._read(ENVIRONMENT, dict[str, Any]) or {}

    def append(self, record: TrialRecord) -> None:
        """Add a record; of two with one number the later counts. On disk when this returns."""
        lines.append(self.path / RECORDS, record)

    def write_csv(self) -> Path:
        """Write `trials.csv`: one row a record, every group's ratio and every cost in a column."""
        text = lines.csv_text(self.records(), self.sizes())
        return write_text(self.path / TABLE, text)

    def write_report(self, page: str) -> Path:
        """Write the report's page."""
        return write_text(self.path / REPORT, page)

    def save_model(self, name: int | str, model: nn.Module, recipe: Recipe) -> str:
        """Save a finished model as `models/<name>`; returns that path, relative to the run."""
        artifact = f"{lines.MODELS}/{name}"
        save_model(self.path / artifact, model, recipe)
        return artifact

    def model_folder(self, record: TrialRecord) -> Path:
        """Where a record's model is saved. Raises StoreError where it has none in this run."""
        if record.artifact is None:
            raise StoreError(
                f"trial {record.number} ({record.state}) has no saved model · retrain it with: "
                f"autoprune retrain {quoted(self.path)} --pick trial={record.number}"
            )
        folder = self.path / record.artifact
        if not folder.resolve().is_relative_to((self.path / lines.MODELS).resolve()):
            raise StoreError(f"{folder} lies outside {self.path / lines.MODELS}")
        return folder

    def model_bytes(self, record: TrialRecord) -> int:
        """What a record's saved model takes on disk."""
        files = self.model_folder(record).glob("*") if record.artifact else ()
        return sum(file.stat().st_size for file in files if file.is_file())

    def newest_model(self, record: TrialRecord) -> Path:
        """Where its retrained model (of the first seed) is saved, or else its own."""
        retrained = self.retraining(record.number)
        return retrained.first_model if retrained.is_finished else self.model_folder(record)

    def quantizations(self, record: TrialRecord) -> dict[str, QuantizationReport]:
        """What quantizing a trial's model gave, and its retrained one, each by `model_name`."""
        folders = [self.model_folder(record)] if record.artifact else []
        retrained = self.retraining(record.number)
        folders += [retrained.first_model] if retrained.is_finished else []
        return {
            model_name(record.number, retrained.seed_at(folder)): report
            for folder in folders
            if (report := read_quantization(folder)) is not None
        }

    def drop_model(self, record: TrialRecord) -> TrialRecord:
        """Remove a record's saved model; the record that says so is appended and returned."""
        if record.artifact is None:
            return record
        folder = self.model_folder(record)
        without = replace(record, artifact=None)
        self.append(without)
        shutil.rmtree(folder, ignore_errors=True)
        return without

    def starting_model(self, name: str) -> RunFolder:
        """The run from one starting model, in the folder of a search from several.

        Raises StoreError for a link: what is written would go elsewhere.
        """
        path = self.path / STARTS / name
        for each in (path.parent, path):
            if each.is_symlink():
                raise StoreError(f"{each} must not be a link: what is written would go elsewhere")
        return RunFolder(path)

    def retraining(self, number: int) -> RetrainingFolder:
        """The folder in which a trial is retrained."""
        return RetrainingFolder(self.path / RETRAINED / str(number))

    def retrainings(self) -> tuple[RetrainingSummary, ...]:
        """All finished retrainings, by the number of their trial."""
        folder = self.path / RETRAINED
        there = [RetrainingFolder(path) for path in (folder.iterdir() if folder.is_dir() else ())]
        found = [retraining.summary() for retraining in there if retraining.is_finished]
        return tuple(sorted(found, key=lambda summary: summary.number))
