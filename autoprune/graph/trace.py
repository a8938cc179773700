"""`trace`: runs the model once with channel ids beside its tensors and makes the pruning graph."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.errors import GraphError
from autoprune.graph.assemble import Assembly
from autoprune.graph.blocks import find_blocks
from autoprune.graph.caller import following
from autoprune.graph.calls import owner
from autoprune.graph.flow import Flow
from autoprune.graph.given import settle_rest
from autoprune.graph.ids import OUT
from autoprune.graph.mode import again_uncompiled
from autoprune.graph.modules import note_sizes
from autoprune.graph.numbers import settle_numbers
from autoprune.graph.outputs import answers_in, pairs_in
from autoprune.graph.replica import eager, plain, plain_tensor, replica, same_embeddings
from autoprune.graph.rules import RULES
from autoprune.graph.siblings import follow
from autoprune.graph.sizes import mark
from autoprune.graph.statistics import refuse
from autoprune.graph.types import Frozen, PruningGraph

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]

_log = logging.getLogger(__name__)
_ATTEMPTS = 6
_OUTPUT_OF_HEADS = (
    "model output of each attention head (return no keys, values and weights: use_cache=False)"
)
_STILL = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.dropout._DropoutNd,
)


def trace(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ignored_layers: Sequence[str] = (),
    num_heads: Mapping[str, int] | None = None,
) -> PruningGraph:
    """The coupled groups of a model, found by running it on its example inputs.

    `example_inputs` is a tensor, a tuple or list of positional arguments, or a mapping of keyword
    arguments. The outputs of `ignored_layers` (module paths; a container stands for all layers in
    it) are not prunable, also those of layers that only pass channels on (norms, activations).
    `num_heads` maps an attention layer to its number of heads where that cannot be seen. The
    model's mode, buffers, hooks and the random state are restored. Layers that only run in
    training mode are followed in a second run; those that neither run reaches are among the frozen,
    unless they are pruned as others in the same list (see `siblings`).

    Raises GraphError when the model cannot run on these inputs or a name is unknown.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> [(group.name, group.size) for group in graph.groups]
    [('0', 8)]
    >>> graph.frozen
    (Frozen(name='2', size=2, reason='model output'),)
    """
    model = replica(plain(model))
    mark(model)
    ignored = _known_layers(model, ignored_layers)
    heads = dict(num_heads or {})
    _known_layers(model, list(heads))
    choices: dict[int, int] = {}
    for _ in range(_ATTEMPTS):
        kind = partial(Flow, model, RULES, heads=heads, choices=choices, ignored=ignored)
        run = partial(_follow, kind, model, example_inputs)
        flow, inputs, outputs = again_uncompiled(run)
        if not flow.flips:
            break
        for site in flow.sites:
            if site.key in flow.flips:
                choices[site.key] = site.choice + 1
    note_sizes(flow)
    unreached = _unreached(flow, model)
    follows = {} if flow.failure else follow(flow, [frozen.name for frozen in unreached])
    for layer in ignored:
        for (name, _), ids in flow.owned.items():
            if owner(name) == layer and flow.ids.roles()[ids[0]] == OUT:
                flow.ids.block(ids, "ignored_layers")
    graph = Assembly(flow, model).graph(model, inputs, outputs)
    graph = replace(graph, blocks=find_blocks(graph, flow.modules, flow.structures))
    scripted = sorted({owner(name) for name in flow.scripted})
    sizes = {path: len(next(iter(model.get_submodule(path).parameters()))) for path in scripted}
    black = [Frozen(path, size, "is a program of torch.jit") for path, size in sizes.items()]
    graph = replace(graph, frozen=(*graph.frozen, *black))
    return _with_unreached(graph, unreached, follows)


def _with_unreached(
    graph: PruningGraph, unreached: Sequence[Frozen], follows: Mapping[str, bool]
) -> PruningGraph:
    """The graph with the layers that were not reached; a warning of those without siblings."""
    alone = [frozen.name for frozen in unreached if frozen.name not in follows]
    if alone and graph.groups:
        names = ", ".join(alone[:5])
        _warn(f"{len(alone)} layers: {names}{', …' if len(alone) > 5 else ''}")
    return replace(
        graph, frozen=(*graph.frozen, *(f for f in unreached if not follows.get(f.name)))
    )


@functools.cache  # once, however often a model is traced
def _warn(layers: str) -> None:
    _log.warning(
        "the example input does not reach %s · they are not pruned, though what feeds them may be "
        "pruned: give an example that reaches them, or name in ignored_layers what comes before",
        layers,
    )


def as_call(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments, with plain tensors."""
    args: tuple[Any, ...] = (example_inputs,)
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    result: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        Tensor, plain_tensor, (args, kwargs)
    )
    return result


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore modes, dense buffers, embeddings and the random state, also after an error.

    Where buffers of a module were replaced, its other attributes are restored too, since one of
    them may describe the new buffers (a table that grew, and its length).
    """
    modes = [(module, module.training) for module in model.modules()]
    before = [
        (module, dict(vars(module)), dict(module._buffers))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    dense = [buffer for buffer in model.buffers() if buffer.layout is torch.strided]
    buffers = [(buffer, buffer.detach().clone()) for buffer in dense]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    fast = torch.backends.mha.get_fastpath_enabled()
    random = torch.random.fork_rng(devices=sorted(devices))
    with random, torch.no_grad(), eager(model), same_embeddings(model):
        torch.backends.mha.set_fastpath_enabled(False)  # the fused layer would hide its parts
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, attributes, held in before:
                if not _same(module._buffers, held):
                    vars(module).clear()
                    vars(module).update(attributes)
                    module._buffers.clear()
                    module._buffers.update(held)
            for module, mode in modes:
                module.training = mode
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def set_training(model: nn.Module) -> None:
    """Training mode for a single example: without batch statistics and dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, _STILL):
            module.eval()


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _follow(
    kind: Callable[[], Flow], model: nn.Module, example_inputs: Inputs
) -> tuple[Flow, list[int], list[int]]:
    """A flow after the run, and the places of inputs and outputs among its tensors."""
    flow = kind()
    args, kwargs = as_call(example_inputs)
    with untouched(model), without_mkldnn():
        model.eval()
        given = _leaves((args, kwargs))
        inputs = [flow.state(tensor).index for tensor in given]
        try:
            with following(flow):
                result = model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  a run of its own tells whose fault it is
            _run_alone(model, args, kwargs, given)
            flow.failure = f"the model cannot be followed: {_said(error)}"
            for ids in flow.owned.values():
                flow.ids.block(ids, flow.failure)
            return flow, inputs, []
        outputs = _close(flow, result)
        settle_rest(flow)
        flow.recording = False
        if _unreached(flow, model):
            _follow_training(flow, model, args, kwargs)
        settle_numbers(flow)
    if not outputs:
        for ids in flow.owned.values():
            flow.ids.block(ids, "no tensor is found in what the model returns")
    held = (flow.state(tensor).index for tensor in outputs)
    return flow, inputs, [index for index in held if index >= 0]


