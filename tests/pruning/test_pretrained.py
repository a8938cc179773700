"""What the configuration of a pruned model says, and when nothing can say it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from test_configuration import encoder, example

from autoprune import load, prune_model
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.pruning.build import build
from autoprune.pruning.verification import prunable
from autoprune.store import recipe_of, save_model


def test_sizes_that_no_configuration_gives_are_told(caplog: pytest.LogCaptureFixture) -> None:
    prune_model(encoder(), example(), {"layers.0.up": 0.5})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "no configuration of Encoder gives the sizes of the pruned model, so from_pretrained "
        "cannot read what save_pretrained writes · save it with autoprune.save_hf(model, folder, "
        "example_inputs)"
    )


def test_where_the_sizes_fit_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert prune_model(encoder(), example(), 0.5).config.width == 16
    changed = encoder()
    changed.scale = 3.0  # no configuration gives these outputs, but all sizes are the dense ones
    prune_model(changed, example(), 0.0)
    assert not caplog.records


def test_a_loaded_model_has_a_configuration_of_its_sizes(tmp_path: Path) -> None:
    model, x = encoder(), example()
    graph = prunable(model, x)
    kept = {name: tuple(range(size // 2)) for name, size in graph.sizes().items()}
    half = Architecture({name: len(units) for name, units in kept.items()})
    small = build(model, graph, half, kept_indices=kept).model
    assert small.config.width == 32
    save_model(tmp_path / "half", small, recipe_of(Candidate(half), kept, task="", example=x))
    assert load(tmp_path / "half", model=model).config.width == 16
