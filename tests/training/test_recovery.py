from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import StoreError, TaskError, TrainingError
from autoprune.graph import trace
from autoprune.pruning import compensate
from autoprune.schedule import Schedule
from autoprune.space import FittedSpace, SearchSpace
from autoprune.training import Precision, RecoveryRun

SIZES = {"0": 16, "3": 16}
HALF = Architecture({"0": 8, "3": 8})
GRADUAL = Schedule("linear", begin=0.0, end=0.5, steps=3)  # shares 1/3, 2/3, 1


def candidate(**changes: object) -> Candidate:
    selection = Selection(str(changes.pop("importance", "l2")), bool(changes.pop("repair", True)))
    architecture = changes.pop("architecture", HALF)
    options = {"recovery": Recovery(lr=0.05, distillation=0.0), **changes}
    return Candidate.planned(architecture, SIZES, selection=selection, **options)


def run_of(chosen: Candidate, task: Stripes | None = None, **options: object) -> RecoveryRun:
    model, graph = dense()
    return RecoveryRun(
        task or Stripes(), model, graph, chosen, **{"epochs": 2, "seed": 3, **options}
    )


def weights(run: RecoveryRun) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_one_shot_removes_everything_before_the_first_step() -> None:
    run = run_of(candidate())
    run.build()
    assert run.step == 0
    assert {name: len(kept) for name, kept in run.kept_indices.items()} == {"0": 8, "3": 8}
    assert run.model[3].weight.shape == (8, 8, 3, 3)


def test_the_schedule_walks_the_sizes_that_its_milestones_say() -> None:
    run = run_of(candidate(schedule=GRADUAL))  # 12 steps: removals before steps 0, 3 and 6
    sizes = []
    while not run.finished:
        run.advance(1 / 6)
        sizes.append((run.step, run.model[0].out_channels))
    # shares 1/3, 2/3, 1 of 8 units: 16 - 2.67 = 13.3, 16 - 5.33 = 10.7, 8
    assert sizes == [(n, 13) for n in (1, 2)] + [(n, 11) for n in (3, 4, 5)] + [
        (n, 8) for n in range(6, 13)
    ]


def test_keep_names_dense_units_whose_weights_the_model_still_has() -> None:
    plain = candidate(schedule=GRADUAL, repair=False, recovery=Recovery(lr=1e-30, distillation=0))
    run = run_of(plain)
    while not run.finished:
        run.advance(1)
    original, kept = dense()[0][0].weight, list(run.kept_indices["0"])
    assert len(kept) == 8
    assert torch.equal(run.model[0].weight, original[kept])


def test_parameters_and_their_momentum_survive_a_removal_together() -> None:
    run = run_of(candidate(schedule=Schedule("one_shot", 0.5, 0.5)))
    run.advance(5 / 6)
    before = dict(run.model.named_parameters())
    momentum = run._optimization.optimizer.state[before["3.weight"]]["momentum_buffer"].clone()
    run._train_until(6)
    now = dict(run.model.named_parameters())
    assert run.step == 6
    assert all(now[name] is parameter for name, parameter in before.items())
    sliced = run._optimization.optimizer.state[now["3.weight"]]["momentum_buffer"]
    assert sliced.shape == now["3.weight"].shape == (8, 8, 3, 3)
    assert momentum.shape == (16, 16, 3, 3)
    run.advance(1)
    assert run.finished


def test_the_dense_model_and_the_callers_generators_are_left_alone() -> None:
    model, graph = dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run = RecoveryRun(
        Stripes(),
        model,
        graph,
        candidate(recovery=Recovery(lr=0.1, distillation=0.5)),
        epochs=1,
        seed=0,
    )
    run.advance(1)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model.training