@contextmanager
def without_mkldnn() -> Iterator[None]:
    """Without oneDNN's fused LSTM layer, which hides its operations; nothing else changes.

    `torch.backends.mkldnn.flags` would also set the precision, with a warning.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _follow_training(flow: Flow, model: nn.Module, args: Any, kwargs: Any) -> None:
    """A run in training mode for the parameters that evaluation never reads."""
    set_training(model)
    try:
        with following(flow):
            result = model(*args, **kwargs)
    except Exception:  # noqa: BLE001  training on one example may fail in any way; it is optional
        return
    _close(flow, result)


def _close(flow: Flow, result: Any) -> list[Tensor]:
    outputs = answers_in(result)
    outputs += [tensor for tensor in pairs_in(result) if not flow.has_heads(tensor)]
    refuse(flow, [flow.state(tensor).statistic for tensor in outputs])
    for tensor in outputs:
        reason = _OUTPUT_OF_HEADS if flow.has_heads(tensor) else "model output"
        for label in flow.labels(tensor):
            flow.ids.block(label, reason)
    return outputs


def _unreached(flow: Flow, model: nn.Module) -> list[Frozen]:
    """Layers that no call has read, and unread parameters of layers that were reached."""
    touched = {name for name, _ in flow.owned} | flow.scripted
    reached = {owner(name) for name in touched} | {""}
    found: dict[str, Frozen] = {}
    for name, parameter in model.named_parameters():
        wide = [size for size in parameter.shape if size > 1]
        if name not in touched and wide and parameter.is_floating_point():
            layer = name if owner(name) in reached else owner(name)
            size = getattr(model.get_submodule(owner(name)), "out_channels", wide[0])
            reason = flow.failure or "not reached by the example input"
            found.setdefault(layer, Frozen(layer, size, reason))
    return list(found.values())


def _run_alone(model: nn.Module, args: Any, kwargs: Any, given: Sequence[Tensor]) -> None:
    """Raises GraphError where the model does not run on these inputs, followed or not."""
    try:
        model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given) or "no tensor"
        raise GraphError(
            f"{type(model).__name__} must run on its example inputs ({shapes}), got "
            f"{_said(error)} · give example_inputs that forward() accepts"
        ) from error


def _said(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _known_layers(model: nn.Module, names: Sequence[str]) -> set[str]:
    modules = [path for path, _ in model.named_modules() if path]
    found = set()
    for name in names:
        inside = [path for path in modules if path == name or path.startswith(f"{name}.")]
        if not inside:
            near = difflib.get_close_matches(name, modules, n=1, cutoff=0.0)
            hint = f" · the nearest is {near[0]!r}" if near else ""
            raise GraphError(f"a layer must be a module of the model, got {name!r}{hint}")
        found.update(inside)
    return found
