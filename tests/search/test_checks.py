"""What must hold before a search: each refusal in its exact words."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from stripes import Stripes
from torch import nn

from autoprune._search.measuring.target_devices import TargetDevice
from autoprune._search.preparing.checks import (
    check_methods,
    check_precisions,
    check_restrictions,
    check_variables,
    dense_metrics,
    needs_calibration,
    objectives_for,
    untrained_graph,
    values_of,
)
from autoprune.budget import Device
from autoprune.config import RunConfig
from autoprune.config.sections import DeviceConfig
from autoprune.errors import ConfigError, TaskError
from autoprune.pareto import Objective
from autoprune.space import SearchSpace
from autoprune.tasks.base import Task
from autoprune.tasks.wrap import wrap


class Judged(Stripes):
    """`found` is what `evaluate` answers; an exception is raised."""

    found: Any = None

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Error(Judged):
    metric, direction = "error", "minimize"


def config(**changes: Any) -> RunConfig:
    return RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}, **changes})


def objectives(names: list[str] | None, task: Task, **changes: Any) -> tuple[Objective, ...]:
    return objectives_for(config(search={"objectives": names} if names else {}, **changes), task)


def test_the_objectives_are_the_metric_and_the_first_limited_cost_or_as_asked() -> None:
    assert objectives(None, Judged()) == (Objective("accuracy", "maximize"), Objective("macs"))
    assert objectives(["params", "error", "macs"], Error()) == (
        Objective("error", "minimize"),  # the metric comes first
        Objective("params"),
        Objective("macs"),
    )


def test_a_named_device_has_objectives_of_its_own() -> None:
    devices = {"phone": {"runtime": "torch"}, "server": {"runtime": "torch"}}
    found = objectives(["accuracy", "latency_ms@phone"], Judged(), devices=devices)
    assert found[1] == Objective("latency_ms@phone")


COSTS = "params, macs, weight_bytes, peak_memory_bytes, file_bytes, latency_ms, latency_p95_ms"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["accuracy", "mcs"],
            f"search.objectives: 'mcs' is neither the task's metric (accuracy) nor a cost ({COSTS})"
            " · nearest: macs",
        ),
        (
            ["accuracy", "zzz"],
            "search.objectives: 'zzz' is neither the task's metric (accuracy) nor a cost "
            f"({COSTS})",
        ),
        (
            ["macs"],
            "search.objectives must hold the task's metric (accuracy) and nothing twice, got macs",
        ),
        (
            ["accuracy", "macs", "macs"],
            "search.objectives must hold the task's metric (accuracy) and nothing twice, "
            "got accuracy, macs, macs",
        ),
    ],
)
def test_objectives_that_do_not_fit_are_named(names: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objectives(names, Judged())
    assert str(caught.value) == says


def target(runtime: str) -> TargetDevice:
    return TargetDevice("", DeviceConfig(runtime=runtime))


@pytest.mark.parametrize(
    ("budget", "objective"), [("peak_memory_bytes", "macs"), ("macs", "peak_memory_bytes")]
)
def test_peak_memory_of_int8_models_is_refused_where_it_cannot_be_measured(
    budget: str, objective: str
) -> None:
    wanted = (Objective("accuracy", "maximize"), Objective(objective))
    given = config(budget={budget: "50%"})
    check_precisions(given, wanted, [target("onnxruntime")])
    with pytest.raises(ConfigError) as caught:
        check_precisions(given, wanted, [target("onnxruntime"), target("ssh://pi@cam")])
    assert str(caught.value) == (
        "space.precision: peak_memory_bytes of int8 models can be measured in ONNX Runtime on this "
        "machine alone, not on ssh://pi@cam · leave it out of budget and search.objectives, or "
        "search with precision: float32"
    )
    away = replace(target("onnxruntime"), device=Device("a phone", "onnxruntime"))
    with pytest.raises(ConfigError, match="alone, not on a phone, onnxruntime"):
        check_precisions(given, wanted, [away])


@pytest.mark.parametrize(("budget", "objective"), [("file_bytes", "macs"), ("macs", "file_bytes")])
def test_zeros_in_int8_files_are_refused_where_their_size_counts(
    budget: str, objective: str
) -> None:
    wanted = (Objective("accuracy", "maximize"), Objective(objective))
    check_precisions(config(budget={budget: "50%"}), wanted, [target("onnxruntime")])
    space = {"precision": ["float32", "int8"], "patterns": {"kinds": ["dense", "2:4"]}}
    with pytest.raises(ConfigError) as caught:
        check_precisions(
            config(budget={budget: "50%"}, space=space), wanted, [target("onnxruntime")]
        )
    assert str(caught.value) == (
        "space.patterns: zeros make no int8 file smaller, and file_bytes counts · leave patterns "
        "out, or search with precision: float32"
    )


def test_int8_models_need_onnx_runtime_here_and_other_costs_are_known() -> None:
    wanted = (Objective("accuracy", "maximize"), Objective("weight_bytes"))
    check_precisions(config(), wanted, [target("onnxruntime")])
    with pytest.raises(
        ConfigError, match=r"^space\.precision: int8 models run in onnxruntime, and "
    ):
        check_precisions(config(), wanted, [target("onnxruntime"), target("torch")])


def judged(found: Any) -> Judged:
    task = Judged()
    task.found = found
    return task


def test_the_dense_models_metrics_are_plain_numbers() -> None:
    found = dense_metrics(judged({"accuracy": torch.tensor(0.5), "loss": 2}), nn.Identity())
    assert found == {"accuracy": 0.5, "loss": 2.0}
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            {"accuracy": math.nan},
            "Judged.evaluate must give a finite 'accuracy' for the dense model, got nan on val",
        ),
        (
            {"loss": 1.0, "f1": 2.0},
            "Judged.evaluate must give a finite 'accuracy' for the dense model, "
            "got ['f1', 'loss'] on val",
        ),
        (
            RuntimeError("mat1 and mat2\n  shapes differ"),
            "Judged.evaluate failed on val: RuntimeError: mat1 and mat2 shapes differ",
        ),
        (TaskError("as the task says"), "as the task says"),
    ],
)
def test_a_dense_model_that_cannot_be_judged_is_refused(answer: Any, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        dense_metrics(judged(answer), nn.Identity())
    assert str(caught.value) == says


def space(**spec: Any) -> SearchSpace:
    return SearchSpace.parse(spec)


class Own(Stripes):
    def importance(self, group: Any, weights: Any) -> torch.Tensor:
        return torch.ones(group.size)

    def regularize(self, model: nn.Module, pruned_units: Any, share: float) -> None:
        pass

    def removed_share(self, t: float) -> float:
        return t**0.5

    def sparsity_score(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs()


class Short(Own):
    def removed_share(self, t: float) -> float:
        return t / 2


def test_a_curve_that_does_not_reach_1_is_refused() -> None:
    with pytest.raises(TaskError, match=r"Short.removed_share: a schedule's curve must rise"):
        check_methods(space(schedule={"kind": "task"}), Short())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"importance": ["l1", "task"]},
            "importance 'task' needs Stripes.importance, which is not defined "
            "· define it, or use another one",
        ),
        (
            {"recovery": {"penalty": "task"}},
            "recovery.penalty 'task' needs Stripes.regularize, which is not defined "
            "· define it, or use another one",
        ),
        (
            {"schedule": {"kind": ["linear", "task"]}},
            "schedule.kind 'task' needs Stripes.removed_share, which is not defined "
            "· define it, or use another one",
        ),
        (
            {"patterns": {"score": "task"}},
            "patterns.score 'task' needs Stripes.sparsity_score, which is not defined "
            "· define it, or use another one",
        ),
    ],
)
def test_a_method_that_is_asked_for_must_be_the_tasks_own(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_methods(space(**spec), Stripes())
    assert str(caught.value) == says
    check_methods(space(**spec), Own())
    check_methods(space(), Stripes())


def test_what_wrap_was_given_counts_as_the_tasks_own() -> None:
    net, batch = nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    asked = space(importance="task", schedule={"kind": "task"}, patterns={"score": "task"})
    given = {"importance": Own().importance, "sparsity_score": torch.abs}
    task = wrap(net, [batch], [batch], removed_share=math.sqrt, **given)
    check_methods(asked, task)
    assert task.removed_share(0.25) == 0.5
    assert task.sparsity_score(torch.tensor([-1.0])).tolist() == [1.0]
    with pytest.raises(TaskError, match=r"recovery.penalty 'task' needs Linear.regularize"):
        check_methods(space(recovery={"penalty": "task"}), task)
    with pytest.raises(TaskError, match=r"removed_share: a schedule's curve must rise"):
        check_methods(asked, wrap(net, [batch], [batch], removed_share=lambda t: t / 2, **given))


def test_values_are_the_choices_the_constant_or_none() -> None:
    made = space(importance=["l1", "l2"], repair=False)
    assert values_of(made, "importance") == ("l1", "l2")
    assert values_of(made, "repair") == (False,)
    assert values_of(made, "no such setting") == ()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"importance": "l2", "repair": False}, False),
        ({"importance": "l2", "repair": [False, True]}, True),
        ({"importance": ["l2", "wanda"], "repair": False}, True),
        ({"importance": "obs", "repair": False}, True),
    ],
)
def test_repairs_and_importances_of_activations_need_a_calibration(
    spec: dict[str, Any], expected: bool
) -> None:
    assert needs_calibration(space(**spec)) is expected


@pytest.mark.parametrize(
    "spec",
    [
        {"ratios": {"max": 0.5, "per": "global"}},
        {"importance": "l2", "repair": False},
    ],
)
def test_allocation_needs_the_sensitivity_of_each_group(spec: dict[str, Any]) -> None:
    check_variables(config(space=spec, search={"variables": "ratios"}))
    check_variables(config(search={"variables": "allocation"}))
    with pytest.raises(ConfigError) as caught:
        check_variables(config(space=spec, search={"variables": "allocation"}))
    assert str(caught.value) == (
        "search.variables: allocation needs the sensitivity of each group, which is measured with "
        "a ratio for each group, and repair or importance obs · set space.ratios.per: group and "
        "space.repair: true, or search.variables: ratios"
    )


class Unbuildable(Stripes):
    def build_model(self) -> nn.Module:
        raise FileNotFoundError("lost.pt")


def test_the_graph_of_the_untrained_model_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    assert set(untrained_graph(Stripes()).sizes()) == {"0", "3"}
    assert torch.equal(torch.rand(1), wanted)


def test_a_model_is_built_only_where_patterns_are_to_be_matched() -> None:
    check_restrictions(config(), Unbuildable())
    for keys in ({"keep": ["0"]}, {"bounds": {"0": {"max_ratio": 0.3}}}):
        check_restrictions(config(**keys), Stripes())
        with pytest.raises(TaskError, match="build_model failed: FileNotFoundError"):
            check_restrictions(config(**keys), Unbuildable())
