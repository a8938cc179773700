"""NVIDIA ModelOpt's own FastNAS, where `pip install '.[test,bench]'` was done.

What it decides is read from it: the ratios of its search under a limit of multiply-accumulates
(counted as for every method), and the units that its sorting keeps. Removal and recovery are then
those of every other method.

It never narrows the last convolution before a pooled head: `features.17` of the VGG and
`blocks.3.pointwise` of the keyword net keep all 64 channels in each of its rows. Of ResNet-20 the
residual channels (`conv1`) stay whole.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from autoprune.training.batches import sample
from scripts.benchmarks.search.handmade import Rule, numbered, read_marks, score
from scripts.benchmarks.search.setup import MAX_RATIO, Setup

SIZES = 10  # that it tries of each layer; its default is 20, in multiples of 32 channels
SCORED = 500  # validation samples of one look
_QUEUE, _EACH = 50, 8  # it re-estimates BatchNorm with 50 batches, whatever their size
Units = dict[str, tuple[int, ...]]


def installed() -> bool:
    return importlib.util.find_spec("modelopt") is not None


def modelopt(setup: Setup, seed: int) -> Rule:
    """ModelOpt's search at each level; how far each layer alone drops is measured once."""
    with _quiet():
        from modelopt.torch.nas import algorithms, utils
        from modelopt.torch.nas.conversion import convert
        from modelopt.torch.prune.fastnas import BinarySearcher
        from modelopt.torch.prune.pruning import PruneModeRegistry

        def space(model: nn.Module) -> nn.Module:
            return convert(model, [("fastnas", _sizes())], registry=PruneModeRegistry)

        searched = space(copy.deepcopy(setup.dense))
        marked = space(numbered(setup.dense))
        utils.sort_parameters(marked)

    class Searcher(BinarySearcher):  # type: ignore[misc]
        """Keeps the drops in memory, where it would write a pickled file."""

        known: dict[str, Any] | None = None

        def load_search_checkpoint(self, strict: bool = True) -> bool:
            vars(self).update(self.known or {})
            return self.known is not None

        def save_search_checkpoint(self, verbose: bool = False) -> None:
            names = ("sensitivity_map", "original_score")
            type(self).known = {name: getattr(self, name) for name in names}

    drawn = torch.cat([x for x, _ in sample(setup.task, seed, samples=_QUEUE * _EACH)])
    options = {
        "data_loader": [(x,) for x in drawn[: _QUEUE * _EACH].split(_EACH)],
        "score_func": lambda model: score(setup.task, model, SCORED),
        "verbose": False,
    }
    example = setup.task.example_input()

    def units(config: dict[str, Any]) -> Units:
        with _quiet():
            utils.select(marked, config)
        return read_marks(marked, setup.graph)

    def macs(model: nn.Module, *_: Any, **__: Any) -> float:
        keep = units(utils.get_subnet_config(model))
        return setup.share(counts_of(keep)) * setup.dense_macs

    with _quiet():
        utils.sample(marked, min)
    smallest = read_marks(marked, setup.graph)

    def choose(level: float) -> tuple[dict[str, int], Units]:
        keep = smallest
        if setup.share(counts_of(smallest)) <= level:
            limit = {"flops": level * setup.dense_macs}
            with _quiet(), mock.patch.object(algorithms, "inference_flops", macs):
                found = Searcher().search(searched, limit, example, options)
                if found["is_satisfied"]:  # bisection may miss the smallest models
                    keep = units(found["config"])
        return counts_of(keep), keep

    return choose


def counts_of(keep: Units) -> dict[str, int]:
    return {name: len(units) for name, units in keep.items()}


def _sizes() -> dict[str, dict[str, Any]]:
    """The sizes it may give a layer, for the kinds of layers that the models have."""
    ratios = tuple(round(1.0 - MAX_RATIO * cut / (SIZES - 1), 3) for cut in range(SIZES))
    convolution = {"channels_ratio": ratios, "channel_divisor": 1}
    others = {"features_ratio": ratios, "feature_divisor": 1}
    return {
        **dict.fromkeys(("nn.Conv1d", "nn.Conv2d"), convolution),
        **dict.fromkeys(("nn.Linear", "nn.BatchNorm1d", "nn.BatchNorm2d"), others),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its progress bars and warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
