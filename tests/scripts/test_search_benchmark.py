"""The accounting of scripts/benchmarks/search: what counts as compute, and what the tables read."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.graph import trace
from autoprune.tasks import Task
from autoprune.training import Answers, RecoveryRun
from autoprune.training.precision import Call

pytest.importorskip("torch_pruning")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    package = importlib.import_module("scripts.benchmarks.search")
    names = ("meter", "setup", "handmade", "loop", "modelopt", "searched", "table", "text")
    for name in (*names, "picture", "__main__"):
        importlib.import_module(f"scripts.benchmarks.search.{name}")
    return package


class Net(nn.Module):
    """Convolution 1 -> 4 on 6 x 6 (4 x 9 x 36 = 1,296 MACs), then linear 4 -> 2 (8 MACs)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


MACS = 1296.0 + 8.0


class Bright(Task):
    """Is the sum of a picture above 0."""

    dense_epochs = 0

    def build_model(self) -> nn.Module:
        return Net()

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 1, 6, 6)

    def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x = torch.randn(5, 8, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
        return [(batch, (batch.sum((1, 2, 3)) > 0).long()) for batch in x]

    def val_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.train_loader(1)

    def test_loader(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.train_loader(2)


def test_training_counts_samples_and_other_passes_count_a_third(
    bench: ModuleType, tmp_path: Path
) -> None:
    net = Net()
    with bench.meter.metered(tmp_path, Net):
        for _ in range(3):
            net(torch.zeros(10, 1, 6, 6)).sum().backward()
        with torch.no_grad():
            net(torch.zeros(6, 1, 6, 6))
            net.head(torch.zeros(81, 4))  # half of what one whole pass costs: 81 x 8 = 648
    found = bench.meter.total(tmp_path)
    assert found.samples == 30
    assert found.training_macs == 30 * MACS
    assert found.spent(MACS) == pytest.approx(30 + (6 + 648 / MACS) / 3)
    assert found.weighted(MACS) == pytest.approx(30 + (6 + 648 / MACS) / 3)


def test_a_smaller_model_in_training_still_counts_whole_samples(
    bench: ModuleType, tmp_path: Path
) -> None:
    with bench.meter.metered(tmp_path, Net):
        Net()(torch.zeros(10, 1, 6, 6)).sum().backward()
    found = bench.meter.total(tmp_path)
    assert found.spent(2 * MACS) == 10.0
    assert found.weighted(2 * MACS) == 5.0


def test_nothing_is_counted_outside_and_a_new_count_starts_at_zero(
    bench: ModuleType, tmp_path: Path
) -> None:
    net = Net()
    with bench.meter.metered(tmp_path, Net):
        net(torch.zeros(4, 1, 6, 6))
    net(torch.zeros(100, 1, 6, 6))
    assert bench.meter.total(tmp_path).samples == 4
    with bench.meter.metered(tmp_path, Net):
        assert bench.meter.total(tmp_path).samples == 0


def test_tracing_a_model_while_it_is_counted_finds_the_same_groups(
    bench: ModuleType, tmp_path: Path
) -> None:
    with bench.meter.metered(tmp_path, Net):
        graph = trace(Net().eval(), torch.zeros(1, 1, 6, 6))
    assert graph.sizes() == {"conv": 4}


def test_counts_of_several_processes_add_up(bench: ModuleType, tmp_path: Path) -> None:
    other = '{"samples": 5, "training_macs": 10.0, "other_macs": 6.0}'
    with bench.meter.metered(tmp_path, Net):
        (tmp_path / "passes-1.json").write_text(other)
        Net()(torch.zeros(2, 1, 6, 6))
        assert bench.meter.total(tmp_path).samples == 7
    assert bench.meter.total(tmp_path).spent(2.0) == 7 + (6.0 / 2.0) / 3


def test_every_trial_asks_the_teacher_while_passes_are_counted(
    bench: ModuleType, ready: object
) -> None:
    def trained(answers: Answers) -> float:
        before = ready.spent()
        options = {"epochs": 0.8, "seed": 0, "answers": answers}
        run = RecoveryRun(
            ready.task, ready.dense, ready.graph, ready.candidate({"conv": 2}), **options
        )
        run.advance(0.8)
        return ready.spent() - before

    answers = Answers()
    with bench.meter.metered(ready.counts, Net):
        spent = [trained(answers) for _ in range(2)]
    # 4 steps of 8 and the teacher's third, validation and statistics of half the model
    assert spent == [pytest.approx(32 * 4 / 3 + 0.5 * (40 + 40) / 3)] * 2
    kept = Answers()  # as in the product
    call = Call((torch.ones(1),), {}, None)
    found = [kept.of(call, ready.precision, lambda it=it: torch.tensor(it)) for it in (1.0, 2.0)]
    assert [float(it) for it in found] == [1.0, 1.0]


@pytest.fixture(scope="module")
def ready(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    dense = Net().eval()
    task = Bright()
    graph = trace(dense, task.example_input())
    setup = bench.setup
    return setup.Setup(
        job=setup.Job("bright", steps=4, trials=5),
        task=bench.meter.Metered(task, folder / "passes", folder / "none"),
        dense=dense,
        graph=graph,
        costs=setup.CostModel(graph),
        precision=setup.Precision(),
        folder=folder,
        batch=8,
        epoch_steps=5,
        checked=40 + 512,
    )


def test_a_handmade_run_stays_within_the_budget_and_its_plan_is_what_it_spends(
    bench: ModuleType, ready: object
) -> None:
    budget = ready.budget()
    with bench.meter.metered(ready.counts, Net):
        tried = bench.handmade.run(ready, 0, budget, rule=bench.handmade.uniform)
    shares = [trial.share for trial in tried]
    assert shares == [0.5, 0.25]
    for trial, previous in zip(tried, [0.0, *(t.spent for t in tried)], strict=False):
        # 4 steps of 8 and the teacher's third; the loader's 40 samples are all there are for
        # BatchNorm, 472 fewer than planned
        expected = 32 * 4 / 3 + trial.share * (40 + 40) / 3
        assert trial.spent - previous == pytest.approx(expected)
        assert expected == pytest.approx(ready.planned(trial.share) - trial.share * 472 / 3)
    assert tried[-1].spent <= budget


def test_the_largest_model_within_a_level_is_taken(bench: ModuleType, ready: object) -> None:
    rule = bench.handmade.uniform(ready, 0)
    assert [rule(level)[0] for level in (1.0, 0.74, 0.5, 0.3)] == [
        {"conv": 4},
        {"conv": 2},
        {"conv": 2},
        {"conv": 1},
    ]


def test_the_competent_loop_begins_with_the_uniform_points_that_rules_are_told(
    bench: ModuleType, ready: object
) -> None:
    points = bench.loop.uniform_points(ready, 0)  # at 70, 50, 35, 25, 12 and 6 %
    assert [point["ratio.conv"] for point in points] == [0.5, 0.5, 0.75, 0.75, 0.75, 0.75]


def test_the_competent_loop_moves_a_proposal_into_the_budget_and_leaves_one_within(
    bench: ModuleType, ready: object
) -> None:
    assert bench.loop.within(ready, {"conv": 0.1}) == {"conv": 2}  # 3 or 4 cost over 70 %
    assert bench.loop.within(ready, {"conv": 0.75}) == {"conv": 1}


def test_torch_pruning_s_units_are_read_from_its_own_cut(bench: ModuleType, ready: object) -> None:
    dense = Net().eval()
    with torch.no_grad():  # channels 0 and 2 are the smaller ones in every tensor
        dense.conv.weight[[0, 2]] *= 1e-3
        dense.bn.weight[[0, 2]] *= 1e-3
        dense.head.weight[:, [0, 2]] *= 1e-3
    before = dense.bn.running_mean.clone()
    kept = bench.handmade.torch_pruned(dense, ready.graph, ready.task.example_input(), 0.5)
    assert kept == {"conv": (1, 3)}
    assert torch.equal(dense.bn.running_mean, before)


def test_modelopt_s_ratios_and_units_are_read_from_its_own_search(
    bench: ModuleType, ready: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt")
    accuracies = {4: 0.9, 3: 0.8, 2: 0.7, 1: 0.1}
    monkeypatch.setattr(
        bench.modelopt, "score", lambda setup, model, samples: accuracies[model[1].num_features]
    )
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    dense = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():  # it goes by what the next layer makes of a channel
        dense[3].weight[:, [0, 2]] *= 1e-3
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    graph = trace(dense, torch.zeros(1, 1, 6, 6))
    given = replace(ready, dense=dense, graph=graph, costs=bench.setup.CostModel(graph))
    rule = bench.modelopt.modelopt(given, 0)
    whole = (0, 1, 2, 3)  # the layer before a flatten is not one that it cuts
    assert rule(0.51) == ({"0": 2, "3": 4}, {"0": (1, 3), "3": whole})
    counts, units = rule(0.3)
    assert counts == {"0": 1, "3": 4}
    assert units["0"] in ((1,), (3,))
    assert rule(0.01) == (counts, units)  # its smallest model
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())


def searched_with(
    bench: ModuleType, ready: object, monkeypatch: pytest.MonkeyPatch, method: str
) -> RunConfig:
    """The configuration that a method of the benchmark searches with."""
    configs: list[RunConfig] = []

    def search(config: RunConfig, task: Task, folder: Path, progress: object) -> None:
        configs.append(config)
        folder.mkdir(parents=True)
        (folder / bench.searched.RECORDS).touch()

    monkeypatch.setattr(bench.searched, "search_run", search)
    methods = importlib.import_module("scripts.benchmarks.search.__main__").METHODS
    methods[method](ready, 0, ready.budget())
    [config] = configs
    return config


@pytest.mark.parametrize(
    ("method", "variables", "lr"),
    [
        ("autoprune", "auto", 0.02),
        ("autoprune_ratios", "ratios", 0.02),
        ("autoprune_lr0.01", "auto", 0.01),
        ("autoprune_recipe", "auto", {"min": 0.005, "max": 0.1, "log": True}),
    ],
)
def test_a_search_has_the_default_variables_and_rate_unless_its_name_says_otherwise(
    bench: ModuleType,
    ready: object,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    variables: str,
    lr: object,
) -> None:
    config = searched_with(bench, ready, monkeypatch, method)
    given = config.model_dump(mode="json", exclude_unset=True)
    assert config.search.variables == variables
    assert given["space"]["recovery"]["lr"] == lr


def test_the_search_is_told_the_costs_of_the_rules(
    bench: ModuleType, ready: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = searched_with(bench, ready, monkeypatch, "autoprune_levels")
    told = [budget.limits[0].value for budget in config.levels]
    assert told == pytest.approx(bench.setup.TOLD[1:])


def test_rows_are_of_methods_that_can_be_run(bench: ModuleType) -> None:
    methods = importlib.import_module("scripts.benchmarks.search.__main__").METHODS
    table = bench.table.Table(bench.setup.RESULTS / "search" / "trials.csv")
    assert {name.partition(" x")[0] for name in table.data.method} <= set(methods)
    assert set(bench.table.SEARCHES) <= set(methods) & set(bench.picture.COLOURS)


def test_fastnas_drops_never_rise_with_size(bench: ModuleType, ready: object) -> None:
    table = bench.handmade.drops(ready.task, ready.dense, ready.graph, 0)
    assert table.counts["conv"][-1] == 4
    assert table.increases["conv"][-1] == 0.0
    assert list(table.increases["conv"]) == sorted(table.increases["conv"], reverse=True)


def rows(points: list[tuple[float, float, float]], **more: object) -> pd.DataFrame:
    """Counted trials from (spent, cost share, validation accuracy)."""
    data = pd.DataFrame(points, columns=["spent", "macs_share", "val_accuracy"])
    return data.assign(state="complete", counted=True, **more)


def test_a_level_is_met_by_the_best_on_validation_at_or_below_it(bench: ModuleType) -> None:
    trials = rows([(1, 0.7, 0.9), (2, 0.5, 0.8), (3, 0.4, 0.8), (4, 0.3, 0.85)])
    assert bench.table.at_most(trials, 0.7).macs_share == 0.7
    assert bench.table.at_most(trials, 0.5).macs_share == 0.3
    assert bench.table.at_most(trials[:3], 0.5).macs_share == 0.4
    assert bench.table.at_most(trials, 0.25) is None
    assert bench.table.at_most(trials.assign(counted=False), 0.7) is None


def test_needed_compute_is_the_first_that_reaches(bench: ModuleType) -> None:
    # Volumes over 0.5: 0.5 x 0.4 = 0.2 -> 0.4; then + (0.5 - 0.25) x 0.3 -> 0.55
    trials = rows([(10, 0.5, 0.9), (30, 0.25, 0.8), (20, 0.6, 0.85)])
    assert bench.table.needed(trials, 0.4 - 1e-9) == 10
    assert bench.table.needed(trials, 0.5) == 30
    assert bench.table.needed(trials, 0.56) == math.inf


def test_what_ended_after_the_compute_was_spent_does_not_count(bench: ModuleType) -> None:
    tried = bench.setup.Tried(
        number=0,
        state="complete",
        origin="",
        candidate=None,
        share=0.5,
        params=1,
        epochs=1.0,
        accuracy=0.9,
        spent=100.0,
        wall_s=1.0,
        train_s=1.0,
        model=None,
    )
    assert bench.table.counts(tried, 100.0)
    assert not bench.table.counts(tried, 99.9)


def test_a_table_keeps_whole_runs_and_says_which_are_there(
    bench: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trials.csv"
    run = {"task": "a", "method": "uniform", "seed": 0}
    bench.table.Table(path).add([{**run, "trial": 0}, {**run, "trial": 1}])
    again = bench.table.Table(path)
    assert again.has("a", "uniform", 0)
    assert not again.has("a", "uniform", 1)
    again.add([{**run, "seed": 1, "trial": 0}])
    assert len(bench.table.Table(path).of("a", "uniform")) == 3


def test_processes_that_share_a_table_lose_no_runs(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    run = {"task": "a", "method": "uniform", "trial": 0}
    bench.table.Table(path).add([{**run, "seed": 0, "spent": 1.0}])
    one, other = bench.table.Table(path), bench.table.Table(path)
    one.add([{**run, "seed": 1}])
    other.add([{**run, "seed": 0, "spent": 2.0}])
    found = bench.table.Table(path)
    assert found.has("a", "uniform", 1)
    assert found.of("a", "uniform", 0).spent.tolist() == [2.0]


def test_the_summary_reads_fronts_levels_and_compute(bench: ModuleType, tmp_path: Path) -> None:
    circumstances = {
        "task": "a",
        "method": "uniform",
        "seed": 0,
        "factor": 1.0,
        "budget": 100.0,
        "run_spent": 90.0,
        "run_samples": 45,
        "run_weighted": 60.0,
        "run_wall_s": 120.0,
        "setting": "1 x 1",
        "dense": "0",
        "dense_macs": 1e6,
        "dense_test": 0.95,
        "machine": "m",
        "threads": 1,
        "precision": "float32",
        "versions": "v",
    }
    trials = rows([(1, 0.7, 0.9), (2, 0.5, 0.9), (3, 0.2, 0.6)], **circumstances)
    trials["front"] = [False, True, True]
    trials["test_accuracy"] = [None, 0.8, 0.7]
    table = bench.table.Table(tmp_path / "trials.csv")
    table.add(trials.to_dict("records"))
    found = bench.table.summary(table, "a").iloc[0]
    # (0.5 x 0.3 + (0.5 - 0.2) x 0.2) / 0.5
    assert found.hv_test == pytest.approx(0.42)
    assert [found["at_70%"], found["at_50%"], found["at_35%"], found["at_25%"]] == [
        0.8,
        0.8,
        0.7,
        0.7,
    ]
    assert (found.spent, found.other, found.macs, found.wall_min) == (0.9, 0.5, 0.6, 2.0)
    words = bench.text.markdown(table, pd.DataFrame(columns=["task"]))
    assert "| uniform | 1 | 0.4200 |" in words

    about = {"task": "a", "method": "uniform", "seed": 0, "epochs": 20.0, "precision": "bf16"}
    about |= {"macs_share": 0.2, "val_accuracy": 0.9, "test_accuracy": 0.9}
    long = pd.DataFrame([{**about, "level": level} for level in (0.5, 0.25, 0.1)])
    words = bench.text.markdown(table, long)  # there is no member at 10 %
    assert "| uniform | 1 | 0.6400 | 90.00 (20%) | 90.00 (20%) | 90.00 (20%) |" in words
    long.loc[1, "seed"] = 1  # seed 0 has one at 25 % that is not recovered
    words = bench.text.markdown(table, long)
    assert "| uniform | 2 | 0.6400 (1 of 2) | 90.00 (20%, 1 of 2 seeds) |" in words


def runs(method: str, seeds: list[int], volumes: list[float], at_70: list[float]) -> pd.DataFrame:
    """Runs as in the summary; they have no model below 70 %."""
    levels = {f"at_{level}%": math.nan for level in (50, 35, 25, 12, 6)}
    found = {"method": method, "seed": seeds, "hv_test": volumes, "at_70%": at_70, **levels}
    return pd.DataFrame(found)


def test_differences_are_paired_by_seed_with_an_interval(bench: ModuleType) -> None:
    both = pd.concat(
        [
            runs("uniform", [0, 1, 2], [0.50, 0.60, 0.70], [0.9, 0.8, 0.7]),
            runs("autoprune", [2, 1, 0], [0.73, 0.62, 0.51], [math.nan, 0.82, 0.91]),
            runs("fastnas", [1], [0.59], [0.8]),
            runs("modelopt", [5], [0.9], [0.9]),
        ]
    )
    lines = bench.text._differences(
        both, ["autoprune", "uniform", "fastnas", "modelopt"], "uniform"
    )
    # differences 1, 2, 3: 2 ± 4.303 x 1 / sqrt(3); 1, 2: 1.5 ± 12.706 x 0.7071 / sqrt(2)
    assert lines[4:] == [
        "| autoprune | 3 | +2.00 (-0.48 to +4.48) | +1.50 (-4.85 to +7.85), 2 of 3 seeds "
        "| – | – | – | – | – |",
        "| fastnas | 1 | -1.00 | +0.00 | – | – | – | – | – |",
        "",
    ]
    assert bench.text._differences(both, ["fastnas"], "uniform_repaired") == []


def test_few_test_samples_bring_an_error_of_their_own(bench: ModuleType) -> None:
    accuracies = pd.Series([0.80, 0.84])
    # sqrt(0.82 x 0.18 / 300) = 0.0222
    assert bench.text._accuracy(accuracies, "spoken_digits") == "82.00 ± 2.83 [2.2]"
    assert bench.text._accuracy(accuracies, "cifar10") == "82.00 ± 2.83"
    assert bench.text._accuracy(pd.Series([math.nan]), "spoken_digits") == "–"


def test_a_missing_number_of_a_frame_is_a_dash(bench: ModuleType) -> None:
    frame = pd.DataFrame({"0.01": [63.62, math.nan]}, index=["repaired", "plain"])
    assert bench.text.frame(frame, 1) == (
        "|  | 0.01 |\n|---|---:|\n| repaired | 63.6 |\n| plain | – |"
    )