def test_training_makes_the_small_model_better() -> None:
    run = run_of(candidate(repair=False, recovery=Recovery(lr=0.1, distillation=0.5)), epochs=6)
    start = run.evaluate("val")["loss"]
    entry = run.advance(6)
    assert entry["loss"] < 0.7 * start
    assert entry["accuracy"] > 0.9


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not() -> None:
    runs = [run_of(candidate(), seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        run.advance(1)
    same, again, other = (weights(run) for run in runs)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["3.weight"], other["3.weight"])


@pytest.mark.parametrize("importance", ["l2", "taylor", "obs"])
@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_resumed_equals_uninterrupted(tmp_path: Path, importance: str, stop_at: int) -> None:
    chosen = candidate(
        schedule=GRADUAL,
        importance=importance,
        recovery=Recovery(lr=0.05, distillation=0.4, regularizer=0.5),
    )
    whole, first, second = run_of(chosen), run_of(chosen), run_of(chosen)
    entries = [whole.advance(stop_at / 6), whole.advance(2)]
    first.advance(stop_at / 6)
    first.save(tmp_path)
    second.restore(tmp_path)
    second.advance(2)
    assert second.finished
    assert second.history == entries
    assert second.kept_indices == whole.kept_indices
    expected, found = weights(whole), weights(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


OPTIONS = Recovery(
    **{"lr": 0.05, "distillation": 0.4, "rewarm": True, "ema": 0.5},
    **{"label_smoothing": 0.1, "mixup": 0.2, "features": 0.5},
)


@pytest.mark.parametrize("stop_at", [4, 8])
def test_resumed_equals_uninterrupted_with_all_options(tmp_path: Path, stop_at: int) -> None:
    chosen = candidate(schedule=GRADUAL, recovery=OPTIONS)
    whole, first, second = run_of(chosen), run_of(chosen), run_of(chosen)
    entries = [whole.advance(stop_at / 6), whole.advance(2)]
    first.advance(stop_at / 6)
    first.save(tmp_path)
    second.restore(tmp_path)
    second.advance(2)
    assert second.history == entries
    expected, found = weights(whole), weights(second)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("name", ["rewarm", "ema", "label_smoothing", "mixup", "features"])
def test_each_option_changes_what_comes_out(name: str) -> None:
    plain = Recovery(lr=0.05, distillation=0.0, warmup=0.25)
    changed = replace(plain, **{name: True if name == "rewarm" else 0.5})
    one, other = (run_of(candidate(schedule=GRADUAL, recovery=r)) for r in (plain, changed))
    one.advance(2)
    other.advance(2)
    assert not torch.equal(one.model[3].weight, other.model[3].weight)


def test_the_average_is_what_is_evaluated_and_kept_and_begins_anew_after_a_removal() -> None:
    run = run_of(candidate(schedule=GRADUAL, recovery=Recovery(lr=0.05, ema=0.9)))
    run.advance(4 / 6)
    averaged, trained = run.model, run._pruner.model
    assert averaged is not trained
    assert averaged[0].weight.shape == trained[0].weight.shape
    assert run._average.updates == 1  # the last removal came before the fourth step
    run.advance(4 / 6)
    assert not torch.equal(run.model[0].weight, run._pruner.model[0].weight)
    assert torch.equal(run.result()[0].weight, run.model[0].weight)
    assert run.evaluate("val") == Stripes().evaluate(run.model, "val")
    assert run.evaluate("val") != Stripes().evaluate(run._pruner.model, "val")


UNPRUNED = Architecture(SIZES)


def recovery(**changes: object) -> Recovery:
    return Recovery(lr=0.05, **{"distillation": 0.0, **changes})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"architecture": UNPRUNED}, {"architecture": UNPRUNED, "schedule": GRADUAL}),
        (
            {"architecture": UNPRUNED, "schedule": GRADUAL},
            {"architecture": UNPRUNED, "recovery": recovery(regularizer=1.0), "schedule": GRADUAL},
        ),
        ({"architecture": UNPRUNED}, {"architecture": UNPRUNED, "repair": False}),
        (
            {"recovery": recovery(distillation=1.0)},
            {"recovery": recovery(distillation=1.0, label_smoothing=0.1)},
        ),
        ({"schedule": GRADUAL}, {"schedule": GRADUAL, "recovery": recovery(rewarm=True)}),
        ({"recovery": recovery(ema=0.99)}, {"recovery": recovery(ema=0.999)}),
    ],
)
def test_candidates_with_one_normal_form_have_equal_weights(
    first: dict[str, object], second: dict[str, object]
) -> None:
    """12 steps: the warm-up is one of them, and the decay at most 13 / 22."""
    spec = {"importance": "l2", "recovery": {"ema": [0.0, 0.99, 0.999]}}
    space = replace(FittedSpace.of(SearchSpace.parse(spec), SIZES), steps=12)
    one, other = candidate(**first), candidate(**second)
    assert one.key != other.key
    assert space.normal(one).key == space.normal(other).key
    found = []
    for chosen in (one, other):
        run = run_of(chosen)
        run.advance(2.0)
        assert run.step == 12
        found.append(weights(run))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_rate_rises_anew_after_each_removal() -> None:
    plain = Recovery(lr=0.05, distillation=0.0, warmup=0.25)
    runs = [
        run_of(candidate(schedule=GRADUAL, recovery=r))
        for r in (plain, replace(plain, rewarm=True))
    ]
    usual, anew = ([run.advance(1 / 6)["lr"] for _ in range(12)] for run in runs)
    share = [b / a for a, b in zip(usual, anew, strict=True)]  # removals before steps 0, 3 and 6
    assert share == pytest.approx([1, 1, 1, 1 / 3, 2 / 3, 1, 1 / 3, 2 / 3, 1, 1, 1, 1])


