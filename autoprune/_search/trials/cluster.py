"""A Ray cluster that is there already: its nodes, and how finished models reach the run folder.

The driver alone writes records and study. A worker writes its finished model into the run folder
where it sees it (the same machine, a shared file system); elsewhere the files travel through Ray's
object store to an actor beside the driver.
"""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from autoprune.config.sections import RayConfig
from autoprune.errors import UsageError
from autoprune.store import TUNE, Recipe, RunFolder, write_text
from autoprune.store.models import receive_model, save_model

_ADDRESS = "RAY_ADDRESS"
_SIGN = ".seen-by-the-driver"
_ASK_S = 60.0  # for a node to answer
_KNOCK_S = 10.0  # for a connection


def address_of(config: RayConfig) -> str | None:
    """The cluster to join; None where a session is started on this machine."""
    return config.address or os.environ.get(_ADDRESS) or None


def knock(address: str) -> None:
    """Raise OSError where nothing accepts connections at `host:port`, or `ray://host:port`.

    Other addresses, such as `auto`, are not looked at.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


class Delivery:
    """Brings finished models into the run folder `path`, from wherever they were trained."""

    def __init__(self, path: str, token: str, receiver: Any) -> None:
        """`token` is what the folder's sign holds; `receiver` is the actor beside the driver."""
        self._path, self._token, self._receiver = path, token, receiver

    @staticmethod
    def open(folder: Path) -> Delivery:
        """Called by the driver, in its Ray session."""
        token = uuid.uuid4().hex
        write_text(folder / TUNE / _SIGN, token)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        receiver = _Receiver.options(  # type: ignore[attr-defined]
            num_cpus=0, scheduling_strategy=here
        ).remote(str(folder))
        return Delivery(str(folder), token, receiver)

    def save(
        self,
        name: str,
        model: nn.Module,
        recipe: Recipe,
        finish: Callable[[Path], None] | None = None,
    ) -> str:
        """Called by a worker: save a finished model, here or beside the driver.

        `finish` may add files to the model's folder.
        """
        if sees(self._path, self._token):
            artifact = RunFolder(self._path).save_model(name, model, recipe)
            if finish is not None:
                finish(Path(self._path) / artifact)
            return artifact
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            save_model(folder, model, recipe)
            if finish is not None:
                finish(folder)
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
        return str(ray.get(self._receiver.take.remote(name, files)))

    def blind_nodes(self) -> list[str]:
        """The names of the nodes that do not see the run folder."""
        asked = {}
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ask = ray.remote(sees).options(num_cpus=0, scheduling_strategy=there)
                asked[node["NodeManagerHostname"]] = ask.remote(self._path, self._token)
        return [name for name, answer in asked.items() if not ray.get(answer, timeout=_ASK_S)]


@ray.remote
class _Receiver:
    """Runs beside the driver."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def take(self, name: str, files: Mapping[str, bytes]) -> str:
        """Write the files of a model; returns its path relative to the run."""
        artifact = f"models/{name}"
        receive_model(self._folder / artifact, files)
        return artifact


def sees(path: str, token: str) -> bool:
    """Whether this process sees the run folder of the driver, not another at the same place."""
    try:
        return (Path(path) / TUNE / _SIGN).read_text(encoding="utf-8") == token
    except OSError:
        return False


def check_rungs(delivery: Delivery, rungs: int, storage: str | None) -> None:
    """Raise UsageError where trials would be paused on a node that cannot keep their state."""
    blind = delivery.blind_nodes() if rungs and storage is None else []
    if blind:
        raise UsageError(
            "search.rungs needs a folder that all nodes see for paused trials, but "
            f"{blind[0]} does not see the run · set search.ray.storage to a shared folder or a "
            "URL, or search.rungs to 0"
        )
