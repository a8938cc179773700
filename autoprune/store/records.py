"""`records.jsonl`: one trial a line, appended; and the same as the rows of a table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autoprune.budget import Cost
from autoprune.cost_fields import cost_fields, field_at
from autoprune.errors import StoreError
from autoprune.record import State, TrialRecord
from autoprune.store.files import (
    check_regular,
    checked,
    parse_json,
    read_json,
    unwritable,
    with_checksum,
)
from autoprune.store.values import CandidateValue

MODELS = "models"


def _inside_models(artifact: str) -> str:
    parts = PurePosixPath(artifact).parts
    inside = len(parts) > 1 and parts[0] == MODELS and ".." not in parts
    if not inside or "\\" in artifact or ":" in artifact:
        raise ValueError(f"must lie inside {MODELS}/ of the run")
    return artifact


Number = Annotated[int, Field(strict=True, ge=0)]
Artifact = Annotated[str, AfterValidator(_inside_models)]


class _Record(BaseModel):
    """A record's types, as they must be in the file."""

    model_config = ConfigDict(frozen=True)

    candidate: CandidateValue
    state: State
    seed: Annotated[int, Field(strict=True)]
    epochs: float
    metrics: dict[str, float]
    history: tuple[dict[str, float], ...]
    predicted: Cost | None
    measured: Cost | None
    error: str | None
    times: dict[str, float]
    artifact: Artifact | None
    origin: str
    optimizer: str = ""

    def record(self) -> TrialRecord:
        return TrialRecord(**{f.name: getattr(self, f.name) for f in fields(TrialRecord)})


class _Line(_Record):
    number: Number


class _Smaller(_Record):
    """A smaller dense model's, which is no trial."""

    number: Annotated[int, Field(strict=True, lt=0)]


def append(file: Path, record: TrialRecord) -> None:
    """Add a record; on disk when this returns."""
    line = json.dumps(with_checksum(record.to_dict()), separators=(",", ":"), allow_nan=False)
    try:
        with file.open("a", encoding="utf-8", newline="\n") as out:
            out.write(line + "\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise unwritable(file, error) from error


def read(file: Path) -> tuple[TrialRecord, ...]:
    """All records by rising number, the later of two with one number.

    A half-written last line is left out. Raises StoreError with the line that is damaged.
    """
    found: dict[int, TrialRecord] = {}
    for number, text in enumerate(_whole_lines(file), start=1):
        try:
            place = f"{file}:{number}"
            line = checked(parse_json(text, place), _Line, place)
        except StoreError as error:
            raise StoreError(f"{error} · remove that line") from error
        found[line.number] = line.record()
    return tuple(found[number] for number in sorted(found))


def read_smaller(file: Path) -> tuple[TrialRecord, ...]:
    """The records of smaller dense models. Raises StoreError where the file is damaged."""
    found = checked(read_json(file), dict[str, list[_Smaller]], str(file))
    return tuple(each.record() for each in found.get("models", ()))


def count(file: Path) -> int:
    """How many whole lines the file has; none where there is no file."""
    return len(_whole_lines(file))


def cut_half_line(file: Path) -> None:
    """Cut off a last line without its end: its writer was killed."""
    if not file.exists():
        return
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(file, whole)


def csv_text(records: Iterable[TrialRecord], sizes: Mapping[str, int]) -> str:
    """The table as CSV with a header."""
    found = list(rows(records, sizes))
    columns = list(dict.fromkeys(column for row in found for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(_FIRST), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def rows(records: Iterable[TrialRecord], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """One row a record: every metric, cost, setting and pruning ratio in its own column.

    `sizes` are the units of each group of the dense model; without any there are no ratios.
    """
    for record in records:
        yield _row(record, sizes)


def _whole_lines(file: Path) -> list[str]:
    check_regular(file)
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}") from error
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", errors="replace").split("\n")[:-1]


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
    architecture = record.candidate.architecture
    row |= {"dropped": " ".join(architecture.dropped), "precision": architecture.precision}
    row |= {f"pattern.{name}": pattern for name, pattern in architecture.patterns.items()}
    last = record.history[-1] if record.history else {}
    row["file_bytes"] = last.get("file_bytes")
    ratios = architecture.removed(sizes) if sizes else {}
    row |= {f"ratio.{name}": ratio for name, ratio in ratios.items()}
    row["error"] = record.error.splitlines()[0] if record.error else None
    return {**row, "artifact": record.artifact, "key": record.candidate.key}
