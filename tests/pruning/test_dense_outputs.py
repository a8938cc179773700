"""The outputs that are kept of a dense model, against the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import UsageError
from autoprune.pruning.dense_outputs import DenseOutputs, record


class Residual(nn.Module):
    """A stem, a branch with a norm that is added, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 3, 1), nn.Linear(3, 2)
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head((x + self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture
def model() -> Residual:
    torch.manual_seed(0)
    made = Residual()
    made.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr]
    return made.eval()


X = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def rows(y: Tensor) -> Tensor:
    """(places, outputs) of (samples, outputs, height, width)."""
    return y.movedim(1, -1).flatten(0, 2)


def close(found: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_outputs_are_those_of_each_layer_at_the_drawn_places(model: Residual) -> None:
    (part,) = record(model, [X]).parts
    assert part.samples == 5
    stem, conv, head = (part.targets[f"{name}.weight"] for name in ("stem", "conv", "head"))
    with torch.no_grad():
        first = model.stem(X)
        second = model.conv(first.relu())
        total = first.relu() + model.norm(second)
        close(stem.outputs, rows(first)[stem.places])
        close(conv.outputs, rows(second)[conv.places])
        close(conv.total, rows(total)[conv.places])
        close(head.outputs, model(X))
    assert (stem.count, conv.count, head.count) == (80, 80, 5)
    assert (stem.norm, conv.norm, head.norm) == (None, "norm", None)
    assert conv.mean is not None
    assert conv.mean.tolist() == [1.0, 2.0, 3.0]
    assert (conv.bias, stem.mean, stem.total, head.total) == ("conv.bias", None, None, None)
    assert {t.input_dim for t in part.targets.values()} == {1}


def test_batches_of_one_form_are_one_and_others_come_after_the_largest(model: Residual) -> None:
    wide = torch.randn(3, 1, 4, 6)
    found = record(model, [X[:2], wide, X[2:]])
    assert [part.samples for part in found.parts] == [5, 3]
    assert found.samples == 8
    assert torch.equal(found.parts[0].batch, X)
    assert torch.equal(found.parts[1].batch, wide)
    assert found.targets["stem.weight"] is found.parts[0].targets["stem.weight"]


def test_no_more_samples_than_asked_for_are_used(model: Residual) -> None:
    found = record(model, [X[:2], X[2:]], max_samples=3)
    assert found.samples == 3
    assert torch.equal(found.parts[0].batch, X[:3])


def test_targets_are_dropped_and_a_forward_of_ones_own_is_used(model: Residual) -> None:
    labels = [torch.zeros(5), torch.zeros(5, 2)]  # of different shapes
    assert len(record(model, [(X, labels[0]), (X, labels[1])]).parts) == 1
    pairs: list[Any] = [{"pixels": X, "labels": labels[0]}]
    found = record(model, pairs, forward=lambda net, batch: net(batch["pixels"]))
    assert found.samples == 5
    close(found.targets["head.weight"].outputs, model(X))


def test_the_model_and_the_random_state_are_left_alone(model: Residual) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = record(model, [X]), record(model, [X])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, target in first.targets.items():
        assert torch.equal(target.places, second.targets[name].places)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.a(x))
        y = self.b(x)
        return self.c(x + y) + y


def test_a_layer_called_twice_has_no_target_and_one_read_twice_no_sum() -> None:
    found = record(Twice().eval(), [torch.randn(6, 3)])
    assert set(found.targets) == {"b.weight", "c.weight"}
    assert found.targets["b.weight"].total is None
    assert found.targets["c.weight"].total is not None


def test_a_shared_bias_belongs_to_neither() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    found = record(model.eval(), [torch.randn(6, 3)]).targets
    assert [found[name].bias for name in ("0.weight", "1.weight")] == [None, None]


def test_a_very_wide_product_is_not_kept() -> None:
    model = nn.Sequential(nn.Linear(2305, 2), nn.Linear(2, 1))
    found: DenseOutputs = record(model.eval(), [torch.randn(4, 2305)])
    assert set(found.targets) == {"1.weight"}


def test_code_that_cannot_take_channels_last_runs_as_it_is() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.view(len(x), -1))

    model, x = Flat().eval(), torch.randn(3, 3, 2, 2)
    close(record(model, [x]).targets["head.weight"].outputs, model(x))


def test_without_a_batch_it_says_so(model: Residual) -> None:
    with pytest.raises(UsageError) as caught:
        record(model, [])
    assert str(caught.value) == (
        "a reference needs at least one batch, got none · pass a loader with data"
    )
