"""Each setting of the loss against its formula."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.candidate import Recovery
from autoprune.errors import TaskError
from autoprune.graph.replica import replica
from autoprune.tasks import Task
from autoprune.training.distillation import Teacher
from autoprune.training.features import attention_distance
from autoprune.training.mixup import mixed
from autoprune.training.objective import Objective
from autoprune.training.precision import Precision

CPU = torch.device("cpu")


class Images(Task):
    forwards = 0

    def build_model(self):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )

    def train_loader(self, seed):
        return [BATCH]

    def val_loader(self):
        return [BATCH]

    test_loader = val_loader


torch.manual_seed(0)
BATCH = torch.randn(8, 1, 6, 6), torch.randint(0, 3, (8,))


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Images().build_model()


@pytest.fixture
def dense():
    torch.manual_seed(2)
    return Images().build_model()


def loss(model, *, dense=None, task=None, **recovery):
    task, made = task or Images(), Recovery(**{"distillation": 0.0, **recovery})
    teacher = Teacher(task, dense, Precision(), CPU) if dense is not None else None
    objective = Objective(task, made, Precision(), CPU, teacher=teacher, layers={"0": 1})
    return objective.loss(model, BATCH)


def test_without_settings_it_is_the_tasks_loss(model):
    assert torch.equal(loss(model), Images().loss(model, BATCH))


def test_label_smoothing_is_that_of_torch(model):
    x, y = BATCH
    wanted = F.cross_entropy(model(x), y, label_smoothing=0.3)
    assert loss(model, label_smoothing=0.3).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_distillation_smoothing_and_features_add_up(model, dense):
    x, y = BATCH
    own = F.cross_entropy(model(x), y, label_smoothing=0.1)
    far = Images().distillation_loss(model(x), dense(x))
    maps = attention_distance({"0": [model[0](x)]}, {"0": [dense[0](x)]}, {"0": 1})
    found = loss(model, dense=dense, label_smoothing=0.1, distillation=0.25, features=2.0)
    assert found.item() == pytest.approx((0.75 * own + 0.25 * far + 2.0 * maps).item(), rel=1e-5)


def test_features_alone_need_no_common_outputs(model, dense):
    class Other(Images):
        def distillation_loss(self, student_out, teacher_out):
            raise AssertionError("not asked")

    task = Other()
    assert loss(model, dense=dense, task=task, features=1.0).item() > task.loss(model, BATCH).item()


def test_mixup_weighs_both_targets_and_runs_the_model_once(model):
    runs = []
    model.register_forward_hook(lambda *args: runs.append(1))
    torch.manual_seed(5)
    found = loss(model, mixup=0.4)
    ran = len(runs)
    torch.manual_seed(5)
    blend = mixed(BATCH, 0.4, "Images")
    x = blend.first[0]
    both = [F.cross_entropy(model(x), y) for y in (blend.first[1], blend.second[1])]
    wanted = blend.share * both[0] + (1.0 - blend.share) * both[1]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert ran == 2  # the second time what it gave before, without its layers
    layers = []
    model[0].register_forward_hook(lambda *args: layers.append(1))
    loss(model, mixup=0.4).backward()
    assert len(layers) == 1


def test_the_teacher_sees_the_blended_samples_once(model, dense):
    torch.manual_seed(6)
    found = loss(model, dense=dense, mixup=0.4, distillation=1.0)
    torch.manual_seed(6)
    x = mixed(BATCH, 0.4, "Images").first[0]
    wanted = Images().distillation_loss(model(x), dense(x))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_an_identical_student_has_no_distance(dense):
    found = loss(replica(dense), dense=dense, distillation=1.0, features=1.0)
    assert found.item() == pytest.approx(0.0, abs=1e-6)


def test_smoothing_without_classes_is_one_error(model):
    class Regression(Images):
        def loss(self, model, batch):
            return model(batch[0]).square().mean()

    with pytest.raises(TaskError, match=r"recovery.label_smoothing .* Regression .* set it to 0"):
        loss(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), task=Regression(), label_smoothing=0.1)


class Tokens(nn.Module):
    """Logits as a language model has them, (N, T, C), with its own loss."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x, labels=None):
        logits = self.head(x)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def test_classes_that_may_come_last_are_no_classes():
    batch = {"x": torch.randn(2, 4, 6), "labels": torch.zeros(2, 4, dtype=torch.long)}
    recovery = Recovery(distillation=0.0, label_smoothing=0.1)
    objective = Objective(Images(), recovery, Precision(), CPU)
    with pytest.raises(TaskError, match="needs"):
        objective.loss(Tokens(), batch)


def test_a_teacher_is_needed(model):
    with pytest.raises(ValueError, match="needs a teacher"):
        loss(model, features=1.0)