def test_a_milestone_between_two_steps_is_passed_once() -> None:
    run = run_of(candidate(), epochs=2)  # 6 steps an epoch
    for milestone, step in ((0.7, 5), (1.4, 9), (2.0, 12)):
        entry = run.advance(milestone - run.epoch)
        assert run.step == step
        assert entry["epoch"] >= milestone


def test_pieces_of_training_equal_one_piece() -> None:
    one, many = run_of(candidate(schedule=GRADUAL)), run_of(candidate(schedule=GRADUAL))
    one.advance(2)
    while not many.finished:
        many.advance(0.3)
    assert torch.equal(one.model[3].weight, many.model[3].weight)
    assert one.step == many.step == 12


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run_of(candidate()).save(tmp_path)
    with pytest.raises(StoreError, match="seed is 3 there, 4 here"):
        run_of(candidate(), seed=4).restore(tmp_path)


def test_a_checkpoint_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    run_of(candidate()).save(tmp_path)
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="does not hold this run's weights"):
        run_of(candidate()).restore(tmp_path)
    with pytest.raises(StoreError, match="not a checkpoint"):
        run_of(candidate()).restore(tmp_path / "nowhere")


def test_a_fraction_of_an_epoch_is_trained_to_the_step() -> None:
    run = run_of(candidate(), epochs=0.5)
    assert run.advance(1)["epoch"] == 0.5
    assert run.step == run.total_steps == 3


def test_no_epochs_give_the_repaired_model_of_the_final_size() -> None:
    run = run_of(candidate(schedule=GRADUAL), epochs=0)
    entry = run.advance(0)
    assert run.finished
    assert entry.keys() == {"epoch", "accuracy", "loss", "params"}
    assert run.model[0].out_channels == 8
    # 8 + 8 filters with their norms, and the last layer: 72 + 16 + 576 + 16 + 24 + 3
    assert entry["params"] == 707


def test_the_shared_calibration_is_used_for_the_first_removal_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graph = dense()
    shared = compensate.calibrate(model, list(Stripes().train_loader(0)))
    used = []
    repair = compensate.repair

    def spy(*args: object) -> None:
        used.append(args[-1] is shared)
        repair(*args)

    monkeypatch.setattr(compensate, "repair", spy)
    chosen = candidate(schedule=GRADUAL)
    RecoveryRun(Stripes(), model, graph, chosen, epochs=1, seed=0, calibration=shared).advance(1)
    assert used == [True, False, False]


