"""From a configuration and a task to a plan; no device is measured here."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stripes
import torch
from deep_task import Deep
from stripes import Stripes
from torch import Tensor, nn

from autoprune._search.measuring.byte_models import ByteModels
from autoprune._search.preparing.prepare import Prepared, correct, prepare, weight_curves
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Device
from autoprune.config import RunConfig
from autoprune.cost_fields import FILE
from autoprune.device.layers import network
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sample, random_architectures
from autoprune.errors import ConfigError, DeviceError, GraphError, TaskError
from autoprune.graph import PruningGraph, trace
from autoprune.quality import QualityLimit
from autoprune.space import SearchSpace

DENSE_MACS = 36 * 16 * 9 + 16 * 16 * 16 * 9 + 16 * 3  # 3x3 on 6x6, 3x3 on 4x4, the head


class Ready(Stripes):
    dense_epochs = 0

    def build_model(self) -> nn.Module:
        return stripes.dense()[0]

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return {"accuracy": 0.8, "error": 0.2, "loss": -1.0}


class Error(Ready):
    metric, direction = "error", "minimize"


class Untrained(Ready):
    """Its training fails."""

    dense_epochs = 1

    def train_dense(self, model: nn.Module, seed: int) -> None:
        raise AssertionError("it is trained")


class Fixed(Ready):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def config(**changes: Any) -> RunConfig:
    spec = {"task": "stripes", "budget": {"macs": "60%"}, "train_on": "cpu"}
    return RunConfig.from_dict({**spec, "space": {"round_to": 4}, **changes})


def made(task: Stripes | None = None, **changes: Any) -> tuple[Prepared, list[str]]:
    said: list[str] = []
    return prepare(config(**changes), task or Ready(), said.append), said


@pytest.fixture(scope="module")
def ready() -> Prepared:
    return made(search={"minutes": 2, "max_disk": "1 MB", "keep_models": "all", "patience": 3})[0]


def test_the_plan_says_what_the_configuration_says(ready: Prepared) -> None:
    plan = ready.plan
    assert plan.dense.macs == DENSE_MACS
    assert plan.space.widths == {"0": (4, 8, 12, 16), "3": (4, 8, 12, 16)}
    limits = plan.limits
    assert (limits.seconds, limits.disk_bytes, limits.keep_all, limits.patience) == (
        120.0,
        1e6,
        True,
        3,
    )
    assert (plan.epochs, plan.rungs, plan.sampler, plan.concurrent) == (2.0, 2, "tpe", 2)
    assert (plan.margins, plan.levels, plan.quality) == ({}, (), ())
    assert (ready.samples, ready.training_device) == (60, "cpu")
    assert ready.sizes == ByteModels()
    assert not ready.dense.training


def test_costs_are_those_of_the_graph_one_by_one_and_at_once(ready: Prepared) -> None:
    plan = ready.plan
    half = Architecture({"0": 8, "3": 12})
    macs = 36 * 8 * 9 + 16 * 8 * 12 * 9 + 12 * 3
    assert plan.price(half).macs == macs
    assert plan.prices is not None
    counts = torch.tensor([[8, 12], [16, 16]]).numpy()
    assert plan.prices(counts, ("macs",))["macs"].tolist() == [macs, DENSE_MACS]
    assert plan.load({"0": 8, "3": 12}) == pytest.approx(macs / (0.6 * DENSE_MACS))


@pytest.mark.parametrize(
    ("task", "metric", "worst"), [(Ready(), "accuracy", 0.4), (Error(), "error", 0.4)]
)
def test_the_reference_is_a_metric_half_as_good_and_the_dense_cost(
    task: Stripes, metric: str, worst: float
) -> None:
    found = made(task)[0].plan
    assert found.objectives[0].name == metric
    assert found.reference == (pytest.approx(worst), float(DENSE_MACS))


def test_a_model_without_groups_is_refused_with_the_reasons() -> None:
    with pytest.raises(GraphError) as caught:
        made(Fixed())
    said = str(caught.value)
    assert said.startswith("the model of Fixed has no prunable groups · ")
    assert "\n" not in said


@pytest.mark.parametrize(
    "restricted", [{"keep": ["absent"]}, {"bounds": {"absent": {"max_ratio": 0.3}}}]
)
def test_patterns_that_match_nothing_are_refused_before_the_dense_model_is_trained(
    restricted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="'absent' matches no group"):
        made(Untrained(), **restricted)
    with pytest.raises(TaskError, match="it is trained"):  # the others come to that
        made(Untrained(), keep=["0"])


def test_a_resumed_search_does_not_hold_its_patterns_against_the_model_again() -> None:
    builds = []

    class Counted(Ready):
        def build_model(self) -> nn.Module:
            builds.append(1)
            return super().build_model()

    for is_resumed in (False, True):
        prepare(config(keep=["0"]), Counted(), lambda note: None, is_resumed=is_resumed)
        builds.append(0)
    assert builds == [1, 1, 0, 1, 0]


def test_a_limit_on_files_needs_their_size_and_has_its_margin() -> None:
    found, _ = made(budget={"file_bytes": "60%"})
    assert list(found.sizes.files) == ["float32"]
    assert set(found.plan.margins) == {FILE}
    assert found.plan.dense.get(FILE) > 0


def test_patterns_that_lower_nothing_that_counts_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = {"round_to": 4, "patterns": {"kinds": ["dense", "2:4"]}}
    with caplog.at_level(logging.WARNING):
        made(space=space)
    assert [record.getMessage() for record in caplog.records] == [
        "patterns lower file_bytes only, which is neither in the budget nor an objective"
    ]
    caplog.clear()
    made(space=space, budget={"file_bytes": "60%"})
    assert caplog.records == []


def test_limits_on_quality_know_the_dense_models_metrics() -> None:
    found, _ = made(quality={"accuracy": "drop <= 1 pt"})
    assert found.plan.quality == (QualityLimit("accuracy", "drop", 0.01),)
    assert found.plan.metrics == {"accuracy": 0.8, "error": 0.2, "loss": -1.0}


def test_what_is_done_is_said() -> None:
    bad = "hardly better than a constant output (0.8): is it trained?"
    said = f"the dense model: accuracy 0.8 on validation data, {bad}"
    assert made()[1] == ["the dense model", said]
    low = Error()  # 0.2, where less is better; one that never errs beats every constant output
    low.evaluate = lambda model, split: {"error": 0.2 if model._forward_hooks else 0.0}  # type: ignore[method-assign]
    assert made(low)[1][-1] == "the dense model: error 0 on validation data"
    assert made(low)[0].constant == {"error": 0.2}


def sparse(**more: Any) -> SearchSpace:
    return SearchSpace.parse({"patterns": {"kinds": ["dense", "2:4"]}, **more})


def test_weights_have_curves_only_where_patterns_are_used() -> None:
    model, graph = stripes.dense()
    assert weight_curves(model, graph, SearchSpace.parse({}), Ignoring()) == {}
    found = weight_curves(model, graph, sparse(), Ignoring())
    sizes = {name: (it.elements, it.inputs, it.blocks) for name, it in found.items()}
    assert sizes == {
        "0.weight": (16 * 9, 1, ()),
        "3.weight": (16 * 16 * 9, 16, ()),
        "9.weight": (3 * 16, 16, ()),
    }
    overall = sum(it.elements * it.at(0.5) for it in found.values())
    assert overall == pytest.approx(0.5 * (144 + 2304 + 48), abs=1.0)
    left = weight_curves(model, graph, sparse(), Ignoring("3", "90"))
    assert set(left) == {"0.weight", "9.weight"}
    assert weight_curves(model, graph, sparse(), Ignoring("0", "3", "9")) == {}


class Ignoring(stripes.Stripes):
    def __init__(self, *layers: str) -> None:
        self.ignored_layers = layers

    def sparsity_score(self, weight: Tensor) -> Tensor:  # the larger a weight, the more zeros
        return torch.full_like(weight, 1.0 / weight.numel())


def test_a_sparsity_is_spread_by_the_score_that_is_asked_for() -> None:
    """Of 144, 2304 and 48 elements half of all are zero: by the task's score in the largest."""
    model, graph = stripes.dense()

    def halves(**patterns: str) -> dict[str, float]:
        space = SearchSpace.parse({"patterns": {"kinds": ["unstructured"], **patterns}})
        found = weight_curves(model, graph, space, Ignoring())
        return {name: curve.at(0.5) for name, curve in found.items()}

    assert halves(score="task") == {
        "0.weight": 0.0,
        "3.weight": pytest.approx(1248 / 2304),
        "9.weight": 0.0,
    }
    weights = dict(model.named_parameters())
    sizes = torch.cat([weights[name].detach().abs().flatten() for name in halves()])
    threshold = sizes.sort().values[1248]
    assert halves(score="magnitude") == {
        name: float((weights[name].abs() < threshold).double().mean()) for name in halves()
    }
    assert halves() == halves(score="lamp") != halves(score="magnitude")


