from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import Pair
from stripes import Stripes, dense
from torch import nn

from autoprune._retraining.seeds import Retraining, retrain
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import TaskError, UsageError
from autoprune.graph import trace
from autoprune.schedule import Schedule
from autoprune.store import RetrainingFolder

CHOSEN = Candidate.planned(
    Architecture({"0": 8, "3": 4}),
    {"0": 16, "3": 16},
    schedule=Schedule("cubic", 0.0, 0.5, 2),
    recovery=Recovery(lr=0.05, distillation=0.3),
)


class Counted(Stripes):
    """Knows how often each split was read, and by which size of model."""

    def __init__(self) -> None:
        self.read: list[tuple[str, int]] = []

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        self.read.append((split, model[0].out_channels))
        return super().evaluate(model, split)


def train(task: Stripes, **options: object) -> Retraining:
    model, graph = dense()
    return retrain(task, model, graph, CHOSEN, **{"epochs": 2, "seeds": [0, 1, 2], **options})


class Fixed(Pair):
    """One batch, the same for every seed."""

    def train_loader(self, seed: int) -> Any:
        return super().train_loader(0)


def test_seeds_that_change_nothing_are_said(caplog: pytest.LogCaptureFixture) -> None:
    def trained(task: Pair) -> None:
        model = task.build_model().eval()
        graph = trace(model, task.example_input())
        retrain(task, model, graph, Candidate(Architecture({"0": 4})), epochs=1, seeds=[4, 5])

    trained(Pair())
    assert not caplog.text
    trained(Fixed())
    assert "seeds 4 and 5 gave equal models" in caplog.text
    assert "Fixed.train_loader(seed) must give another order" in caplog.text


def test_every_seed_gives_a_small_model_that_was_tested_once() -> None:
    task = Counted()
    done = train(task)
    assert [run.seed for run in done.runs] == [0, 1, 2]
    for run in done.runs:
        assert (run.model[0].out_channels, run.model[3].out_channels) == (8, 4)
        assert {name: len(kept) for name, kept in run.kept_indices.items()} == {"0": 8, "3": 4}
        assert [entry["epoch"] for entry in run.history] == [1.0, 2.0]
        assert Stripes().evaluate(run.model, "test") == run.test
    assert [size for split, size in task.read if split == "test"] == [8, 8, 8, 16]
    assert not torch.equal(done.runs[0].model[3].weight, done.runs[1].model[3].weight)


def test_the_summary_has_mean_and_spread_over_the_seeds_and_is_read_back(tmp_path: Path) -> None:
    done = train(Stripes())
    folder = RetrainingFolder(tmp_path)
    folder.save_summary(done.summary(7))
    summary = folder.summary()
    assert summary == done.summary(7)
    found = [run.test["accuracy"] for run in done.runs]
    assert summary.test["accuracy"].mean == pytest.approx(sum(found) / 3)
    assert summary.test["accuracy"].std == pytest.approx(statistics.stdev(found))
    assert summary.validation.keys() == {"accuracy", "loss"}
    assert summary.dense.test == Stripes().evaluate(dense()[0], "test")
    assert summary.seeds == (0, 1, 2)
    assert summary.candidate == CHOSEN


def test_one_seed_has_no_spread() -> None:
    summary = train(Stripes(), seeds=[5], epochs=0.5).summary(7)
    assert summary.test["accuracy"].std is None


def test_an_interrupted_retraining_goes_on_to_the_same_models(tmp_path: Path) -> None:
    whole = train(Stripes(), seeds=[0, 1])

    def interrupt(seed: int, entry: Mapping[str, float]) -> None:
        if (seed, entry["epoch"]) == (1, 1.0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Stripes(), seeds=[0, 1], checkpoints=tmp_path, on_entry=interrupt)
    told: list[tuple[int, float]] = []
    task = Counted()
    again = train(
        task,
        seeds=[0, 1],
        checkpoints=tmp_path,
        on_entry=lambda seed, entry: told.append((seed, entry["epoch"])),
    )
    assert told == [(1, 2.0)]
    assert [size for split, size in task.read if split == "test"] == [8, 16]
    for one, other in zip(whole.runs, again.runs, strict=True):
        assert one.history == other.history
        assert one.test == other.test
        states = one.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_missing_test_split_is_said_before_any_training() -> None:
    trained = []

    class Untested(Stripes):
        def test_loader(self) -> list:
            raise TaskError("no test split")

        def train_loader(self, seed: int) -> object:
            trained.append(seed)
            return super().train_loader(seed)

    with pytest.raises(TaskError, match="no test split"):
        train(Untested())
    assert not trained


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_different_and_some(seeds: list[int]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        train(Stripes(), seeds=seeds)
