"""Equal cost: what methods choose and train, which share is asked for next, and the table."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from stripes import Stripes
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import TrainingError
from autoprune.graph import trace
from autoprune.schedule import Schedule
from scripts.benchmarks.ablation import __main__ as ablation
from scripts.benchmarks.ablation.__main__ import same_models
from scripts.benchmarks.equal_cost import rules
from scripts.benchmarks.equal_cost.__main__ import Choices, described, trained
from scripts.benchmarks.equal_cost.bench import METHODS, SMALLER, TASKS, Bench, Method
from scripts.benchmarks.equal_cost.table import KEY, TESTED, at_equal_cost, binomial, summary
from scripts.benchmarks.equal_cost.whole import run_folder
from scripts.benchmarks.harness import Rows
from scripts.benchmarks.matching import Match, Matches, matched, nearer, rescaled


def named(width: int) -> Architecture:
    return Architecture({"a": width})


def test_the_next_share_is_in_proportion_to_what_was_measured() -> None:
    assert rescaled(asked=0.25, measured=0.5, wanted=0.25) == 0.125
    assert rescaled(asked=0.2, measured=0.16, wanted=0.24) == pytest.approx(0.3)
    assert rescaled(asked=0.3, measured=0.25, wanted=0.25) == 0.3


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        (0.20, 0.24, 0.24),  # both within: the larger one
        (0.26, 0.10, 0.10),  # only one within, however far
        (0.26, 0.31, 0.26),  # none within: the smaller one
        (0.25, 0.26, 0.25),  # at the wanted share is within
    ],
)
def test_the_nearest_at_or_below_is_kept(one: float, other: float, kept: float) -> None:
    pair = [Match(named(8), one, 1), Match(named(9), other, 2)]
    assert nearer(*pair, wanted=0.25).measured == kept
    assert nearer(*reversed(pair), wanted=0.25).measured == kept


def run(wanted: float, shares: dict[float, tuple[int, float]]) -> tuple[Match, list[float]]:
    """`shares` has for each share that may be asked for a width, and what that takes."""
    asked: list[float] = []
    taken = dict(shares.values())

    def choose(share: float) -> Architecture:
        asked.append(round(share, 6))
        return named(shares[asked[-1]][0])

    return matched(wanted, choose, lambda it: taken[it.widths["a"]]), asked


def rows_of(measured: float, predicted: float = 0.25) -> pd.DataFrame:
    return pd.DataFrame(
        {"share": [0.25], "measured_share": [measured], "predicted_share": [predicted]}
    )


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (rows_of(0.25), rows_of(0.24), True),
        (rows_of(0.42), rows_of(0.25), False),
        (rows_of(0.2), rows_of(0.25), False),
        (rows_of(0.42), rows_of(0.42), False),  # equal, but not at the share
        (rows_of(float("nan")), rows_of(float("nan"), 0.24), True),
        (rows_of(float("nan")), rows_of(float("nan"), 0.3), False),
    ],
)
def test_methods_are_compared_at_equal_cost_within_the_share_only(
    one: pd.DataFrame, other: pd.DataFrame, equal: bool
) -> None:
    assert at_equal_cost(one, other) is equal


def test_the_binomial_error_is_of_the_tasks_test_samples() -> None:
    rows = pd.DataFrame({"task": ["keywords"] * 2, "test_accuracy": [0.85, 0.95]})
    assert binomial(rows) == pytest.approx((0.9 * 0.1 / 1238) ** 0.5)
    assert set(TESTED) == set(TASKS)


def test_a_method_is_not_compared_with_itself() -> None:
    names = ["precision", "dropped", "macs_share", "file_bytes", "lr", "test_accuracy"]
    one = pd.DataFrame({"seed": [0, 1], **{name: [1.0, 2.0] for name in names}})
    assert same_models(one, one.copy())
    assert not same_models(one, one.assign(test_accuracy=[1.0, 3.0]))
    assert not same_models(one, one.iloc[:0])


def test_it_ends_where_a_round_is_near_enough() -> None:
    found, asked = run(0.25, {0.25: (8, 0.247)})
    assert (found, asked) == (Match(named(8), 0.247, 1), [0.25])


def test_it_is_chosen_again_for_a_rescaled_share() -> None:
    # twice what was asked for: 0.25 * 0.2475 / 0.5; then too little: 0.12375 * 0.2475 / 0.2
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (4, 0.2), 0.153141: (5, 0.246)})
    assert (found, asked) == (Match(named(5), 0.246, 3), [0.25, 0.12375, 0.153141])


def test_three_rounds_are_the_most_and_the_nearest_below_is_kept() -> None:
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (4, 0.2), 0.153141: (5, 0.3)})
    assert (found, len(asked)) == (Match(named(4), 0.2, 3), 3)


def test_the_same_architecture_is_not_measured_twice() -> None:
    found, asked = run(0.25, {0.25: (8, 0.5), 0.12375: (8, 0.5)})
    assert (found, asked) == (Match(named(8), 0.5, 1), [0.25, 0.12375])


def test_a_match_in_the_file_is_kept(tmp_path: Path) -> None:
    first, other = Match(named(8), 0.247, 1), Match(named(9), 0.2, 2)
    assert Matches(tmp_path / "chosen.json").get("both 0.25", lambda: first) == first
    again = Matches(tmp_path / "chosen.json")
    assert again.get("both 0.25", lambda: other) == first
    assert again.get("both 0.12", lambda: other) == other


def row(method: str, accuracy: float, **more: object) -> dict[str, object]:
    return {
        **{"task": "resnet20", "cost": "latency_ms", "share": 0.25, "epochs": 12.0},
        **{"rates": "[0.02]", "matched": True, "dense_epochs": 0, "seed": 0, "lr": 0.02},
        **{"measured_share": 0.25, "predicted_share": 0.25, "file_share": 0.2, "dropped": 0},
        **{"macs_share": 0.2, "method": method},
        **{"val_accuracy": accuracy, "test_accuracy": accuracy},
        **more,
    }


def test_a_search_is_compared_with_the_best_baseline_but_limits_what_is_predicted() -> None:
    rows = [row("FastNAS rule", 0.8), row("knapsack of units", 0.81), row("search", 0.85)]
    lines = summary(pd.DataFrame(rows)).set_index("method")
    assert list(lines.equal) == ["measured", "measured", "predicted"]
    assert list(lines.lead) == ["", "", "+4.00 pt"]


def test_rows_of_another_dense_model_have_lines_of_their_own() -> None:
    rows = [row("uniform", 0.8), {**row("uniform", 0.7), "dense_epochs": 40}]
    lines = summary(pd.DataFrame(rows))
    assert list(lines.dense) == ["the task's", "40 epochs"]
    assert list(lines.test) == ["80.00 %", "70.00 %"]


def test_a_recipe_of_the_search_is_compared_with_baselines_that_have_it_too() -> None:
    rows = [
        *(row("channels", 0.8), row("channels, search's recipe", 0.84)),
        *(row("search", 0.83), row("search, its recipe", 0.85)),
    ]
    lines = summary(pd.DataFrame(rows)).set_index("method")
    assert list(lines.lead) == ["", "", "+3.00 pt", "+1.00 pt"]


def test_the_ablation_names_the_dense_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = Rows(tmp_path / "rows.csv", KEY)
    pair = [row("uniform", 0.8, precision="float32"), row("channels", 0.85, precision="float32")]
    file.put(*({**each, "dense_epochs": 40, "file_bytes": 1} for each in pair))
    monkeypatch.setattr(ablation, "stored_rows", lambda: file)
    (line,) = ablation.equal_costs()
    assert str(line["what"]).endswith("rate 0.02, dense model of 40 epochs")


class Net(nn.Module):
    """One group of 40 units."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 40, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(40)
        self.head = nn.Linear(40, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


def test_all_rules_keep_a_twentieth_of_a_layer_at_the_least() -> None:
    pytest.importorskip("torch_pruning")
    dense, task = Net().eval(), Stripes()
    graph = trace(dense, task.example_input())
    found = [
        rules.uniform(graph),
        rules.global_l2(dense, graph, task.example_input()),
        rules.fastnas(task, dense, graph),
    ]
    assert [round(counts(rules.MAX_RATIO)["conv"]) for counts in found] == [2, 2, 2]


@dataclass
class Fake:
    """A bench that says what it was asked for."""

    name: str = "resnet56"
    cost: str = "weight_bytes"
    dense_epochs: int = 0
    dense_cost: float = 100.0
    asked: list[str] = field(default_factory=list)

    @property
    def plan(self) -> SimpleNamespace:
        return SimpleNamespace(space=SimpleNamespace(resized=self._resized))

    def _resized(self, found: Candidate, architecture: Architecture) -> Candidate:
        return Candidate(architecture, recovery=found.recovery)

    def architecture(self, how: Method, share: float) -> Architecture:
        self.asked.append(f"{how.choice} {share:g}")
        return named(len(self.asked))

    def candidate(self, how: Method, architecture: Architecture) -> Candidate:
        return Candidate(architecture)

    def searched(self, share: float, seed: int) -> Candidate:
        return Candidate(named(99), recovery=Recovery(features=10.0 + seed))


def choices(bench: Fake, file: Path) -> Choices:
    return Choices(bench, Matches(file), is_matched=False)  # type: ignore[arg-type]


def test_other_seeds_processes_and_trainings_have_the_architecture_of_the_first(
    tmp_path: Path,
) -> None:
    file = tmp_path / "chosen.json"
    first, later = Fake(), Fake()
    one = choices(first, file).of(METHODS["uniform"], 0.25, 0)
    other = choices(later, file).of(METHODS["from scratch, double epochs"], 0.25, 1)
    assert one.candidate.architecture == other.candidate.architecture == named(1)
    assert (first.asked, later.asked) == (["uniform 0.25"], [])
    more = choices(later, file)
    for method, share in (("channels", 0.25), ("uniform", 0.12), ("channels + blocks", 0.25)):
        more.of(METHODS[method], share, 0)
    choices(Fake(dense_epochs=40, asked=later.asked), file).of(METHODS["uniform"], 0.25, 0)
    assert later.asked == [
        *("allocated 0.25", "uniform 0.12", "allocated + blocks 0.25", "uniform 0.25"),
    ]


def test_baselines_with_the_searchs_recipe_have_their_own_architecture(tmp_path: Path) -> None:
    ours = choices(Fake(), tmp_path / "chosen.json")
    plain = ours.of(METHODS["channels"], 0.25, 1)
    with_recipe = ours.of(METHODS["channels, search's recipe"], 0.25, 1)
    assert with_recipe.candidate.architecture == plain.candidate.architecture == named(1)
    assert (plain.candidate.recovery.features, with_recipe.candidate.recovery.features) == (0, 11)
    whole = ours.of(METHODS["search, its recipe"], 0.25, 1)
    assert whole.candidate.architecture == named(99)


class Training:
    def __init__(self, lr: float) -> None:
        self.lr, self.finished, self.metrics = lr, False, {"accuracy": 0.9 - lr}

    def advance(self, epochs: float) -> None:
        if self.lr > 0.04:
            raise TrainingError("the loss is nan")
        self.finished = True


def run_of(candidate: Candidate, epochs: float, lr: float, seed: int, *, scratch: bool) -> Training:
    return Training(lr)


@pytest.mark.parametrize(
    ("rates", "best"), [([0.05, 0.01], 0.01), ([0.01, 0.02, 0.05], 0.01), ([0.05, 0.06], None)]
)
def test_a_training_that_fails_is_worse_than_all_others(
    rates: list[float], best: float | None
) -> None:
    given, bench = Namespace(epochs=2.0, rates=rates), SimpleNamespace(run=run_of)
    candidate = Candidate(named(8))
    found = trained(bench, METHODS["uniform"], candidate, given, 0)  # type: ignore[arg-type]
    assert (found.lr if found else None) == best


TOY = """
from deep_task import Deep, Wider

class Toy(Wider):
    def __init__(self, dense_epochs=1):
        self.dense_epochs = dense_epochs

class Small(Deep):
    def __init__(self, dense_epochs=1):
        self.dense_epochs = dense_epochs
"""


@pytest.mark.slow
def test_dense_models_widths_and_recipes_are_what_methods_ask_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    for name, cls in (("toy", "Toy"), ("small", "Small")):
        monkeypatch.setitem(TASKS, name, f"{tmp_path / 'toy.py'}:{cls}")
    monkeypatch.setitem(SMALLER, "toy", "small")
    bench = Bench("toy", "weight_bytes", dense_epochs=2)
    ours = Choices(bench, Matches(tmp_path / "chosen.json"), is_matched=False)
    choice = ours.of(METHODS["smaller dense model, channels + blocks"], 0.3, 0)
    assert (bench.task.dense_epochs, choice.bench.task.dense_epochs) == (2, 2)
    assert choice.bench.graph.sizes() == {"0": 12}
    about = described(bench, choice.bench, choice.candidate.architecture)
    assert 0.1 < about["predicted_share"] <= 0.3
    dense = Candidate.planned(
        Architecture(),
        bench.graph.sizes(),
        schedule=Schedule("cubic", 0.0, 0.5, 4),
        recovery=Recovery(features=10.0),
    )
    monkeypatch.setattr(Bench, "searched", lambda *_: dense)
    plain, taught = (
        ours.of(METHODS[name], 0.3, 0).candidate
        for name in ("channels", "channels, search's recipe")
    )
    assert taught.architecture == plain.architecture != dense.architecture
    assert (len(taught.stages), taught.recovery) == (4, dense.recovery)


def test_searches_of_another_dense_model_have_another_folder() -> None:
    assert run_folder("a.py:Net", "macs", 0.25, 1, 0).name == "Net-macs-0.25-1"
    assert run_folder("a.py:Net", "macs", 0.25, 1, 40).name == "Net-macs-0.25-1-40"
