"""Counted costs against hand arithmetic on toy nets."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.cost.analytic import count, count_cost
from autoprune.cost.model import CostModel
from autoprune.graph import trace


def test_convolution_with_bias_stride_and_batchnorm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    cost = count_cost(model, torch.zeros(2, 3, 8, 8))
    assert cost.params == 4 * 3 * 9 + 4 + 2 * 4
    assert cost.macs == 2 * 4 * 4 * 4 * 3 * 9
    # parameters, running mean and variance in float32, the batch counter in int64
    assert cost.weight_bytes == 4 * (108 + 4 + 8 + 8) + 8
    # input 2x3x8x8, and two results 2x4x4x4
    assert cost.peak_memory_bytes == cost.weight_bytes + 4 * (384 + 2 * 128)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv1d(4, 6, 5), (1, 4, 10), 6 * 6 * 4 * 5),
        (nn.Conv2d(8, 8, 3, groups=8, padding=1), (1, 8, 5, 5), 25 * 8 * 9),
        (nn.Conv2d(8, 12, 1, groups=4), (1, 8, 5, 5), 25 * 12 * 2),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 4, 4), 16 * 3 * 5 * 4),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 8 * 3 * 2 * 8),
        (nn.Linear(4, 6, bias=False), (2, 3, 4), 2 * 3 * 4 * 6),
        (nn.LSTM(4, 5, batch_first=True), (2, 3, 4), 2 * 3 * (4 * 5 * 4 + 4 * 5 * 5)),
        (nn.GRU(4, 5, batch_first=True), (2, 3, 4), 2 * 3 * (3 * 5 * 4 + 3 * 5 * 5)),
        (nn.BatchNorm2d(3), (1, 3, 4, 4), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_of_one_layer(layer, shape, macs):
    counted = count(layer, torch.zeros(shape))
    assert counted.cost.macs == macs
    assert counted.uncounted == {}


@pytest.mark.parametrize("training", [True, False])
def test_encoder_layer_counts_projections_attention_and_feed_forward(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train(training)
    counted = count(layer, torch.zeros(2, 3, 8))
    projections, feed_forward = 3 * 8 * 8 + 8 * 8, 2 * 8 * 16
    attention = 2 * (2 * 3 * 3 * 4)  # two heads, scores and values, four features each
    assert counted.cost.macs == 2 * (3 * (projections + feed_forward) + attention)
    assert counted.uncounted == {}
    assert layer.training is training


def test_matmul_of_activations_and_einsum():
    class Mixer(nn.Module):
        def forward(self, a, b):
            return torch.einsum("bij,bjk->bik", a, b) + a @ b

    assert (
        count_cost(Mixer(), (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))).macs == 2 * 2 * 3 * 4 * 5
    )


def test_keyword_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, *, x, scale):
            return self.layer(x) * scale

    assert count_cost(Two(), {"x": torch.zeros(3, 4), "scale": 2.0}).macs == 24


def test_tied_weights_count_once_and_are_used_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    cost = count_cost(Tied(), torch.zeros(1, 6, dtype=torch.int64))
    assert (cost.params, cost.weight_bytes, cost.macs) == (40, 160, 240)


def test_half_precision_takes_half_the_bytes():
    model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    cost = count_cost(model, torch.zeros(1, 4, dtype=torch.bfloat16))
    assert (cost.weight_bytes, cost.peak_memory_bytes) == (32, 32 + 8 + 8)


def test_a_skip_connection_keeps_its_activation_alive():
    class Skip(nn.Module):
        def __init__(self, skip):
            super().__init__()
            self.skip = skip

        def forward(self, x):
            if not self.skip:
                return x * 2.0 * 2.0 * 2.0
            a = x * 2.0
            return a * 2.0 * 2.0 + a

    x = torch.zeros(1, 100)
    # input, and two of the products; with the skip also `a` while one is made from the other
    assert count_cost(Skip(False), x).peak_memory_bytes == 3 * 400
    assert count_cost(Skip(True), x).peak_memory_bytes == 4 * 400


def test_a_name_in_the_models_code_keeps_its_activation_alive():
    class Named(nn.Module):
        def forward(self, x):
            a = x * 2.0
            b = a * 2.0
            c = b * 2.0
            return c * 2.0

    assert count_cost(Named(), torch.zeros(1, 100)).peak_memory_bytes == 5 * 400
    assert CostModel(trace(Named(), torch.zeros(1, 100))).dense.peak_memory_bytes == 5 * 400


def test_in_place_operators_and_views_take_no_memory():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x + 1.0
            return F.relu_(y.view(2, 50)).transpose(0, 1).add_(1.0)

    assert count_cost(InPlace(), torch.zeros(1, 100)).peak_memory_bytes == 2 * 400


def test_early_output_lives_to_the_end():
    class Early(nn.Module):
        def forward(self, x):
            first = x + 1.0
            return [first, (x + 2.0) + 3.0]

    assert count_cost(Early(), torch.zeros(100)).peak_memory_bytes == 4 * 400


def test_operator_without_formula_is_a_result_and_a_warning(caplog):
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).abs()

    with caplog.at_level(logging.WARNING):
        count_cost(Spectrum(), torch.zeros(1, 8))
    assert "aten::_fft_r2c" in caplog.text
    assert dict(count(Spectrum(), torch.zeros(1, 8)).uncounted) == {"aten::_fft_r2c": 1}


def test_model_mode_buffers_and_random_state_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    count_cost(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_counting_is_the_same_within_inference_mode():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(3, 4)
    outside = count_cost(model, x)
    with torch.inference_mode():
        assert count_cost(model, x) == outside


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("held", torch.eye(4).to_sparse_csr())

    def forward(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return self.held @ (matrix @ x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_of_a_sparse_matrix_what_is_stored_counts():
    matrix = torch.eye(4)[:, [1, 2, 3, 0]].to_sparse()
    inputs = (torch.ones(4, 10), matrix)
    cost = count_cost(Sparse(), inputs)
    assert cost.macs == 2 * 4 * 10
    # five row bounds and four columns in int64, four values
    assert cost.weight_bytes == 8 * (5 + 4) + 4 * 4
    # the input, rows and columns in int64 and values of its matrix, two results
    assert cost.peak_memory_bytes == cost.weight_bytes + 160 + (2 * 8 + 4) * 4 + 2 * 160
    assert CostModel(trace(Sparse(), inputs)).dense == cost
