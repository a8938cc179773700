"""Mistakes in a configuration: in which words each is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config import RunConfig
from autoprune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {trails: 3}", "budget.yaml: search.trails is not a key · nearest: trials"),
        ("sarch: {}", "budget.yaml: sarch is not a key · nearest: search"),
        (
            "device: {xyz: 1}",
            "budget.yaml: device.xyz is not a key · known: profile, runtime, threads, batch",
        ),
        (
            "search: {trials: many}",
            "budget.yaml: search.trials: a number is needed, got 'many'",
        ),
        (
            "search: {trials: 0}",
            "budget.yaml: search.trials: must be greater than or equal to 1, got 0",
        ),
        ("search: {trials: 2.5}", "budget.yaml: search.trials: must be a whole number, got 2.5"),
        ("search: {epochs: null}", "budget.yaml: search.epochs: must be a number, got None"),
        ("keep: backbone.*", "budget.yaml: keep: must be a list, got 'backbone.*'"),
        (
            "search: {ray: {storage: [1]}}",
            "budget.yaml: search.ray.storage: must be a text, got [1]",
        ),
        ("search: {epochs: true}", "budget.yaml: search.epochs: a number is needed, got True"),
        (
            "search: {sampler: tpee}",
            "budget.yaml: search.sampler: must be 'tpe', 'nsga2', 'gp', 'front' or 'random', "
            "got 'tpee'",
        ),
        (
            "search: []",
            "budget.yaml: search must hold keys (sampler, variables, objectives, levels, trials, "
            "total_epochs, minutes, patience, epochs, rungs, concurrent, seed, "
            "calibration_samples, screen, baselines, trial_timeout, equal_failures, keep_models, "
            "max_disk, ray), got []",
        ),
        (
            "search: {concurrent: 10000}",
            "budget.yaml: search.concurrent: must be at most 1024 (each is a process of its own)",
        ),
        ("search: {epochs: 1.0e+300}", "budget.yaml: search.epochs: must be at most 100000 ("),
        ("search: {trials: 1000000000000}", "budget.yaml: search.trials: must be at most 1e+06 ("),
        ("search: {rungs: 2000}", "budget.yaml: search.rungs: must be at most 20 ("),
        ("search: {seed: 4294967296}", "budget.yaml: search.seed: must be at most 4.29497e+09 (32"),
        (
            "search: {keep_models: some}",
            "budget.yaml: search.keep_models: must be 'front' or 'all', got 'some'",
        ),
        ("search: {ray: {adress: auto}}", "budget.yaml: search.ray.adress is not a key · nearest"),
        ("device: {batch: 1000000000}", "budget.yaml: device.batch: must be at most 65536 ("),
        ('output: ""', "budget.yaml: output: must not be empty, nor hold a null byte, got ''"),
        ('data: "a\\0b"', "budget.yaml: data: must not be empty, nor hold a null byte"),
        (
            "search: {objectives: []}",
            "budget.yaml: search.objectives: must hold at least one, got []",
        ),
    ],
)
def test_mistake_is_one_line_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(f"task: digits\nbudget: {{latency_ms: 50%}}\n{text}")
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(file)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
