"""A one-stage detector of nested modules: pruned by half, trained by its own losses, searched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.nested_detector import CLASSES, Batch, C2f, NestedDetector
from torch import Tensor, nn

import autoprune
from autoprune.graph import Group
from autoprune.pruning.masks import masked
from autoprune.pruning.verification import prunable

SIZE = 32
X = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def detector() -> NestedDetector:
    """With statistics and scales of its normalizations that are no ones and zeros."""
    torch.manual_seed(0)
    model = NestedDetector()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def batch(seed: int, size: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(2, SIZE - 10, (size, 2), generator=draw).float()
    return {
        "img": torch.rand(size, 3, SIZE, SIZE, generator=draw),
        "cls": torch.randint(0, CLASSES, (size,), generator=draw),
        "box": torch.cat((corner, corner + 8.0), 1),
    }


def losses(model: Any, found: Batch) -> dict[str, Tensor]:
    return model(found)


def pixels(found: Batch) -> Tensor:
    return found["img"]


def hits(model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
    """The share of images whose best place has the right class."""
    right = total = 0
    for found in loader:
        scores = model(found["img"])[0][:, 4:]
        right += int((scores.amax(2).argmax(1) == found["cls"]).sum())
        total += len(found["cls"])
    return {"right": right / total}


@pytest.fixture(scope="module")
def dense() -> NestedDetector:
    return detector()


@pytest.fixture(scope="module")
def half(dense: NestedDetector) -> NestedDetector:
    return autoprune.prune_model(dense, X, 0.5)


def test_a_half_of_every_layer_but_the_outputs_is_pruned(
    dense: NestedDetector, half: NestedDetector
) -> None:
    before, after = (
        {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        for model in (dense, half)
    )
    kept = [n for n in before if after[n] == before[n]]
    assert kept == [
        *(f"model.19.{branch}.{scale}.2" for branch in ("boxes", "classes") for scale in range(3)),
        "model.19.expected.conv",
    ]
    assert all(after[n] * 2 == before[n] for n in before if n not in kept)
    stage = half.model[4]
    assert isinstance(stage, C2f)
    # 16 + 16 channels are split in two: both parts and both bottlenecks have 8 now
    assert (stage.enter.conv.out_channels, stage.blocks[0].first.conv.in_channels) == (16, 8)
    assert stage.leave.conv.in_channels == 32


def test_it_equals_the_masked_dense_model(dense: NestedDetector) -> None:
    """Units are kept by a score of this test's own."""
    graph = prunable(dense, X)
    draw = torch.Generator().manual_seed(1)
    scores = {group.name: torch.rand(group.size, generator=draw) for group in graph.groups}

    def score(group: Group, weights: Any) -> Tensor:
        return scores[group.name]

    small = autoprune.prune_model(dense, X, 0.5, importance=score).eval()
    kept = {
        name: sorted(values.topk(len(values) // 2).indices.tolist())
        for name, values in scores.items()
    }
    with torch.no_grad():
        got, wanted = small(X), masked(dense, graph, kept)(X)
    for one, other in zip((got[0], *got[1]), (wanted[0], *wanted[1]), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got[0], dense(X)[0], rtol=1e-2, atol=1e-2)


def test_its_own_losses_reach_every_weight_that_is_trained(half: NestedDetector) -> None:
    half.train()
    found = half(batch(0))
    assert set(found) == {"box", "cls", "dfl"}
    sum(found.values()).backward()
    trained = {n: p for n, p in half.named_parameters() if p.requires_grad}
    assert set(dict(half.named_parameters())) - set(trained) == {"model.19.expected.conv.weight"}
    silent = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.isfinite().all())]
    half.eval()
    assert silent == []
    # only the finest scale has objects, but the classes of all scales are judged
    assert float(half.model[19].classes[2][2].weight.grad.abs().sum()) > 0.0


@pytest.mark.slow  # a search with processes of its own
def test_it_is_searched_with_the_users_own_functions(dense: NestedDetector, tmp_path: Path) -> None:
    task = autoprune.wrap(
        dense,
        [batch(n) for n in range(3)],
        [batch(10), batch(11)],
        inputs=pixels,
        batch_loss=losses,
        evaluate=hits,
        metric="right",
    )
    result = autoprune.search(
        task,
        budget={"macs": "60%"},
        space={
            "ratios": {"max": 0.75},
            "schedule": {"kind": "one_shot"},
            "recovery": {"distillation": 0.0},
        },
        trials=1,
        epochs=1,
        rungs=0,
        concurrent=1,
        screen=0,
        baselines={"uniform": 0, "random": 0},
        calibration_samples=8,
        output=tmp_path / "run",
    )
    (record,) = [record for record in result.records if record.is_counted]
    assert (record.state, set(record.metrics) >= {"right"}) == ("complete", True)
    small = result.model(record)
    assert isinstance(small, NestedDetector)
    assert record.predicted is not None
    whole = autoprune.count_cost(dense, X[:1]).macs
    assert record.predicted.macs == autoprune.count_cost(small, X[:1]).macs <= 0.6 * whole
    assert small(X)[0].shape == (2, 4 + CLASSES, 8**2 + 4**2 + 2**2)
