"""Blended batches: what they hold, what is refused, and outputs that are given again."""

import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.training.mixup import mixed, repeated
from autoprune.training.precision import Call


def test_a_sample_is_a_share_of_itself_and_the_rest_of_the_one_whose_target_it_has():
    torch.manual_seed(0)
    y = torch.arange(16)
    x = y.float()[:, None] * torch.ones(3)  # the input says its own target
    found = mixed((x, y), 0.7, "Example")
    blend, other = found.first[0], found.second[1]
    assert torch.equal(found.first[1], y)
    assert sorted(other.tolist()) == y.tolist()
    assert other.tolist() != y.tolist()
    wanted = found.share * y + (1 - found.share) * other
    assert torch.allclose(blend, wanted[:, None].expand(-1, 3), atol=1e-5)
    assert 0.0 < found.share < 1.0


def test_mappings_stay_mappings_and_equal_seeds_blend_alike():
    batch = {"pixels": torch.randn(4, 2), "labels": torch.arange(4)}
    torch.manual_seed(3)
    one = mixed(batch, 0.2, "Example")
    torch.manual_seed(3)
    again = mixed(batch, 0.2, "Example")
    assert one.first.keys() == one.second.keys() == {"pixels", "labels"}
    assert one.first["pixels"] is one.second["pixels"]
    assert torch.equal(one.second["labels"], again.second["labels"])
    assert torch.equal(one.first["pixels"], again.first["pixels"])
    assert one.share == again.share


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ((torch.zeros(2, 3, dtype=torch.long), torch.zeros(2)), "floating-point inputs"),
        ((torch.zeros(2, 3), torch.zeros(5)), "one entry for each of the 2 samples"),
        ((torch.zeros(2, 3), torch.tensor(0.0)), "one entry for each"),
    ],
)
def test_what_cannot_be_blended_is_one_error(batch, says):
    with pytest.raises(TaskError, match=says) as error:
        mixed(batch, 0.2, "Example")
    assert "Example" in str(error.value)
    assert "set it to 0" in str(error.value)


class Counting(nn.Module):
    calls = 0

    def forward(self, x, labels=None):
        self.calls += 1
        return x + self.calls


def test_outputs_are_given_again_without_computing():
    model, x = Counting(), torch.zeros(1)
    first = model(x)
    with repeated(model, [Call((x,), {}, first)]):
        assert model(x) is first
    assert model.calls == 1
    assert model(x).item() == 2.0


def test_a_model_that_was_given_labels_computes_again():
    model, x = Counting(), torch.zeros(1)
    with repeated(model, [Call((x,), {"labels": x}, model(x, labels=x))]):
        model(x, labels=x)
    assert model.calls == 2


def test_a_forward_that_was_replaced_is_there_again():
    model = Counting()
    model.forward = lambda x: x * 3.0
    with repeated(model, [Call((), {}, "given")]):
        assert model(1.0) == "given"
    assert model(1.0) == 3.0
