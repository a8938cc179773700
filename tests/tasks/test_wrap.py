import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autoprune.cost.latency import measure_latency
from autoprune.errors import TaskError
from autoprune.tasks import load_dense
from autoprune.tasks.failures import name_of
from autoprune.tasks.wrap import wrap

X = torch.arange(12.0).view(12, 1) - 5.5
Y = (X[:, 0] > 0).long()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def model():
    net = nn.Linear(1, 2)
    nn.init.constant_(net.bias, 0.0)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    return net


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=5, **options)


def test_one_call_makes_a_task_of_what_a_notebook_holds():
    net = model()
    task = wrap(net, loader(shuffle=True), loader(), test_loader=loader())
    dense = load_dense(task)
    assert dense is not net
    assert task.evaluate(dense, "val")["accuracy"] == 1.0
    assert task.evaluate(dense, "test")["accuracy"] == 1.0
    assert task.example_input().tolist() == [[-5.5]]
    assert len(task.train_loader(0)) == 3


def test_it_is_called_by_its_model() -> None:
    assert name_of(wrap(model(), loader(), loader())) == "Linear"
    with pytest.raises(TaskError, match=r"^Linear.val_loader failed|^Linear: val_loader"):
        wrap(model(), loader(), [])


def test_the_given_model_is_copied():
    net = model()
    task = wrap(net, loader(), loader())
    nn.init.zeros_(net.weight)
    nn.init.zeros_(task.build_model().weight)
    assert task.build_model().weight.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("own", [False, True])
def test_shuffling_follows_the_seed_and_leaves_the_callers_random_state(own):
    generator = torch.Generator().manual_seed(5) if own else None
    task = wrap(model(), loader(shuffle=True, generator=generator), loader())

    def order(seed):
        return torch.cat([x for x, _ in task.train_loader(seed)])[:, 0].tolist()

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = order(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert order(3) == first
    assert order(4) != first
    assert sorted(first) == X[:, 0].tolist()


def test_a_loader_with_running_workers_is_wrapped_and_travels():
    train, val = (loader(num_workers=1, persistent_workers=True, shuffle=s) for s in (True, False))
    for _ in train:
        pass  # its workers run now, as after a training
    task = wrap(model(), train, val)
    dense = task.build_model()
    task.evaluate(dense, "val")
    copied = pickle.loads(pickle.dumps(task))
    assert copied.evaluate(dense, "val")["accuracy"] == 1.0
    first, second = iter(task.train_loader(0)), iter(task.train_loader(0))
    for _ in range(3):  # two passes at once do not take each other's batches
        assert torch.equal(next(first)[0], next(second)[0])
    assert len(list(train)) == 3


def test_a_loader_with_running_workers_in_any_task_travels():
    class Kept(type(wrap(model(), loader(), loader()))):
        pass

    task = wrap(model(), loader(), loader())
    task.__class__ = Kept
    task.more = loader(num_workers=1, persistent_workers=True)
    for _ in task.more:
        pass
    reduced = task.__reduce_ex__(2)
    assert reduced[2]["more"]._iterator is None
    assert task.more._iterator is not None


def test_an_iterable_data_set_has_epochs_of_the_given_length():
    task = wrap(model(), DataLoader(Stream()), loader(), steps_per_epoch=2)
    epoch = task.train_loader(0)
    assert (len(epoch), len(list(epoch)), len(list(epoch))) == (2, 2, 2)
    by_function = wrap(model(), lambda seed: iter([X, X, X]), loader(), steps_per_epoch=2)
    assert len(list(by_function.train_loader(0))) == 2


def test_a_function_of_the_seed_gives_the_training_data():
    task = wrap(model(), lambda seed: [(X + seed, Y)], loader())
    assert task.train_loader(2)[0][0][0].item() == -3.5


def test_own_loss_and_own_metric():
    task = wrap(
        model(),
        loader(),
        loader(),
        lambda out, y: out.sum() * 0 + y.float().mean(),
        evaluate=lambda net, data: {"error": sum(len(x) for x, _ in data), "more": 1},
        metric="error",
        direction="minimize",
    )
    net = task.build_model().train()
    assert task.loss(net, (X, Y)).item() == 0.5
    assert task.evaluate(net, "val") == {"error": 12.0, "more": 1.0}
    assert net.training
    assert (task.metric, task.direction) == ("error", "minimize")


def test_a_plain_number_is_the_metric():
    task = wrap(model(), loader(), loader(), evaluate=lambda net, data: 0.25, metric="f1")
    assert task.evaluate(task.build_model(), "val") == {"f1": 0.25}


def test_evaluate_runs_in_eval_mode_without_gradients():
    seen = []

    def evaluate(net, data):
        seen.append((net.training, torch.is_inference_mode_enabled()))
        return 1.0

    task = wrap(model(), loader(), loader(), evaluate=evaluate)
    task.evaluate(task.build_model().train(), "val")
    assert seen == [(False, True)]


def test_several_inputs_give_an_example_of_several():
    batch = ({"a": X, "b": [X, X]}, Y)
    example = wrap(model(), [batch], [batch]).example_input()
    assert example["a"].shape == (1, 1)
    assert [part.shape for part in example["b"]] == [(1, 1), (1, 1)]


def test_a_wrapped_task_pickles():
    task = pickle.loads(pickle.dumps(wrap(model(), loader(), loader())))
    assert task.evaluate(task.build_model(), "val")["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 3}, "model must be an nn.Module, got int"),
        ({"train_loader": iter([])}, "must have a length, got a list_iterator without one"),
        ({"train_loader": DataLoader(Stream())}, "must have a length, got a DataLoader without"),
        ({"val_loader": iter([])}, "val_loader must be iterable repeatedly, got a list_iterator"),
        ({"test_loader": iter([])}, "test_loader must be iterable repeatedly"),
        ({"train_loader": iter([]), "steps_per_epoch": 1}, "repeatedly, got an iterator"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        ({"metric": "f1"}, "metric 'f1' needs evaluate=function"),
        ({"direction": "up"}, "direction must be 'maximize' or 'minimize', got 'up'"),
        ({"val_loader": []}, "val_loader must hold at least one batch"),
        (
            {"val_loader": [X]},
            "mappings with .labels., got Tensor",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    given = {"model": model(), "train_loader": loader(), "val_loader": loader()} | change
    with pytest.raises(TaskError, match=message):
        wrap(**given)


def test_what_is_missing_is_told_when_it_is_needed():
    task = wrap(model(), loader(), loader(), evaluate=lambda net, data: {"other": 1.0})
    with pytest.raises(TaskError, match=r"no test split · pass test_loader= to autoprune.wrap"):
        task.test_loader()
    with pytest.raises(TaskError, match="must return the metric 'accuracy', got other"):
        task.evaluate(task.build_model(), "val")


def test_a_model_that_keeps_activations_is_taken() -> None:
    class Keeping(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = super().forward(x)
            return self.kept

    net, x, y = Keeping(nn.Linear(4, 2)), torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    nn.functional.cross_entropy(net(x), y).backward()
    task = wrap(net, [(x, y)], [(x, y)])
    assert torch.equal(task.build_model()(x), net.kept)
    assert measure_latency(net, x, repeats=3, warmup_s=0.0).median_ms > 0
