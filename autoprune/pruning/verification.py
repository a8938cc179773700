"""Verification of the traced graph: groups that break the model are frozen, with the reason."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.graph import PruningGraph, trace
from autoprune.graph.replica import plain, replica
from autoprune.graph.trace import Inputs
from autoprune.graph.types import Attribute
from autoprune.pruning import surgery
from autoprune.pruning.bisection import faults
from autoprune.pruning.comparison import Comparison, run
from autoprune.pruning.depth import verify_blocks
from autoprune.pruning.masks import masked

_log = logging.getLogger(__name__)
_MOST_TRIES = 200

_DIFFERS = (
    "the smaller model differs from the masked one: its code may compute with a width, or draw "
    "random numbers"
)


def prunable(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> PruningGraph:
    """The traced graph, verified: every group in it was pruned once and the outputs were right."""
    model = plain(model)
    graph = trace(model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads)
    graph = verify(model, graph, example_inputs)
    return verify_blocks(model, graph, example_inputs)


def verify(model: nn.Module, graph: PruningGraph, example_inputs: Inputs) -> PruningGraph:
    """The graph without the groups that break the model, which are frozen with the reason.

    All groups are cut at once, each at a different ratio, and the smaller model has to run, also in
    training mode if the model itself does, and to agree with the masked one. Where it does not
    (code that holds a size by hand), the groups at fault are found kind by kind. Guessed attributes
    without which it runs and agrees are left as they are.
    """
    tried = _Trials(_stirred(model), graph, example_inputs)
    found = faults([group.name for group in graph.groups], tried.accept)
    tried.drop_guesses()
    return tried.graph.freeze(found) if found else tried.graph


def warn_if_unpruned(model: nn.Module, small: nn.Module, graph: PruningGraph, ratio: float) -> None:
    """Log a warning with the reasons if less than a tenth of the requested ratio was pruned."""
    dense, left = (sum(p.numel() for p in held.parameters()) for held in (model, small))
    if not dense:
        if ratio > 0.0:
            _log.warning(
                "nothing is pruned although a ratio of %g was requested: the model has no "
                "parameters (quantized layers hold none) · prune the float model, and quantize it "
                "afterwards",
                ratio,
            )
        return
    if 1.0 - left / dense >= 0.1 * ratio:
        return
    sizes: Counter[str] = Counter()
    for frozen in graph.frozen:
        sizes[f"{frozen.name}: {frozen.reason}"] += frozen.size
    reasons = "; ".join(reason for reason, _ in sizes.most_common(3)) or "it has no hidden layers"
    _log.warning(
        "%.0f %% of the parameters are kept although a ratio of %g was requested · %s",
        100 * left / dense,
        ratio,
        reasons,
    )


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
    """Trial prunings of one model: the groups verified so far, and the corrected graph."""

    def __init__(self, model: nn.Module, graph: PruningGraph, example_inputs: Inputs) -> None:
        self.graph = graph
        self._model, self._example = model, example_inputs
        self._modules = dict(model.named_modules())
        self._cuts = trial_cuts(graph.sizes())
        self._good: list[str] = []
        self._tries = 0
        self._wanted: tuple[list[str], nn.Module, list[Tensor]] | None = None
        self._comparison = Comparison(model, example_inputs)
        self._trains = not self._untrainable(model)

    def accept(self, names: Sequence[str]) -> str:
        """The error when these groups are pruned too; empty (and they are verified) if none.

        A single group that fails is tried with each guess about its size dropped, and with all.
        """
        together = [*self._good, *names]
        self._tries += 1
        if self._tries > _MOST_TRIES:
            return f"not tried: more than {_MOST_TRIES} cuts were needed to find what breaks"
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
        """The error when some units of these groups are pruned, as `trial_cuts`; empty if none."""
        kept_indices = {name: self._cuts[name] for name in names}
        small = replica(self._model)
        try:
            surgery.prune(small, graph, kept_indices)
            got = self._comparison.answers(small)
        except Exception as error:  # noqa: BLE001  whatever a model raises at another size is the answer
            return f"the smaller model does not run: {_said(error)}"
        if self._wanted is None or self._wanted[0] != names:
            self._wanted = None
            dense = masked(self._model, graph, kept_indices)
            self._wanted = names, dense, self._comparison.answers(dense)
        _, dense, wanted = self._wanted
        if self._comparison.differ(small, dense, got, wanted):
            return _DIFFERS
        return self._untrainable(small) if self._trains else ""

    def _untrainable(self, model: nn.Module) -> str:
        try:
            run(model, self._example, training=True)
        except Exception as error:  # noqa: BLE001  as above
            return f"the smaller model does not run in training mode: {_said(error)}"
        return ""


def trial_cuts(sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The units that each group keeps in trials: a third of them or more, most of them 3/4.

    Equal counts would hide code that ties one size to another: where possible, two rows of groups
    that follow each other differ in some count. Round numbers would hide code that divides: first
    come counts that are odd and no multiple of three. A single unit, which broadcasts, comes last.

    >>> {name: len(kept) for name, kept in trial_cuts({"a": 12, "b": 12, "c": 8}).items()}
    {'a': 7, 'b': 11, 'c': 5}
    """
    groups = Counter(sizes.values())
    counts = {size: iter(_counts(size, groups[size])) for size in groups}
    return {
        name: sorted((unit + place) % size for unit in range(next(counts[size])))
        for place, (name, size) in enumerate(sizes.items())
    }


def _counts(size: int, groups: int) -> list[int]:
    """How many units groups of one size keep: no row of counts twice in succession if possible."""
    possible = sorted(
        range(max(1, size // 3), size),
        key=lambda n: (n == 1, n % 2 == 0 or n % 3 == 0, abs(n - 0.75 * size)),
    )
    draw = random.Random(size)
    counts: list[int] = []
    for turn in range(groups):
        options = possible[turn : turn + 1] or draw.sample(possible, len(possible))
        fits = (count for count in options if not _repeats([*counts, count]))
        counts.append(next(fits, options[0]))
    return counts


def _repeats(row: Sequence[int]) -> bool:
    """Whether the row ends with the same part twice."""
    return any(
        row[-1] == row[-1 - m] and row[-m:] == row[-2 * m : -m] for m in range(1, len(row) // 2 + 1)
    )


def _stirred(model: nn.Module) -> nn.Module:
    """A copy whose constant parameters are drawn anew: a last layer of zeros would hide errors."""
    result = replica(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                first = parameter.flatten()[0]
                if bool((parameter == first).all()):
                    noise = torch.rand(parameter.shape, generator=generator)
                    parameter.copy_(first + 0.2 * noise.to(parameter) + 0.1)
    return result


def _said(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"
