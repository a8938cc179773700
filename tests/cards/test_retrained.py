"""The card of a retraining: what was removed and how, in words, and how it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cards.retrained import card_of_retraining
from autoprune.record import TrialRecord
from autoprune.schedule import Schedule
from autoprune.store import (
    DenseTest,
    GroupInfo,
    Groups,
    RetrainingPlan,
    RetrainingSummary,
    RunFolder,
    SeedReport,
    Spread,
)

SIZES = {"stem": 16, "layer1.conv1": 8, "head": 12}
MADE = Candidate(
    Architecture({"stem": 4, "head": 12}, ["layer1"]),
    Selection("obs", repair=True),
    Schedule(),
    Recovery(lr=0.02, distillation=0.9, optimizer="sgd", ema=0.99),
)


def folder(place: Path, task: str) -> RunFolder:
    made = RunFolder.create(place / "run", {"task": task, "budget": {"macs": "50%"}}, {})
    made.save_groups(Groups(tuple(GroupInfo(name, "channel", n) for name, n in SIZES.items())))
    return made


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder(tmp_path, "small_run:Pair")


def card(
    run: RunFolder,
    candidate: Candidate = MADE,
    *,
    seeds: tuple[int, ...] = (3, 5),
    aware: bool = False,
) -> str:
    summary = RetrainingSummary(
        0,
        candidate,
        20.0,
        seeds,
        {"accuracy": Spread(0.7, 0.1 if len(seeds) > 1 else None)},
        dense=DenseTest({"accuracy": 0.75}),
        runs=tuple(SeedReport(seed, {"accuracy": 0.7}, 51) for seed in seeds),
    )
    plan = RetrainingPlan(candidate.key, 20.0, seeds, quantization_aware=aware)
    record = TrialRecord(0, candidate, "complete", seed=0, optimizer="AdamW")
    return card_of_retraining(run, record, plan, summary)


def pruned(text: str) -> str:
    return text.partition("## What was pruned\n\n")[2].partition("\n\n## ")[0]


def test_groups_and_blocks_and_the_recipe_are_in_words(run: RunFolder) -> None:
    assert pruned(card(run)) == (
        "Dropped blocks: `layer1`.\n\n"
        "Units (channels, neurons, heads) by group of layers that are pruned together:\n\n"
        "| group | dense | pruned |\n|---|---:|---:|\n"
        "| `stem` | 16 | 4 |\n| `layer1.conv1` | 8 | gone |\n\n"
        "Units were chosen by the importance `obs` and removed before the training; the remaining "
        "weights were repaired by least squares. Each seed was trained for 20 epochs from the "
        "dense model's weights: optimizer SGD, peak learning rate 0.02, distillation 0.9, "
        "regularizer 0, ema 0.99."
    )


def test_a_gradual_removal_patterns_and_int8_are_said(run: RunFolder) -> None:
    architecture = Architecture({"stem": 16, "layer1.conv1": 8}, patterns={"fc.weight": "2:4"})
    gradual = Candidate.planned(
        architecture,
        SIZES,
        selection=Selection("l2", repair=False),
        schedule=Schedule("cubic", 0.1, 0.5, 4),
    )
    said = pruned(card(run, gradual, aware=True))
    assert said.startswith(
        "Zeros by pattern, which make the file smaller: `fc.weight` (2:4).\n\nUnits were chosen by "
        "the importance `l2` and removed in 4 steps (cubic), from 10 to 50 % of the training. Each"
    )
    assert said.endswith("The end of the training simulated int8.")
    late = replace(MADE, schedule=Schedule("one_shot", 0.25, 0.25))
    assert "removed after 25 % of the training;" in card(run, late)


def test_an_optimizer_that_was_chosen_is_named(run: RunFolder) -> None:
    chosen = replace(MADE, recovery=Recovery())
    assert "optimizer AdamW, peak learning rate default" in card(run, chosen)


def test_a_model_that_lost_nothing_says_so(run: RunFolder) -> None:
    whole = replace(MADE, architecture=Architecture(SIZES))
    assert pruned(card(run, whole)).startswith("Nothing: it has all units of the dense model.\n")


def test_the_task_is_named_without_its_folder(run: RunFolder, tmp_path: Path) -> None:
    text = card(run)
    assert (
        "# Pair, pruned\n\nA smaller version of the dense model of the task `small_run:Pair`"
        in (text)
    )
    text = card(folder(tmp_path / "other", "/home/me/jobs/task.py:Mine"))
    assert "# Mine, pruned" in text
    assert "the task `task.py:Mine`" in text
    assert "/home/me" not in text


def test_how_the_seeds_are_loaded(run: RunFolder) -> None:
    two = card(run)
    assert "is that of this file, for the model of seed 3; or one of the others, `seed-5`." in two
    assert "model = autoprune.load(folder, trust=True)  # imports small_run:Pair; or" in two
    one = card(run, seeds=(3,))
    assert "for the model of seed 3.\n" in one
    assert "autoprune.load(folder, model=dense)" in one


def test_a_task_that_was_an_object_is_loaded_with_its_model(tmp_path: Path) -> None:
    text = card(folder(tmp_path, "python:Mine"))
    assert "the task `Mine`" in text
    assert "trust" not in text
    assert "model = autoprune.load(folder, model=dense)" in text