def test_repair_starts_closer_to_the_dense_model_than_plain_removal() -> None:
    teacher, _ = dense()
    x = torch.cat([batch[0] for batch in Stripes().val_loader()])
    errors = []
    for repair in (True, False):
        run = run_of(candidate(repair=repair, importance="l1"))
        run.build()
        run.model.eval()
        errors.append((run.model(x) - teacher(x)).square().mean().item())
    assert errors[0] < errors[1]


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    run = run_of(candidate(), epochs=10)
    rates = [run.advance(1 / 6)["lr"] for _ in range(60)]
    assert max(rates) == rates[2] == pytest.approx(0.05)
    assert rates[0] == pytest.approx(0.05 / 3)
    assert 0 < rates[-1] < 1e-3 * 0.05 * 2
    assert rates[3:] == sorted(rates[3:], reverse=True)


class Diverges(Stripes):
    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = super().loss(model, batch)
        if model.training:
            self.seen = getattr(self, "seen", 0) + 1
        return value * (float("nan") if getattr(self, "seen", 0) == 5 else 1.0)


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    with pytest.raises(TrainingError, match=r"got nan at step 4 of 12 .* recovery\.lr"):
        run_of(candidate(), Diverges()).advance(2)


class Blind(Stripes):
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return {"accuracy": float("nan")}


def test_a_metric_that_is_not_finite_is_refused() -> None:
    with pytest.raises(TrainingError, match="finite 'accuracy'"):
        run_of(candidate(), Blind()).advance(1)


class Endless(Stripes):
    def train_loader(self, seed: int) -> object:
        return iter(super().train_loader(seed))


class Short(Stripes):
    class Loader(list):
        def __len__(self) -> int:
            return 7

    def train_loader(self, seed: int) -> object:
        return self.Loader(super().train_loader(seed))


def test_a_loader_without_length_or_with_a_wrong_one_is_refused() -> None:
    with pytest.raises(TaskError, match="must have a length"):
        run_of(candidate(), type("NoLen", (Stripes,), {"train_loader": lambda s, n: iter([])})())
    with pytest.raises(TrainingError, match=r"len\(\) = 7 batches, ended after 6"):
        run_of(candidate(), Short()).advance(2)


def test_bf16_and_channels_last_train_the_same_model_a_little_less_exactly() -> None:
    exact, rough = run_of(candidate()), run_of(candidate(), precision=Precision(True, True))
    exact.advance(1)
    rough.advance(1)
    assert rough.model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert rough.model[3].weight.dtype == torch.float32
    assert rough.kept_indices == exact.kept_indices
    difference = (rough.model[3].weight - exact.model[3].weight).abs().max()
    assert 0 < difference < 0.1


