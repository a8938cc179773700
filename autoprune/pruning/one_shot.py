"""`prune_model` and `groups`: from a model to a smaller one in one call."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.errors import UsageError
from autoprune.graph import Group, PruningGraph, trace
from autoprune.graph.outputs import tensors_in
from autoprune.graph.trace import Inputs, as_call, set_training, untouched
from autoprune.graph.types import Attribute
from autoprune.pruning import importance as importances
from autoprune.pruning import refit as fitting
from autoprune.pruning import surgery
from autoprune.pruning.build import build
from autoprune.pruning.compensate import Calibration
from autoprune.pruning.depth import verify_blocks
from autoprune.pruning.masks import masked
from autoprune.space import kept_units

TOLERANCE = 1e-3
"""How far the smaller model's outputs may lie from the masked model's, of what the cut changed."""


def prune_model(
    model: nn.Module,
    example_inputs: Inputs,
    ratio: float | Mapping[str, float],
    *,
    ignored_layers: Sequence[str] = (),
    importance: str | None = None,
    round_to: int = 1,
    calibration: Calibration | None = None,
    refit: Iterable[Any] | None = None,
    num_heads: Mapping[str, int] | None = None,
) -> nn.Module:
    """A smaller copy of `model`; the given model stays as it is.

    `ratio` in [0, 1) is the fraction of units that leaves every group, or a mapping from group name
    to fraction (`groups` lists them; groups that are not named stay whole). Kept sizes are
    multiples of `round_to` where the group is large enough. `importance` says which units leave
    first (see `importance.scores`): by default `"obs"` with a calibration, `"l2"` without. With
    `calibration` (see `calibrate`) the remaining weights are repaired by least squares, in
    milliseconds. With `refit`, a few batches of training inputs (512 samples are used), every layer
    is then fitted again on what the smaller model really sees: seconds, and the best there is
    without training. Everything that cannot leave safely stays whole. Raises GraphError or
    UsageError where an argument does not fit.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prune_model(net, torch.zeros(1, 4), 0.5)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    graph = prunable(model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads)
    ratios = _ratios(graph, ratio)
    importance = importance or ("l2" if calibration is None else "obs")
    scores = importances.scores(model, graph, importance, calibration=calibration)
    widths = {n: kept_units(graph.group(n).size, ratio, round_to) for n, ratio in ratios.items()}
    built = build(model, graph, Architecture(widths), scores=scores, calibration=calibration)
    if refit is not None:
        samples = fitting.record(model, refit)
        fitting.refit(built.model, model, graph, built.kept_indices, samples)
    return built.model


