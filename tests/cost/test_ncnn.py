"""ncnn: conversion, precision, batches, and what it cannot run."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.cost.targets.ncnn import Ncnn, NcnnNet, computed, convert
from autoprune.errors import DeviceError, ExportError

pytest.importorskip("ncnn")
pnnx = pytest.importorskip("pnnx")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).eval()


X = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_net_computes_in_float32_on_these_threads(tmp_path, threads):
    net = NcnnNet(convert(model(), X, tmp_path), threads)
    assert net._net.opt.num_threads == threads
    assert not net._net.opt.use_fp16_storage
    (found,) = net(X)
    torch.testing.assert_close(found, model()(X).detach(), atol=1e-5, rtol=1e-4)


def test_a_call_runs_the_whole_batch():
    x = torch.randn(5, 2, 6, 6)
    (found,) = Ncnn().prepare(model(), x, 1)()
    np.testing.assert_allclose(found.numpy(batch_index=0), model()(x).detach().numpy(), atol=1e-5)


def test_outputs_keep_their_order_beyond_ten(tmp_path):
    class Many(nn.Module):
        def forward(self, x):
            return [x + n for n in range(12)]

    found = NcnnNet(convert(Many(), X, tmp_path), 1)(X)
    for n, each in enumerate(found):
        torch.testing.assert_close(each, X + n)
    assert len(found) == 12


GRAPH = """7767517
7 8
Input      in0    0 1 in0
Input      in1    0 1 in1
Split      split  1 2 in1 a b
Embed      embed  1 1 in0 c 0=16 1=50
ExpandDims expand 1 1 b d -23303=1,1
BinaryOp   mul    2 1 c d e 0=2
BinaryOp   add    2 1 a e out0 0=0
"""


def test_inputs_are_indices_or_the_graph_computes_with_them(tmp_path):
    file = tmp_path / "model.ncnn.param"
    file.write_text(GRAPH)
    assert computed(file, [0, 1]) == {1: "mul"}  # through two layers that only move it
    assert computed(file, [0]) == {}


class WithToken(nn.Module):
    """A token before the others, as in a ViT."""

    def __init__(self):
        super().__init__()
        self.conv, self.token = nn.Conv2d(2, 8, 3), nn.Parameter(torch.ones(1, 1, 8))

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([2 * self.token.expand(x.shape[0], -1, -1), x], 1)


def test_a_constant_is_not_concatenated_in_a_batch(tmp_path):
    # ncnn writes beyond the result: "pool allocator destroyed too early", or a crash later
    says = r"ncnn cannot concatenate a constant in a batch of 2 \(cat_0\) · use example inputs of b"
    with pytest.raises(DeviceError, match=says):
        Ncnn().prepare(WithToken().eval(), torch.cat([X, X]), 1)
    model = WithToken().eval()
    net = NcnnNet(convert(model, X, tmp_path), 1)
    torch.testing.assert_close(net(X)[0], model(X).detach(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ExportError, match=says):
        net(torch.cat([X, X]))


def test_layers_that_it_does_not_have_are_named():
    class Strided(nn.Module):
        def forward(self, x):
            return x[:, :, ::2]

    with pytest.raises(ExportError, match=r"ncnn does not have Tensor\.slice · replace it"):
        Ncnn().prepare(Strided(), X, 1)


def test_other_types_of_inputs_are_refused():
    with pytest.raises(ExportError, match="takes inputs of float32, int64, int32, got"):
        Ncnn().prepare(nn.Identity(), torch.ones(1, 3, dtype=torch.bool), 1)


def test_a_failure_of_pnnx_is_one_line(monkeypatch):
    done = SimpleNamespace(returncode=3, stderr="one\nno such operator", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    with pytest.raises(ExportError, match=r"pnnx cannot convert .*\(code 3: no such operator\)"):
        Ncnn().prepare(model(), X, 1)


def test_what_does_not_run_is_one_line(monkeypatch):
    def stop(self, given):
        raise ExportError("ncnn stops with code -100")

    monkeypatch.setattr(NcnnNet, "run", stop)
    with pytest.raises(DeviceError, match="code -100 · measure it in another runtime"):
        Ncnn().prepare(model(), X, 1)