def test_a_projection_that_becomes_narrow_ends_channels_last() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
    head = [nn.Conv2d(32, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers, *head)
    half_way = Schedule("linear", begin=0.5, end=0.6, steps=1)
    plan = Candidate(
        Architecture({"2": 8}), schedule=half_way, recovery=Recovery(0.01, distillation=0.5)
    )
    task, graph = Stripes(), trace(model, torch.zeros(1, 1, 8, 8))
    run = RecoveryRun(task, model, graph, plan, epochs=2, seed=0, precision=Precision(False, True))
    layouts = []
    for epochs in (0.5, 1.5):
        run.advance(epochs)
        layouts.append((run.model[4].in_channels, run.model[2].weight.is_contiguous()))
    assert layouts == [(32, False), (8, True)]


def test_metrics_have_the_names_that_evaluate_gives() -> None:
    class ByLoss(Stripes):
        metric, direction = "loss", "minimize"

    for task in (ByLoss(), Stripes()):
        run = run_of(candidate(), task)
        entry = run.advance(1)
        metrics = task.evaluate(run.result(), "val")
        assert set(run.metrics) == set(metrics) == {"accuracy", "loss"}
        assert entry["loss"] == run.metrics["loss"] == pytest.approx(metrics["loss"])
        assert entry["train_loss"] not in (0.0, entry["loss"])


def test_a_state_of_an_earlier_version_has_the_names_of_today(tmp_path: Path) -> None:
    run, again = run_of(candidate()), run_of(candidate())
    run.advance(1)
    run.save(tmp_path)
    file = tmp_path / "state.json"
    state = json.loads(file.read_text())
    entry = state["history"][0]
    entry |= {"val_loss": entry.pop("loss"), "loss": entry.pop("train_loss")}
    file.write_text(json.dumps(state))
    again.restore(tmp_path)
    assert again.history == run.history
    assert again.metrics == run.metrics


def test_metrics_may_be_tensors_and_must_be_numbers() -> None:
    class Tensors(Stripes):
        def evaluate(self, model: nn.Module, split: str) -> dict[str, object]:
            return {"accuracy": torch.tensor(0.5), "top5": np.float32(0.75)}

    entry = run_of(candidate(), Tensors()).advance(1)
    assert (entry["accuracy"], entry["top5"]) == (0.5, 0.75)
    assert {type(value) for value in entry.values()} == {float}

    class Words(Stripes):
        def evaluate(self, model: nn.Module, split: str) -> dict[str, object]:
            return {"accuracy": 0.5, "by class": [0.1, 0.2]}

    with pytest.raises(TaskError, match=r"Words.evaluate must answer numbers, got 'by class'"):
        run_of(candidate(), Words()).advance(1)

    class Taken(Stripes):
        metric = "params"

    with pytest.raises(TaskError, match=r"Taken\.metric must not be called 'params'"):
        run_of(candidate(), Taken()).advance(1)


def test_shared_weights_are_saved_in_any_layout(tmp_path: Path) -> None:
    class Tied(Stripes):
        def build_model(self) -> nn.Module:
            torch.manual_seed(0)
            one, other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            other.weight = one.weight
            layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), one, nn.ReLU(), other]
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    task = Tied()
    model = task.build_model().eval()
    graph = trace(model, task.example_input())
    chosen = Candidate(
        Architecture({name: size // 2 for name, size in graph.sizes().items()}),
        recovery=Recovery(0.05, 0.0, 0.0),
    )
    options = {"epochs": 2, "seed": 0, "precision": Precision(channels_last=True)}
    whole, cut = (RecoveryRun(task, model, graph, chosen, **options) for _ in range(2))
    whole.advance(1)
    whole.advance(1)
    cut.advance(1)
    cut.save(tmp_path)
    again = RecoveryRun(task, model, graph, chosen, **options)
    again.restore(tmp_path)
    again.advance(1)
    for name, tensor in whole.result().state_dict().items():
        assert torch.equal(tensor, again.result().state_dict()[name])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Deep(Stripes):
    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 8, 3), nn.ReLU(), Residual(), Residual()]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def test_a_run_without_a_block_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    task = Deep()
    model = task.build_model().eval()
    graph = trace(model, task.example_input())
    assert [block.name for block in graph.blocks] == ["2", "3"]
    chosen = Candidate.planned(
        Architecture({"0": 4}, ["2"]), graph.sizes(), schedule=Schedule("linear", 0.0, 0.6, 2)
    )
    whole, cut, again = (RecoveryRun(task, model, graph, chosen, epochs=2, seed=0) for _ in "abc")
    whole.advance(1)
    whole.advance(1)
    cut.advance(1)
    cut.save(tmp_path)
    again.restore(tmp_path)
    again.advance(1)
    assert not any(name.startswith("2.") for name in again.model.state_dict())
    for name, tensor in whole.result().state_dict().items():
        assert torch.equal(tensor, again.result().state_dict()[name]), name


class Mislabelled(Stripes):
    """Labels of more classes than the model has."""

    def train_loader(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        return [(x, y + 5) for x, y in super().train_loader(seed)]


@pytest.mark.parametrize("repair", [False, True])  # with it, calibration meets them first
def test_batches_that_do_not_fit_the_model_are_named(repair: bool) -> None:
    says = (
        r"^Mislabelled\.loss failed on a batch of train_loader \(.*\): IndexError: Target \d is out"
    )
    with pytest.raises(TaskError, match=says):
        run_of(candidate(repair=repair), Mislabelled()).advance(1)