def groups(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> tuple[Group, ...]:
    """The groups of units that leave together, in the order in which the model produces them.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(group.name, group.size) for group in groups(net, torch.zeros(1, 4))]
    [('0', 8)]
    """
    return prunable(
        model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads
    ).groups


def prunable(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> PruningGraph:
    """The traced graph, verified: every group in it was cut once and the model still agreed."""
    graph = trace(model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads)
    graph = verify(model, graph, example_inputs)
    return verify_blocks(model, graph, example_inputs)


def verify(model: nn.Module, graph: PruningGraph, example_inputs: Inputs) -> PruningGraph:
    """The graph without the groups that break the model, which are frozen with what was seen.

    All groups are cut at once, each by another share, and the smaller model has to run, also in
    training mode if the model itself does, and to agree with the masked one. Where it does not
    (code that holds a size by hand), the groups at fault are found by bisection. Guessed attributes
    without which it runs and agrees are left as they are.
    """
    tried = _Trials(_stirred(model), graph, example_inputs)
    faults: dict[str, str] = {}

    def search(names: list[str]) -> None:
        trouble = tried.accept(names) if names else ""
        if trouble and len(names) == 1:
            faults[names[0]] = trouble
        elif trouble:
            half = len(names) // 2
            search(names[:half])
            search(names[half:])

    search([group.name for group in graph.groups])
    tried.drop_guesses()
    return tried.graph.freeze(faults) if faults else tried.graph


def traced(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> PruningGraph:
    """The graph of a model whose prunings are known to run: nothing is frozen anew.

    Only guessed attributes are looked at, as in `verify`.
    """
    graph = trace(model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads)
    if not any(attribute.guessed for attribute in graph.attributes):
        return graph
    return replace(graph, attributes=verify(model, graph, example_inputs).attributes)


class _Trials:
    """Cuts of one model: the groups found good so far, and the graph with what has to be mended."""

    def __init__(self, model: nn.Module, graph: PruningGraph, example_inputs: Inputs) -> None:
        self.graph = graph
        self._model, self._example = model, example_inputs
        self._modules = dict(model.named_modules())
        self._good: list[str] = []
        self._wanted: tuple[list[str], list[Tensor]] = ([], [])
        self._trains = not self._untrainable(model)

    def accept(self, names: Sequence[str]) -> str:
        """What goes wrong when these groups are cut too; they are good where nothing does.

        A single group that fails is tried with each guess about its size dropped, and with all.
        """
        together = [*self._good, *names]
        trouble = self._trouble(self.graph, together)
        if trouble and len(names) == 1:
            guesses = self._guesses(names)
            for dropped in [*guesses, set().union(*guesses)] if guesses else []:
                attempt = self._without(dropped)
                if not self._trouble(attempt, together):
                    self.graph, trouble = attempt, ""
                    break
        if not trouble:
            self._good = together
        return trouble

    def drop_guesses(self) -> None:
        """Leave out of the graph, one by one, every guess without which nothing goes wrong."""
        for dropped in self._guesses(self._good):
            attempt = self._without(dropped)
            if not self._trouble(attempt, self._good):
                self.graph = attempt

    def _guesses(self, names: Sequence[str]) -> list[set[Attribute]]:
        """Guessed attributes that move with these groups; equal layers read theirs alike."""
        found: dict[tuple[type, str], set[Attribute]] = {}
        for attribute in self.graph.attributes:
            moves = any(not dim.per_unit.keys().isdisjoint(names) for dim in attribute.dims)
            if attribute.guessed and moves:
                kind = type(self._modules[attribute.module])
                found.setdefault((kind, attribute.name), set()).add(attribute)
        return list(found.values())

    def _without(self, dropped: set[Attribute]) -> PruningGraph:
        rest = tuple(held for held in self.graph.attributes if held not in dropped)
        return replace(self.graph, attributes=rest)

    def _trouble(self, graph: PruningGraph, names: list[str]) -> str:
        """What goes wrong when these groups lose every third unit; empty when nothing does."""
        keep = {
            name: _some(size, place)
            for place, (name, size) in enumerate(graph.sizes().items())
            if name in names
        }
        small = copy.deepcopy(self._model)
        try:
            surgery.prune(small, graph, keep)
            got = _outputs(small, self._example)
        except Exception as error:  # noqa: BLE001  whatever a model raises at another size is the answer
            return f"the smaller model does not run: {_said(error)}"
        if self._wanted[0] != names:
            self._wanted = names, _outputs(masked(self._model, graph, keep), self._example)
        if not _agree(got, self._wanted[1]):
            return "the smaller model differs from the masked one"
        return self._untrainable(small) if self._trains else ""

    def _untrainable(self, model: nn.Module) -> str:
        try:
            _outputs(model, self._example, training=True)
        except Exception as error:  # noqa: BLE001  as above
            return f"the smaller model does not run in training mode: {_said(error)}"
        return ""


def _some(size: int, place: int) -> list[int]:
    """What a group keeps for a try: about 2/3, 3/4 or 4/5, by its place.

    Equal shares everywhere would hide code that derives one size from another, and round numbers
    code that divides: where possible the number is odd and no multiple of three.
    """
    wanted = max(1, size * (2 + place % 3) // (3 + place % 3))
    kept = next((n for n in range(wanted, wanted // 2, -1) if n % 2 and n % 3), wanted)
    shift = place % size
    return sorted((u + shift) % size for u in range(min(kept, size - 1)))


def _stirred(model: nn.Module) -> nn.Module:
    """A copy whose constant parameters are drawn anew: a last layer of zeros would hide all."""
    result = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                first = parameter.flatten()[0]
                if bool((parameter == first).all()):
                    noise = torch.rand(parameter.shape, generator=generator)
                    parameter.copy_(first + 0.2 * noise.to(parameter) + 0.1)
    return result


def _outputs(model: nn.Module, example_inputs: Inputs, *, training: bool = False) -> list[Tensor]:
    args, kwargs = as_call(example_inputs)
    with untouched(model):
        if training:
            set_training(model)
        else:
            model.eval()
        return tensors_in(model(*args, **kwargs))


def _said(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"


def _agree(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in wanted]:
        return False
    for one, other in zip(got, wanted, strict=True):
        if not one.is_floating_point():
            continue
        a, b = one.double(), other.double()
        finite = torch.isfinite(a) & torch.isfinite(b)
        spread = float(b[finite].abs().max()) if bool(finite.any()) else 0.0
        if not bool(((a - b).abs()[finite] <= TOLERANCE * spread + 1e-12).all()):
            return False
    return True


def _ratios(graph: PruningGraph, ratio: float | Mapping[str, float]) -> dict[str, float]:
    if isinstance(ratio, Mapping):
        for name in ratio:
            graph.group(name)
        given = {name: float(value) for name, value in ratio.items()}
    else:
        given = {group.name: float(ratio) for group in graph.groups}
    for name, value in given.items():
        if not 0.0 <= value < 1.0:
            raise UsageError(f"ratio must lie in [0, 1), got {value} for group {name!r}")
    return given