class Target:
    """A device whose profile is there, as far as `correct` and the costs ask."""

    name, profile, int8, is_offline = "", None, None, False

    def __init__(self, error: str = "", **margins: float) -> None:
        self.error, self.margins = error, margins
        self.measured: list[Architecture] = []

    def corrected(self, model: Any, chosen: Any) -> Target:
        if self.error:
            raise DeviceError(self.error)
        self.measured += chosen
        return Target(latency_ms=0.5)


def aimed(ready: Prepared, *targets: Any, objective: str = "latency_ms") -> Prepared:
    objectives = (ready.plan.objectives[0], replace(ready.plan.objectives[1], name=objective))
    plan = replace(ready.plan, objectives=objectives)
    return replace(ready, plan=plan, rig=replace(ready.rig, targets=targets))


CHOSEN = [Architecture({"0": 8, "3": 8})]


def test_predictors_are_corrected_and_margins_with_them(ready: Prepared) -> None:
    target, said = Target(), []
    found = correct(aimed(ready, target), CHOSEN, said.append)
    assert target.measured == CHOSEN
    assert found.plan.margins == {"latency_ms": 0.5}
    assert said == ["latencies of models that use the budget up"]
    assert found.targets[0] is not target


def test_a_device_that_fails_keeps_its_profile(
    ready: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    lost, other = Target("the phone is gone"), Target()
    with caplog.at_level(logging.WARNING):
        found = correct(aimed(ready, lost, other), CHOSEN, lambda text: None)
    assert found.targets[0] is lost
    assert other.measured == CHOSEN
    assert [record.getMessage() for record in caplog.records] == [
        "its profile is used as it is: the phone is gone"
    ]


class Profiled(Target):
    """Its profile is replaced by another when it is corrected."""

    def __init__(self, *predictors: LatencyPredictor) -> None:
        super().__init__()
        self.profile: Any = SimpleNamespace(predictor=predictors[0])
        self.predictors = predictors

    def corrected(self, model: Any, chosen: Any) -> Profiled:
        return Profiled(*self.predictors[1:])


def predictor(graph: PruningGraph, layer: str, ms: float) -> LatencyPredictor:
    """Latency is what one layer takes, in proportion to its multiply-accumulates."""

    def latency(architecture: Architecture) -> float:
        found = network(graph, None, {"it": architecture})
        shares = zip(found.layers, found.models["it"].macs, found.models["dense"].macs, strict=True)
        return sum(ms * macs / dense for info, macs, dense in shares if info.name == layer) + 0.01

    drawn = random_architectures(graph, 60, 0)
    samples = [Sample(graph.counts(each), 1.0, latency(each) / (ms + 0.01)) for each in drawn]
    return LatencyPredictor.from_samples(
        graph, samples, device=Device("x", "torch", threads=1), dense_ms=ms + 0.01
    )


def test_corrected_costs_hold_for_the_blocks_that_may_be_dropped() -> None:
    """A block is kept: it is no item of the space, and a column of the graph's counts."""
    first = next(iter(trace(Deep().build_model(), Deep().example_input()).blocks)).name
    ready, _ = made(Deep(), keep=[first], space={"round_to": 4})
    budget = Budget.parse({"latency_ms": "60%"})
    ready = replace(ready, plan=replace(ready.plan, budget=budget))
    old, new = (predictor(ready.graph, layer, ms) for layer, ms in (("0", 1.0), ("5.conv", 2.0)))
    plan = correct(aimed(ready, Profiled(old, new)), CHOSEN, lambda text: None).plan
    items, blocks = plan.space.items, ready.graph.blocks
    assert len(items) == len(ready.graph.columns()) - 1
    assert len(plan.space.blocks) == len(blocks) - 1
    dense = [ready.graph.sizes().get(name, 1) for name in items]
    assert plan.loads(np.array([dense])) == pytest.approx(1.0 / 0.6)
    assert plan.dense.get("latency_ms") == pytest.approx(2.01)
    assert plan.largest_part is not None
    assert plan.largest_part(Architecture(), "latency_ms").startswith("; 5.conv alone is ")


@pytest.mark.parametrize(("chosen", "objective"), [([], "latency_ms"), (CHOSEN, "params")])
def test_nothing_is_measured_where_nothing_is_chosen_or_no_latency_counts(
    ready: Prepared, chosen: list[Architecture], objective: str
) -> None:
    target = Target()
    made = aimed(ready, target, objective=objective)
    assert correct(made, chosen, print) is made
    assert target.measured == []


def test_a_search_is_offline_where_all_its_devices_are(ready: Prepared) -> None:
    def one(is_offline: bool) -> Any:
        return SimpleNamespace(is_offline=is_offline, device=Device("x"))

    assert aimed(ready, one(True), one(True)).is_offline
    assert not aimed(ready, one(True), one(False)).is_offline
