"""A device profile: predicts the latency of any pruning of one model in one runtime; one file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.budget import Device
from autoprune.cost.inputs import Inputs, batch_size, dtype_of
from autoprune.cost.latency import measure_latency
from autoprune.cost.targets import RUNTIMES, Ssh, is_remote
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sampler, Until, random_architectures
from autoprune.errors import DeviceError, DeviceLostError
from autoprune.graph import Block, Dim, Group, Op, PruningGraph, TensorInfo
from autoprune.printable import quoted
from autoprune.pruning.verification import prunable
from autoprune.store import write_text

FORMAT = 1


@dataclass(frozen=True, eq=False)
class DeviceProfile:
    """Measured prunings of one model on one device, and the prediction fitted to them.

    `versions` are those of the packages that measured. The file holds the sizes of the model's
    operations, so that predicting needs neither the dense model nor the device.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> profile = DeviceProfile.fit(model, torch.zeros(1, 8), runtime="torch", samples=10)
    >>> median_ms, upper_ms = profile.predict(model)
    >>> 0 < median_ms <= upper_ms
    True
    """

    predictor: LatencyPredictor
    graph: PruningGraph
    versions: Mapping[str, str]

    @staticmethod
    def fit(
        model: nn.Module,
        example_inputs: Inputs,
        *,
        runtime: str = "onnxruntime",
        threads: int = 1,
        samples: int = 100,
        seconds: float = 60.0,
        error: float = 0.03,
        seed: int = 0,
        ignored_layers: Iterable[str] = (),
        num_heads: Mapping[str, int] | None = None,
    ) -> DeviceProfile:
        """Measure prunings of the model, here or on the device, and fit.

        At most `samples` of them, for about `seconds`, or until the mean absolute relative error
        on prunings that the fit had not seen is at most `error`.

        At the batch of `example_inputs`, in `runtime` with `threads` threads; the model is left as
        it is. A device over SSH that is lost after 20 prunings is fitted to those. Raises
        DeviceError for a runtime that is missing, too many threads or a device that is too busy,
        GraphError where the model cannot be traced, ValueError for fewer than 10 samples.
        """
        graph = prunable(
            model, example_inputs, ignored_layers=tuple(ignored_layers), num_heads=num_heads
        )
        measure_latency(model, example_inputs, runtime, threads=threads)  # raises on a busy machine
        return DeviceProfile.of(
            LatencyPredictor.fit(
                model,
                graph,
                example_inputs,
                runtime=runtime,
                threads=threads,
                until=Until(samples, seconds, error),
                seed=seed,
            ),
            graph,
        )

    def moved(
        self,
        model: nn.Module,
        example_inputs: Inputs,
        *,
        runtime: str,
        threads: int = 1,
        samples: int = 10,
        seed: int = 0,
        ignored_layers: Iterable[str] = (),
        num_heads: Mapping[str, int] | None = None,
    ) -> DeviceProfile:
        """The model's profile in another runtime, on other threads or another device.

        Only `samples` prunings are measured there; see `LatencyPredictor.moved`. The model is the
        profile's, and the batch and dtype are the profile's too. Raises DeviceError where they are
        not, and as `fit`; ValueError for fewer than 4 samples.
        """
        graph = prunable(
            model, example_inputs, ignored_layers=tuple(ignored_layers), num_heads=num_heads
        )
        own = self.matched(graph, batch=batch_size(example_inputs), dtype=dtype_of(model))
        measure_latency(model, example_inputs, runtime, threads=threads)  # raises on a busy machine
        sampler = Sampler(model, graph, example_inputs, runtime=runtime, threads=threads, seed=seed)
        found = sampler.measure_these(random_architectures(graph, samples, seed))
        faster = found.dense_ms / own.predictor.dense_ms
        checks = [replace(sample, ratio=sample.ratio * faster) for sample in found.samples]
        return DeviceProfile.of(own.predictor.moved(checks, found.device, faster), graph)

    @staticmethod
    def of(predictor: LatencyPredictor, graph: PruningGraph) -> DeviceProfile:
        """The profile of a predictor that was fitted now, with the versions on its device."""
        return DeviceProfile(predictor, graph, _versions(predictor.device.runtime))

    @property
    def device(self) -> Device:
        """The device of the latencies."""
        return self.predictor.device

    def predict(self, smaller_model: nn.Module) -> tuple[float, float]:
        """(median, upper bound) in milliseconds of a pruning of the model, or of the model itself.

        95 % of unseen prunings stay below the upper bound (see `LatencyPredictor.upper_factor`).
        Raises DeviceError where the module is no pruning of the profile's model.
        """
        median = self.predictor.predict(self.counts(smaller_model))
        return median, median * self.predictor.upper_factor

    def counts(self, smaller_model: nn.Module) -> dict[str, int]:
        """The counts of the graph's columns in a pruning of the model."""
        shapes = {name: tuple(p.shape) for name, p in smaller_model.named_parameters()}
        every = self.graph.blocks
        blocks = {b.column: int(any(name in shapes for name in b.tensors)) for b in every}
        dropped = {name for b in every if not blocks[b.column] for name in b.tensors}
        counted: dict[str, int] = {}
        for name, dims in self.graph.parameters.items():
            for dim, size in zip(dims, shapes.get(name, ()), strict=False):
                if len(dim.per_unit) == 1:
                    ((group, per_unit),) = dim.per_unit.items()
                    counted.setdefault(group, (size - dim.fixed) // per_unit)
        sizes = {**self.graph.sizes(), **counted, **blocks}
        for name, dims in self.graph.parameters.items():
            wanted = tuple(dim.size(sizes) for dim in dims)
            if shapes.get(name) != wanted and name not in dropped:
                raise DeviceError(
                    "the model is no pruning of the profile's: "
                    f"{name} has shape {shapes.get(name, 'none')}, expected {wanted}"
                )
        return sizes

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        write_text(Path(path), json.dumps(self.to_dict()))

    @staticmethod
    def load(path: str | Path) -> DeviceProfile:
        """Read what `save` wrote. Raises DeviceError where the file is missing or damaged."""
        file = Path(path)
        if not file.is_file():
            raise DeviceError(
                f"{file} is not a file · make it: autoprune profile TASK -o {quoted(file)}"
            )
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            return DeviceProfile.from_dict(data)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DeviceError(
                f"{file} is not a device profile, or damaged ({type(error).__name__}: {error}) · "
                f"make it again: autoprune profile TASK -o {quoted(file)}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            "profile": FORMAT,
            "versions": dict(self.versions),
            "model": _slim(self.graph),
            **self.predictor.to_dict(),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DeviceProfile:
        """Inverse of `to_dict`. Raises DeviceError for another format."""
        if data.get("profile") != FORMAT:
            raise DeviceError(
                f"a device profile must have format {FORMAT}, got {data.get('profile')!r} · make "
                "it again"
            )
        graph = _graph(data["model"])
        return DeviceProfile(LatencyPredictor.from_dict(data, graph), graph, data["versions"])

    def matched(self, graph: PruningGraph, *, batch: int, dtype: str) -> DeviceProfile:
        """The same for a search on that model; raises DeviceError that says what differs."""
        for what, there, here in (
            ("batch", self.device.batch, batch),
            ("dtype", self.device.dtype, dtype),
        ):
            if there != here:
                raise DeviceError(
                    f"the device profile was made with {what} {there}, here it is {here} · make "
                    "one for this: autoprune profile TASK -o FILE"
                )
        predictor = LatencyPredictor.from_dict(self.predictor.to_dict(), graph)
        return DeviceProfile(predictor, graph, self.versions)


def _versions(runtime: str) -> dict[str, str]:
    found = {"torch": str(torch.__version__)}  # with its build
    if is_remote(runtime):
        with suppress(DeviceLostError):  # its measurements are complete
            found |= Ssh(runtime).versions()
        return found
    for package in (*RUNTIMES[runtime].packages, "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _slim(graph: PruningGraph) -> dict[str, Any]:
    """What sizes depend on: no weights, no indices."""
    table: dict[Dim, int] = {}

    def places(dims: Iterable[Dim]) -> list[int]:
        return [table.setdefault(dim, len(table)) for dim in dims]

    tensors = [[places(t.dims), t.itemsize, t.storage] for t in graph.tensors]
    ops = [
        [op.name, op.layer, list(op.inputs), list(op.outputs), places(op.macs)] for op in graph.ops
    ]
    parameters = {name: places(dims) for name, dims in graph.parameters.items()}
    return {
        "groups": [[group.name, group.kind, group.size] for group in graph.groups],
        "tensors": tensors,
        "ops": ops,
        "parameters": parameters,
        "dims": [[dim.fixed, dict(dim.per_unit)] for dim in table],
        "blocks": [
            [b.name, b.kind, b.addition, sorted(b.calls), b.left, list(b.tensors)]
            for b in graph.blocks
        ],
    }


def _graph(data: Mapping[str, Any]) -> PruningGraph:
    dims = [Dim(fixed, per_unit) for fixed, per_unit in data["dims"]]

    def of(places: Iterable[int]) -> tuple[Dim, ...]:
        return tuple(dims[place] for place in places)

    return PruningGraph(
        groups=tuple(Group(name, kind, size, ()) for name, kind, size in data["groups"]),
        frozen=(),
        ops=tuple(
            Op(name, layer, tuple(inputs), tuple(outputs), (), of(macs))
            for name, layer, inputs, outputs, macs in data["ops"]
        ),
        tensors=tuple(TensorInfo(of(d), itemsize, s) for d, itemsize, s in data["tensors"]),
        parameters={name: of(places) for name, places in data["parameters"].items()},
        buffers={},
        blocks=tuple(
            Block(name, kind, addition, frozenset(calls), left, (), tuple(tensors))
            for name, kind, addition, calls, left, tensors in data["blocks"]
        ),
    )
