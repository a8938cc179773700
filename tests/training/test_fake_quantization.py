import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

from autoprune.training.fake_quantization import (
    fake_quantization,
    rounded_activation,
    rounded_weight,
)


def test_a_channel_has_the_values_that_its_bits_allow() -> None:
    weight = torch.randn(4, 300)
    found = rounded_weight(weight, 4)
    for row, before in zip(found, weight, strict=True):
        step = before.abs().max() / 7
        assert len(row.unique()) <= 15
        assert torch.allclose(row / step, (row / step).round(), atol=1e-4)
        assert (row - before).abs().max() <= step / 2 * 1.001


def test_activations_keep_zero_and_have_at_most_256_values() -> None:
    x = torch.linspace(-1.0, 3.0, 5000)
    found = rounded_activation(torch.cat([x, torch.zeros(1)]))
    assert found[-1] == 0.0
    assert len(found.unique()) <= 256
    assert (found[:-1] - x).abs().max() <= 4.0 / 255


def test_gradients_reach_the_parameters_through_the_rounding() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(5, 1, 4, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = model(x)
    with fake_quantization(model):
        rounded = model(x)
        rounded.sum().backward()
    assert 0.0 < (rounded - exact).abs().max() < 0.3 * exact.abs().max()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert {name: t.tolist() for name, t in model.state_dict().items()} == {
        name: t.tolist() for name, t in before.items()
    }
    assert torch.equal(model(x), exact)


def test_an_exception_leaves_the_parameters_in_place() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight
    with pytest.raises(RuntimeError), fake_quantization(model):
        model(torch.zeros(1, 7))
    assert model.weight is weight
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]


def test_a_transposed_convolution_has_a_scale_for_each_output_channel():
    layer, x = nn.ConvTranspose2d(3, 2, 2, stride=2), torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        layer.weight[:, 1] *= 100.0
    steps = layer.weight.detach().abs().amax((0, 2, 3)) / 63  # 7 bits
    nearest = (layer.weight / steps.view(1, 2, 1, 1)).round() * steps.view(1, 2, 1, 1)
    wanted = nn.functional.conv_transpose2d(rounded_activation(x), nearest, layer.bias, stride=2)
    with fake_quantization(layer):
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("width", [None, 6])
def test_the_projections_of_attention_are_rounded_and_its_mask_is_not(width):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, kdim=width, vdim=width, batch_first=True)
    query, mask = torch.randn(3, 4, 8), torch.randn(4, 5)
    key = torch.randn(3, 5, width or 8)
    exact = copy.deepcopy(layer)
    with torch.no_grad():
        for name, weight in exact.named_parameters():
            if weight.dim() > 1:
                step = weight.abs().amax(1, keepdim=True) / 63
                weight.copy_((weight / step).round() * step)
                assert name.endswith("weight")
    inputs = [rounded_activation(x) for x in (query, key)]
    wanted = exact(inputs[0], inputs[1], inputs[1], attn_mask=mask)[0]
    with fake_quantization(layer):
        found = layer(query, key, value=key, attn_mask=mask)[0]
        found.sum().backward()
    torch.testing.assert_close(found, wanted)
    assert all(weight.grad is not None for weight in layer.parameters())
    assert not torch.allclose(layer(query, key, key, attn_mask=mask)[0], wanted, atol=1e-6)


class Product(nn.Module):
    """As `Conv1D` of transformers: the weight is (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Operator(Product):
    def forward(self, x):
        return x @ self.weight + self.bias


class Functional(Product):
    def forward(self, x):
        return F.linear(x, weight=self.weight.T, bias=self.bias)


def nearest(weight, dim):
    """At 127 values for each slice of the other dimension."""
    step = weight.detach().abs().amax(dim, keepdim=True) / 63
    return (weight.detach() / step).round() * step


@pytest.mark.parametrize("kind", [Product, Operator, Functional])
def test_any_product_with_a_parameter_is_rounded(kind) -> None:
    torch.manual_seed(0)
    model, other, x = kind(), kind(), torch.randn(4, 8)
    exact, theirs = model(x), other(x)
    wanted = rounded_activation(x) @ nearest(model.weight, 0) + model.bias
    with fake_quantization(model):
        found = model(x)
        found.sum().backward()
        assert torch.equal(other(x), theirs)  # what a loss computes with
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, exact, atol=1e-4)
    assert model.weight.grad.abs().sum() > 0
    assert torch.equal(model(x), exact)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("normed", [weight_norm, parametrizations.weight_norm])
def test_weights_that_are_computed_from_others_are_rounded(normed) -> None:
    torch.manual_seed(0)
    layer, x = normed(nn.Linear(8, 5)), torch.randn(4, 8)
    exact, names = layer(x), list(layer.state_dict())
    wanted = F.linear(rounded_activation(x), nearest(layer.weight, 1), layer.bias)
    with fake_quantization(layer):
        found = layer(x)
        found.sum().backward()
        assert list(layer.state_dict()) == names
    torch.testing.assert_close(found, wanted)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert torch.equal(F.linear(x, layer.weight, layer.bias), exact)
    assert torch.equal(layer(x), exact)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_are_not_rounded_as_in_the_file(kind) -> None:
    layer, x = kind(8, 6), torch.randn(3, 2, 8)
    with fake_quantization(layer):
        found = layer(x)[0]
    assert torch.equal(found, layer(x)[0])
