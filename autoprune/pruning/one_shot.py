"""`prune_model` and `groups`: from a model to a smaller one in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.errors import UsageError
from autoprune.graph import Group, PruningGraph
from autoprune.graph.replica import plain
from autoprune.graph.trace import Inputs
from autoprune.patterns import canonical
from autoprune.pruning import importance as importances
from autoprune.pruning import refit as fitting
from autoprune.pruning.build import build
from autoprune.pruning.compensate import Calibration
from autoprune.pruning.importance import Method
from autoprune.pruning.pretrained import configure
from autoprune.pruning.sparsity import Choice, sparse_weights
from autoprune.pruning.verification import prunable, warn_if_unpruned
from autoprune.pruning.weight_importance import SCORES, Score, method_for, spread
from autoprune.space import kept_units


def prune_model(
    model: nn.Module,
    example_inputs: Inputs,
    ratio: float | Mapping[str, float],
    *,
    ignored_layers: Sequence[str] = (),
    importance: str | Method | None = None,
    patterns: str | Mapping[str, str] | None = None,
    pattern_score: str | Score | None = None,
    round_to: int = 1,
    calibration: Calibration | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    refit: Iterable[Any] | None = None,
    num_heads: Mapping[str, int] | None = None,
) -> nn.Module:
    """A smaller copy of `model`; the given model is not changed.

    `ratio` in [0, 1) is the fraction of units pruned from every group, or a mapping from group name
    to fraction (`groups` lists them; groups that are not named are not pruned). Kept sizes are
    multiples of `round_to` where the group is large enough. `importance` is the score by which
    units are selected, by name or as a function (see `importance.scores`): by default `"obs"` with
    a calibration, `"l2"` without; `"taylor"` and `"movement"` need the `gradients` of a loss (see
    `accumulate_gradients`). `patterns` are sparsity patterns of single weights, by name or
    one for all that can have one: `"0.8"`, or `"2:4"`. With a `pattern_score` (`"lamp"`,
    `"magnitude"`, or a function of a weight that gives one of its shape) a sparsity is that of all
    weights of the given model together: those with many low scores get the larger share of it, as
    with `patterns.score` in a search. With `calibration` (see `calibrate`) the
    remaining weights are repaired by least squares, in milliseconds. With `refit`, a few batches of
    training inputs (512 samples are used), every layer is then fitted again on the inputs that it
    has in the smaller model: seconds, and the best result without training; it cannot be used with
    patterns. Units that cannot be pruned safely are kept. Behind a weight norm or a spectral norm
    the weights that stay are those of the dense model (the first step of training gives a smaller
    weight with spectral norm its norm of 1 again). Elements that a mask hides
    (`torch.nn.utils.prune`) stay hidden. The `config` of a model whose class is built from that
    alone gets the new sizes; where a class of transformers cannot express them, a warning says so,
    and only `save_hf` writes a folder that can be loaded. Raises GraphError or UsageError where an
    argument does not fit.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prune_model(net, torch.zeros(1, 4), 0.5)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    model = plain(model)
    graph = prunable(model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads)
    ratios = _ratios(graph, ratio)
    importance = importance or ("l2" if calibration is None else "obs")
    scores = importances.scores(
        model,
        graph,
        importance,
        calibration=calibration,
        gradients=_of(model, gradients) if gradients is not None else None,
    )
    widths = {n: kept_units(graph.group(n).size, ratio, round_to) for n, ratio in ratios.items()}
    if patterns and refit is not None:
        raise UsageError("refit fills zeros again · leave it out, or patterns")
    built = build(
        model,
        graph,
        _architecture(widths, _patterns(model, graph, patterns, pattern_score)),
        scores=scores,
        calibration=calibration,
        choice=Choice(method_for(importance), gradients, calibration),
    )
    warn_if_unpruned(model, built.model, graph, max(_values(ratio), default=0.0))
    if refit is not None:
        samples = fitting.record(model, refit)
        fitting.refit(built.model, model, graph, built.kept_indices, samples)
    configure(built.model, example_inputs)
    return built.model


def groups(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> tuple[Group, ...]:
    """The groups of units that are pruned together, in the order in which the model produces them.

    The model runs on `example_inputs` (a tensor, a tuple of positional or a mapping of keyword
    arguments) and is not changed. Outputs of `ignored_layers` (module paths) are not pruned;
    `num_heads` maps an attention layer to its number of heads where the model does not tell.
    Raises GraphError where the model cannot be run, or a layer is not one of the model's.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(group.name, group.size) for group in groups(net, torch.zeros(1, 4))]
    [('0', 8)]
    """
    return prunable(
        model, example_inputs, ignored_layers=ignored_layers, num_heads=num_heads
    ).groups


def _of(model: nn.Module, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The gradients, which must be of this model: else UsageError."""
    shapes = {name: held.shape for name, held in model.named_parameters(remove_duplicate=False)}
    for name, gradient in gradients.items():
        if shapes.get(name) != gradient.shape:
            raise UsageError(
                f"gradients[{name!r}] must be of a parameter of this model and have its shape, got "
                f"{tuple(gradient.shape)} · make them for this model with "
                "autoprune.accumulate_gradients(model, loss, batches)"
            )
    return gradients


def _patterns(
    model: nn.Module,
    graph: PruningGraph,
    patterns: str | Mapping[str, str] | None,
    score: str | Score | None,
) -> Mapping[str, str]:
    """The pattern of each weight; with a `score` one sparsity is spread over all of them."""
    if score is None:
        if isinstance(patterns, str):
            return dict.fromkeys(sparse_weights(model, graph), patterns)
        return patterns or {}
    if isinstance(score, str) and score not in SCORES:
        known = ", ".join(SCORES)
        raise UsageError(f"pattern_score must be one of {known}, or a function, got {score!r}")
    try:
        wanted = float(canonical(str(patterns)))  # N:M is no number
    except ValueError:
        raise UsageError(
            f"pattern_score spreads one sparsity, such as patterns='0.8', got patterns={patterns!r}"
        ) from None
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in sparse_weights(model, graph)}
    return spread(weights, wanted, SCORES[score] if isinstance(score, str) else score)


def _architecture(widths: Mapping[str, int], patterns: Mapping[str, str]) -> Architecture:
    try:
        return Architecture(widths, patterns=patterns)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _values(ratio: float | Mapping[str, float]) -> Iterable[float]:
    return ratio.values() if isinstance(ratio, Mapping) else (ratio,)


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
