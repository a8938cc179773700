"""What a search writes of itself, read back from its folder."""

from __future__ import annotations

import math
import platform
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import stripes
import torch
import toy

from autoprune._search.ending.describe import (
    dense_report,
    describe,
    environment,
    importances,
    search_plan,
)
from autoprune.architecture import INT8, Architecture
from autoprune.budget import Budget, Cost, Device
from autoprune.config import RunConfig
from autoprune.graph import Frozen
from autoprune.store import (
    BlockInfo,
    DenseReport,
    FrozenInfo,
    GroupInfo,
    RunFolder,
)

BUDGET = Budget.parse({"macs": "50%", "params": 400})
SPACE = replace(toy.SPACE, curve=math.sqrt)  # a task's own: no JSON
PLAN = toy.make_plan(space=SPACE, budget=BUDGET, levels=BUDGET.lowered(["20%"], "levels"))
HALF = {"0": 8, "3": 8}


class Profile:
    """A device profile as far as it is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_dict(self) -> dict[str, Any]:
        return {"format": self.name}


def ready(*targets: Any, **changes: Any) -> Any:
    values = {
        "plan": PLAN,
        "graph": stripes.dense()[1],
        "targets": targets,
        "metrics": {"accuracy": 0.9},
        "samples": 60,
        "constant": {"accuracy": 0.5},
    }
    return SimpleNamespace(**{**values, **changes})


def target(name: str, profile: Profile | None = None, int8: Profile | None = None) -> Any:
    return SimpleNamespace(name=name, profile=profile, int8=int8)


def test_a_plan_is_written_in_absolute_units() -> None:
    found = search_plan(PLAN)
    assert (found.objectives, found.reference) == (PLAN.objectives, PLAN.reference)
    assert found.limits == {"macs": 0.5 * (toy.DENSE.macs or 0), "params": 400.0}
    assert found.levels == (0.2 * (toy.DENSE.macs or 0),)
    assert (found.space, found.dense) == (PLAN.space, toy.DENSE)
    assert found.smallest == toy.price(Architecture({"a": 4, "b": 6, "c": 12}))


def test_what_is_known_before_the_first_trial_can_be_read_again(folder: RunFolder) -> None:
    base = stripes.dense()[1]
    graph = SimpleNamespace(
        groups=base.groups,
        frozen=(Frozen("head", 3, "it is the output"),),
        blocks=(SimpleNamespace(name="layer1", kind="residual"),),
    )
    describe(folder, ready(graph=graph))
    found = folder.groups()
    assert found is not None
    assert found.groups == (GroupInfo("0", "channel", 16), GroupInfo("3", "channel", 16))
    assert found.frozen == (FrozenInfo("head", 3, "it is the output"),)
    assert found.blocks == (BlockInfo("layer1", "residual"),)
    assert folder.plan() == search_plan(PLAN)
    assert folder.dense() == DenseReport({"accuracy": 0.9}, toy.DENSE, None, 60, {"accuracy": 0.5})


def test_profiles_are_written_by_device_and_precision(folder: RunFolder) -> None:
    targets = (target("a", Profile("a")), target("b", Profile("b"), Profile("b8")), target("c"))
    describe(folder, ready(*targets))
    names = ("a", "b", "c")
    assert folder.profiles(names, dict) == {"a": {"format": "a"}, "b": {"format": "b"}}
    assert folder.profiles(names, dict, INT8) == {"b": {"format": "b8"}}


def test_a_measured_dense_model_is_not_forgotten(folder: RunFolder) -> None:
    measured = Cost(macs=1, latency_ms=2.0, device=Device("here"), source="measured")
    folder.save_dense(dense_report(ready(), measured))
    describe(folder, ready(metrics={"accuracy": 0.1}))
    found = folder.dense()
    assert found is not None
    assert (found.measured, found.metrics) == (measured, {"accuracy": 0.9})


def test_the_environment_has_the_machine_the_versions_and_the_seed() -> None:
    config = RunConfig.from_dict(
        {"task": "digits", "budget": {"macs": "50%"}, "search": {"seed": 5}}
    )
    found = environment(config)
    assert found["torch"] == version("torch")
    assert found["python"] == platform.python_version()
    assert found["seed"] == 5
    assert found["cores"] >= 1
    assert found["machine"]
    assert "no-such-package" not in found


def study(trials: int, first: str = "x") -> optuna.Study:
    """Accuracy depends on the first variable alone, the cost on y alone."""
    made = optuna.create_study(directions=["maximize", "minimize"])
    ends = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in (first, "y")}
    generator = torch.Generator().manual_seed(0)
    for x, y in torch.rand(trials, 2, generator=generator).tolist():
        made.add_trial(
            optuna.trial.create_trial(params={first: x, "y": y}, distributions=ends, values=[x, y])
        )
    return made


def test_what_mattered_is_told_for_each_objective() -> None:
    found = importances(study(60), PLAN)
    assert list(found) == ["accuracy", "macs"]
    assert found["accuracy"]["x"] > 0.9
    assert found["macs"]["y"] > 0.9
    assert sum(found["macs"].values()) == pytest.approx(1.0)


def test_variables_of_training_say_nothing_of_a_cost() -> None:
    found = importances(study(60, "recovery.lr"), PLAN)
    assert list(found["accuracy"]) == ["recovery.lr", "y"]
    assert found["macs"] == {"y": 1.0}


def test_few_trials_say_nothing_of_what_mattered() -> None:
    assert importances(study(19), PLAN) == {}
    assert importances(study(20), PLAN) != {}
