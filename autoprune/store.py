"""The run folder: one place for everything that a run leaves, safe to kill at any moment.

Files that are replaced are written beside and renamed; records are appended and synced one line at
a time. Nothing in it is a pickle.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.fields import cost_fields, field_at
from autoprune.record import TrialRecord

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 1
CONFIG, ENVIRONMENT, RECORDS, TABLE = (
    "config.yaml",
    "environment.json",
    "records.jsonl",
    "trials.csv",
)
GROUPS = "groups.json"
RECIPE, WEIGHTS = "candidate.json", "weights.safetensors"


def device_file(name: str) -> str:
    """The run's file of a device's profile; `""` is the only device, without a name.

    >>> device_file(""), device_file("phone")
    ('device.json', 'device-phone.json')
    """
    return f"device-{name}.json" if name else "device.json"


class RunFolder:
    """One run on disk. Make one with `create`, or `open` one that is there.

    Reading needs no lock; whoever writes holds `writing()`, so that two searches never share a
    folder.
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
        folder.write_json(ENVIRONMENT, environment)
        folder.write_text(CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        return folder

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raise StoreError unless a run can be made here: the folder is new or empty."""
        folder = RunFolder(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise StoreError(f"{path} is a file · choose another output folder")
        if (folder.path / CONFIG).exists():
            raise StoreError(
                f"{path} holds another run · choose another output folder, or go on with: "
                f"autoprune resume {path}"
            )
        if folder.path.exists() and any(folder.path.iterdir()):
            raise StoreError(f"{path} is not empty · choose another output folder")

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """A run that is there; StoreError when the folder holds none."""
        folder = RunFolder(path)
        if not (folder.path / CONFIG).is_file():
            what = "is not a run folder" if folder.path.is_dir() else "does not exist"
            raise StoreError(f"{path} {what} (no {CONFIG}) · a run is a folder that search made")
        return folder

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for writing; StoreError while another process holds it.

        The lock goes with the process: a killed writer leaves none. A record that was half written
        when the last writer died is cut off.
        """
        with (self.path / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"{self.path} is being written by another process · wait for it or stop it"
                ) from error
            self._cut_half_line()
            yield

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        try:
            content = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise StoreError(f"{self.path / CONFIG} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise StoreError(f"{self.path / CONFIG} holds no mapping · the run folder is damaged")
        return content

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and seeds at the start of the run."""
        return dict(self.read_json(ENVIRONMENT))

    def append(self, record: TrialRecord) -> None:
        """Add a record; of two with one number the later counts. On disk when this returns."""
        line = json.dumps(record.to_dict(), separators=(",", ":"), allow_nan=False)
        with (self.path / RECORDS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> tuple[TrialRecord, ...]:
        """All records by rising number; a half-written last line is left out.

        Raises StoreError with the line where the file is damaged.
        """
        found: dict[int, TrialRecord] = {}
        for number, line in enumerate(self._lines(), start=1):
            try:
                record = TrialRecord.from_dict(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                place = f"{self.path / RECORDS}:{number}"
                raise StoreError(f"{place} is damaged ({error}) · remove that line") from error
            found[record.number] = record
        return tuple(found[number] for number in sorted(found))

    def write_text(self, name: str, text: str) -> Path:
        """Replace a file in one step: readers see the old or the new content, never a part."""
        return write_text(self.path / name, text)

    def write_json(self, name: str, content: object) -> Path:
        """Replace a JSON file in one step."""
        return self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; StoreError where it is missing or damaged."""
        return _read_json(self.path / name)

    def profiles(self, devices: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The device profiles that the run holds, by the names of the devices."""
        there = {name: device_file(name) for name in devices}
        return {n: self.read_json(f) for n, f in there.items() if (self.path / f).is_file()}

    def sizes(self) -> dict[str, int]:
        """The units of each group of the dense model; empty before they are known."""
        if not (self.path / GROUPS).is_file():
            return {}
        return {group["name"]: group["size"] for group in self.read_json(GROUPS)["groups"]}

    def write_csv(self) -> Path:
        """Write `trials.csv`: one row a record, every group's ratio and every cost in a column."""
        rows = [_row(record, self.sizes()) for record in self.records()]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns or list(_FIRST), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_text(TABLE, text.getvalue())

    def save_model(self, number: int, model: nn.Module, recipe: Mapping[str, Any]) -> str:
        """Save a finished model as `models/<number>`; returns that path, relative to the run.

        `recipe` as `recipe_of` makes it.
        """
        artifact = f"models/{number}"
        save_model(self.path / artifact, model, recipe)
        return artifact

    def drop_model(self, record: TrialRecord) -> TrialRecord:
        """Remove a record's saved model; the record that says so is appended and returned."""
        if record.artifact is None:
            return record
        without = replace(record, artifact=None)
        self.append(without)
        shutil.rmtree(self.path / record.artifact, ignore_errors=True)
        return without

    def _lines(self) -> list[str]:
        try:
            text = (self.path / RECORDS).read_bytes()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        return whole.decode("utf-8", errors="replace").splitlines()

    def _cut_half_line(self) -> None:
        file = self.path / RECORDS
        if not file.exists():
            return
        text = file.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(file, whole)


def write_text(path: Path, text: str) -> Path:
    """Replace a file in one step (write beside, sync, rename); returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def recipe_of(
    candidate: Candidate,
    kept_indices: Mapping[str, Sequence[int]],
    *,
    task: str,
    task_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How a saved model is built again from the task's dense one: what is built, of which units."""
    return {
        "format": FORMAT,
        "task": task,
        "task_args": dict(task_args or {}),
        "candidate": candidate.to_dict(),
        "kept_indices": {
            name: [int(index) for index in kept_indices[name]]
            for name in candidate.architecture.widths
        },
    }


def save_model(path: Path, model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Write a model's recipe and weights as a folder that appears whole or not at all.

    Tensors that share memory are written once; the recipe's `tied` says who shares with whom.
    """
    from safetensors.torch import save_file

    tensors, tied = _untied(model.state_dict())
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        save_file(tensors, beside / WEIGHTS)
        (beside / WEIGHTS).chmod(0o644)
        write_text(beside / RECIPE, json.dumps({**recipe, "shapes": shapes, "tied": tied}) + "\n")
        beside.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def read_model(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A saved model's recipe and its full state dict; StoreError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if not (folder / RECIPE).is_file():
        raise StoreError(f"{folder} holds no saved model (no {RECIPE})")
    recipe = _read_json(folder / RECIPE)
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        found = recipe.get("format") if isinstance(recipe, dict) else None
        raise StoreError(f"{folder / RECIPE} must have format {FORMAT}, got {found!r}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    state = {**tensors, **{alias: tensors[name] for alias, name in recipe["tied"].items()}}
    return recipe, state


def _untied(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    seen: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            tied[name] = seen[key]
        else:
            seen[key] = name
            tensors[name] = tensor.detach().to("cpu").clone().contiguous()
    return tensors, tied


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


_FIRST = ("number", "state", "origin", "seed", "epochs", "optimizer")


def _row(record: TrialRecord, sizes: Mapping[str, int]) -> dict[str, Any]:
    candidate = record.candidate.to_dict()
    row = {name: getattr(record, name) for name in _FIRST}
    row |= {f"metric.{name}": value for name, value in record.metrics.items()}
    costs = {"predicted": record.predicted, "measured": record.measured}
    devices = list(dict.fromkeys(name for cost in costs.values() if cost for name in cost.names))
    for source, cost in costs.items():
        fields = cost_fields(devices)
        row |= {f"{source}.{name}": cost.value(name) if cost else None for name in fields}
    for name in devices or [""]:
        found = (cost.device_of(name) for cost in (record.measured, record.predicted) if cost)
        device = next((known for known in found if known), None)
        row[field_at("device", name)] = str(device) if device else None
        sure = record.measured.confidence_of(name) if record.measured else None
        row[field_at("measured.ratio_to_dense", name)] = sure.ratio if sure else None
        row[field_at("measured.noise", name)] = (sure.note or None) if sure else None
    row |= {f"time.{name}": value for name, value in record.times.items()}
    row |= candidate["selection"]
    for section in ("schedule", "recovery"):
        row |= {f"{section}.{name}": value for name, value in candidate[section].items()}
    widths = candidate["architecture"]["widths"]
    row |= {f"ratio.{name}": 1.0 - widths.get(name, size) / size for name, size in sizes.items()}
    row["error"] = record.error.splitlines()[0] if record.error else None
    return {**row, "artifact": record.artifact, "key": record.candidate.key}
