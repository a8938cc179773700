import math
import pickle

import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks import Task


class Toy(Task):
    """Two classes on a line; the last batch is smaller."""

    dense_epochs = 3
    dense_lr = 0.05

    def build_model(self):
        return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def example_input(self):
        return torch.zeros(1, 1)

    def train_loader(self, seed):
        x = torch.randn(96, 1, generator=torch.Generator().manual_seed(seed))
        return [(part, (part[:, 0] > 0).long()) for part in x.split(16)]

    def val_loader(self):
        x = torch.tensor([[-1.0], [2.0], [3.0]])
        return [(x, torch.tensor([0, 1, 0])), (x[:1], torch.tensor([0]))]

    def test_loader(self):
        return [(torch.ones(1, 1), torch.tensor([1]))]


class Sign(nn.Module):
    def forward(self, x):
        return torch.cat([-x, x], 1)


def test_evaluate_counts_every_sample_once():
    scores = Toy().evaluate(Sign(), "val")
    # right on -1, 2 and again -1; wrong on 3 · losses log(1 + e^-2d) with d = 1, 2, -3, 1
    expected = sum(math.log1p(math.exp(-2 * d)) for d in (1, 2, -3, 1)) / 4
    assert scores["accuracy"] == 0.75
    assert scores["loss"] == pytest.approx(expected, rel=1e-6)


def test_evaluate_reads_the_split_that_was_asked_for():
    assert Toy().evaluate(Sign(), "test")["accuracy"] == 1.0
    with pytest.raises(TaskError, match="split must be 'val' or 'test', got 'train'"):
        Toy().evaluate(Sign(), "train")


def test_evaluate_leaves_modes_and_statistics_alone():
    model = Toy().build_model().train()
    model[1].eval()
    before = model[1].running_mean.clone()
    Toy().evaluate(model, "val")
    assert [module.training for module in model] == [True, False, True, True]
    assert torch.equal(model[1].running_mean, before)


def test_evaluate_restores_the_mode_after_an_error():
    model = Toy().build_model().train()
    broken = Toy()
    broken.val_loader = lambda: [torch.zeros(2, 1)]
    with pytest.raises(TaskError, match=r"batches \(inputs, targets\), .*, got Tensor"):
        broken.evaluate(model, "val")
    assert model.training


def test_nan_outputs_give_a_nan_loss_not_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), float("nan"))

    assert math.isnan(Toy().evaluate(Broken(), "val")["loss"])


def test_evaluate_refuses_what_is_no_classification():
    task = Toy()
    task.val_loader = lambda: [(torch.zeros(2, 1), torch.zeros(2, 1))]
    with pytest.raises(TaskError, match=r"got \(2, 2\) float32 and \(2, 1\) float32 · override"):
        task.evaluate(Sign(), "val")
    task.val_loader = list
    with pytest.raises(TaskError, match="at least one batch, got 0"):
        task.evaluate(Sign(), "val")


def test_segmentation_counts_pixels():
    task = Toy()
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1, 0, 0] = 5.0  # one pixel of class 1, three of class 0
    task.val_loader = lambda: [(logits, torch.tensor([[[1, 0], [0, 1]]]))]
    assert task.evaluate(nn.Identity(), "val")["accuracy"] == 0.75


@pytest.mark.parametrize("inputs", [{"a": 1.0, "b": 2.0}, (1.0, 2.0), [1.0, 2.0]])
def test_outputs_spread_mappings_and_tuples(inputs):
    class Difference(nn.Module):
        def forward(self, a, b):
            return a - b

    assert Toy().outputs(Difference(), (inputs, None)) == -1.0


def test_loss_is_cross_entropy():
    batch = (torch.tensor([[2.0]]), torch.tensor([1]))
    assert Toy().loss(Sign(), batch).item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-4)


def test_distillation_of_logits_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    p = math.e / (1 + math.e)  # softmax of (4, 0) / 4
    expected = 16 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert Toy().distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert Toy().distillation_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-7)


def test_distillation_of_other_outputs_is_the_squared_error():
    maps = torch.zeros(2, 3, 4, 4)
    assert Toy().distillation_loss(maps, maps + 2.0).item() == 4.0
    parts = Toy().distillation_loss((maps, maps), (maps + 2.0, maps))
    named = Toy().distillation_loss({"a": maps, "b": maps}, {"a": maps + 2.0, "b": maps})
    assert parts.item() == named.item() == 2.0


def test_train_dense_learns_and_repeats_itself():
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        model = Toy().build_model()
        Toy().train_dense(model, seed=3)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    x = Toy().train_loader(99)[0][0]
    assert not model.training
    assert (model(x).argmax(1) == (x[:, 0] > 0)).float().mean() > 0.9


def test_a_task_of_an_importable_module_pickles():
    task = Toy()
    task.dense_lr = 0.5
    assert pickle.loads(pickle.dumps(task)).dense_lr == 0.5
