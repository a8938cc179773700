"""What a program is told of a running search; MLflow and TensorBoard are two that are ready."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import STARTS, SearchPlan

_LOG = logging.getLogger(__name__)
_COUNTS = ("macs", "params", "weight_bytes", "peak_memory_bytes", "latency_ms")


class Callback:
    """Override what is needed; all methods are called in the process that searches.

    An exception is logged, and the search goes on.
    """

    def on_start(self, config: RunConfig, plan: SearchPlan, folder: Path) -> None:
        """Before the first trial; the run's `folder` exists."""

    def on_trial(self, record: TrialRecord, front: ParetoFront) -> None:
        """After each trial that ended; `front` is the one by predicted cost so far."""

    def on_end(self, front: ParetoFront, folder: Path) -> None:
        """After the front was measured and everything is in `folder`.

        Not where nothing began: `resume` of a finished search only reads it.
        """

    def on_stop(self, folder: Path) -> None:
        """Instead of `on_end`, where the search was interrupted or has failed."""


@dataclass(frozen=True)
class Callbacks:
    """Several callbacks as one; what one of them raises is logged."""

    each: Sequence[Callback]

    def on_start(self, config: RunConfig, plan: SearchPlan, folder: Path) -> None:
        """Tell all of them."""
        self._tell(lambda callback: callback.on_start(config, plan, folder))

    def on_trial(self, record: TrialRecord, front: ParetoFront) -> None:
        """Tell all of them."""
        self._tell(lambda callback: callback.on_trial(record, front))

    def on_end(self, front: ParetoFront, folder: Path) -> None:
        """Tell all of them."""
        self._tell(lambda callback: callback.on_end(front, folder))

    def on_stop(self, folder: Path) -> None:
        """Tell all of them."""
        self._tell(lambda callback: callback.on_stop(folder))

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in self.each:
            try:
                call(callback)
            except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
                name = type(callback).__name__
                _LOG.warning("%s: %s: %s", name, type(error).__name__, error, exc_info=True)


class TensorBoard(Callback):
    """Scalars by trial number into `tensorboard/` of the run, or another folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self._writer_class = _needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def on_start(self, config: RunConfig, plan: SearchPlan, folder: Path) -> None:
        """Open the file, and write the configuration."""
        self._writer = self._writer_class(str(self._folder or folder / "tensorboard"))
        self._writer.add_text("configuration", f"```\n{config.to_yaml()}\n```")

    def on_trial(self, record: TrialRecord, front: ParetoFront) -> None:
        """A point in each curve."""
        for name, value in _scalars(record, front).items():
            self._writer.add_scalar(name, value, record.number)
        self._writer.flush()

    def on_end(self, front: ParetoFront, folder: Path) -> None:
        """Close the file."""
        self.on_stop(folder)

    def on_stop(self, folder: Path) -> None:
        """Close the file, if it was opened."""
        if self._writer is not None:
            self._writer.close()


class MLflow(Callback):
    """One MLflow run for each search: parameters, metrics by trial, files of the run at the end.

    It goes where MLflow is told to (`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`).
    """

    def __init__(self) -> None:
        self._mlflow = _needed("mlflow", "mlflow")
        self._is_running = False

    def on_start(self, config: RunConfig, plan: SearchPlan, folder: Path) -> None:
        """Begin the run."""
        self._mlflow.start_run(run_name=_name(folder))
        self._is_running = True
        flat = _flat(config.to_dict())
        self._mlflow.log_params({name: str(value)[:500] for name, value in flat.items()})

    def on_trial(self, record: TrialRecord, front: ParetoFront) -> None:
        """A point in each curve."""
        if not self._is_running:  # MLflow would begin a run by itself
            return
        scalars = {name.replace("@", "_on_"): v for name, v in _scalars(record, front).items()}
        self._mlflow.log_metrics(scalars, step=record.number)

    def on_end(self, front: ParetoFront, folder: Path) -> None:
        """Add the files, and end the run, if it was begun."""
        if not self._is_running:
            return
        for name in ("config.yaml", "plan.json", "front.json", "trials.csv"):
            if (folder / name).is_file():
                self._mlflow.log_artifact(str(folder / name))
        self._end("FINISHED")

    def on_stop(self, folder: Path) -> None:
        """End the run as failed, if it was begun."""
        self._end("FAILED")

    def _end(self, status: str) -> None:
        if self._is_running:
            self._mlflow.end_run(status=status)
        self._is_running = False


TRACKERS: Mapping[str, Callable[[], Callback]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def trackers(names: Sequence[str]) -> list[Callback]:
    """Those that a configuration names. Raises UsageError for a package that is missing."""
    return [TRACKERS[name]() for name in names]


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{extra} is not installed · pip install 'autoprune[{extra}]' ({error})"
        ) from error


def _name(folder: Path) -> str:
    """The folder of a search; of one starting model after that of the whole search."""
    whole = folder.parent.parent
    return f"{whole.name}/{folder.name}" if folder.parent.name == STARTS else folder.name


def _scalars(record: TrialRecord, front: ParetoFront) -> dict[str, float]:
    found = {f"metric/{name}": value for name, value in record.metrics.items()}
    cost = record.predicted
    for name in (*_COUNTS, *(o.name for o in front.objectives if "@" in o.name)):
        value = cost.value(name) if cost is not None else None
        if value is not None:
            found[f"predicted/{name}"] = float(value)
    found["front/members"] = float(len(front))
    if front.reference is not None:
        found["front/hypervolume"] = front.hypervolume
    return found


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
