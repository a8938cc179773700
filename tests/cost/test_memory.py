"""Peak memory as measured: against hand arithmetic, and the count against it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from autoprune.budget import Budget, Cost
from autoprune.cost import memory
from autoprune.cost.analytic import count_cost
from autoprune.cost.memory import largest_peak, measure_peak_memory
from autoprune.cost.targets import Target
from autoprune.cost.targets import memory as taken
from autoprune.errors import DeviceError

X = torch.zeros(32, 64)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 128))


WEIGHTS = 4 * (64 * 512 + 512 + 512 * 128 + 128)
INPUT, HIDDEN, OUTPUT = (4 * 32 * size for size in (64, 512, 128))


def test_eager_holds_what_goes_into_a_layer_and_what_comes_out():
    # the activation function reads one hidden tensor and writes another
    assert measure_peak_memory(mlp(), X) == WEIGHTS + INPUT + 2 * HIDDEN
    assert count_cost(mlp(), X).peak_memory_bytes == WEIGHTS + INPUT + 2 * HIDDEN


def test_the_profiler_of_pytorch_says_nothing_by_itself():
    code = (
        "import torch; from autoprune import measure_peak_memory; "
        "measure_peak_memory(torch.nn.Linear(3, 4), torch.zeros(1, 3))"
    )
    env = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert not done.stdout + done.stderr


def test_onnxruntime_writes_an_activation_over_its_input():
    assert measure_peak_memory(mlp(), X, "onnxruntime") == WEIGHTS + INPUT + HIDDEN + OUTPUT


def test_equal_weights_of_copies_count_apart_and_shared_ones_once():
    layer = nn.Linear(64, 64)
    copies = nn.Sequential(layer, nn.ReLU(), copy.deepcopy(layer))
    shared = nn.Sequential(layer, nn.ReLU(), layer)
    weights, activations = 4 * (64 * 64 + 64), 3 * INPUT  # all have 64 features
    found = [measure_peak_memory(model, X, "onnxruntime") for model in (copies, shared)]
    assert found == [2 * weights + activations, weights + activations]
    assert torch.equal(copies[0].weight, copies[2].weight)


def test_views_and_in_place_operators_are_not_counted_twice():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x + 1.0
            return torch.relu_(y.view(64, 32)).transpose(0, 1).add_(1.0)

    found = measure_peak_memory(InPlace(), X)
    assert 2 * INPUT <= found < 2 * INPUT + 100  # the numbers added are small tensors


def test_measuring_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for runtime in ("torch", "onnxruntime"):
        measure_peak_memory(model, X, runtime)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_runtime_that_does_not_tell_is_refused_and_leaves_the_figure_open(monkeypatch):
    class Silent(Target):
        def reach(self, threads):
            raise NotImplementedError

        def time(self, models, example_inputs, protocol):
            raise NotImplementedError

    monkeypatch.setattr(memory, "find_target", lambda runtime: Silent())
    with pytest.raises(DeviceError, match=r"'silent' does not report .* · measure in another one"):
        measure_peak_memory(mlp(), X, "silent")
    assert largest_peak(mlp(), X, [("silent", 1)]) is None
    cost = Cost(weight_bytes=WEIGHTS)
    budget = Budget.parse({"peak_memory_bytes": "1 MB", "weight_bytes": "1 MB"})
    assert budget.known_of(cost, Cost()).fields == ()
    assert budget.known_of(cost, cost).fields == ("weight_bytes",)


def test_an_arena_that_says_nothing_is_unknown(monkeypatch, tmp_path, caplog):
    script = tmp_path / "arena.py"
    script.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(taken.arena, "__file__", str(script))
    with pytest.raises(DeviceError, match="does not report"):
        measure_peak_memory(mlp(), X, "onnxruntime")
    assert "CalledProcessError" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["cuda", "cuda-graph"])
def test_a_gpu_holds_at_least_weights_input_and_output(runtime):
    found = measure_peak_memory(mlp(), X, runtime)
    assert found >= WEIGHTS + INPUT + HIDDEN
