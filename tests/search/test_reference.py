"""What a model has to beat to count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune._search.preparing.reference import constant_metrics, reference_point
from autoprune.budget import Cost
from autoprune.pareto import Objective
from autoprune.tasks.wrap import wrap

MACS = Objective("macs", "minimize")
COST = Cost(macs=100)


def of(direction: Any, value: float, constant: dict[str, float]) -> float:
    objectives = (Objective("m", direction), MACS)
    point = reference_point(objectives, {"m": value}, constant, COST)
    assert point[1] == 100.0
    return point[0]


@pytest.mark.parametrize(
    ("direction", "value", "constant", "expected"),
    [
        ("maximize", 0.9, {"m": 0.5}, 0.7),  # two classes
        ("maximize", 0.8, {"m": 0.0}, 0.4),
        ("maximize", 0.8, {}, 0.4),
        ("maximize", 0.8, {"m": float("nan")}, 0.4),
        ("maximize", 0.8, {"m": 0.8}, 0.4),  # whatever the model says, it is as good
        ("maximize", -1.0, {"m": -9.0}, -1.5),
        ("minimize", 0.1, {"m": 1.0}, 0.2),
        ("minimize", 4.0, {"m": 6.0}, 5.0),  # twice as bad is worse than a constant
        ("minimize", 4.0, {"m": 3.0}, 8.0),
    ],
)
def test_half_as_good_or_halfway_to_a_constant(
    direction: str, value: float, constant: dict[str, float], expected: float
) -> None:
    assert of(direction, value, constant) == pytest.approx(expected)


def test_a_constant_classifier_has_the_share_of_one_class() -> None:
    task, (model, _) = Stripes(), dense()
    before = task.evaluate(model, "val")["accuracy"]
    found = constant_metrics(task, model)["accuracy"]
    labels = torch.cat([batch[1] for batch in task.val_loader()])
    shares = [float((labels == label).float().mean()) for label in labels.unique()]
    assert any(found == pytest.approx(share) for share in shares)
    assert task.evaluate(model, "val")["accuracy"] == before  # the hook is gone


class Regression(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x.clone(), "count": torch.ones(len(x), dtype=torch.long)}


def test_it_is_the_mean_over_the_first_batch_in_any_structure() -> None:
    batches = [(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)), (torch.zeros(1, 1),) * 2]

    def error(model: nn.Module, loader: Any) -> dict[str, float]:
        outputs = [model(x) for x, _ in loader]
        assert [out["count"].tolist() for out in outputs] == [[1, 1], [1]]
        return {"error": float(torch.cat([out["logits"] for out in outputs]).abs().mean())}

    task = wrap(
        Regression(), batches, batches, evaluate=error, metric="error", direction="minimize"
    )
    assert constant_metrics(task, task.build_model()) == {"error": 2.0}


def test_outputs_of_other_shapes_have_none() -> None:
    batches = [(torch.zeros(2, 3), torch.zeros(2, 3)), (torch.zeros(2, 4), torch.zeros(2, 4))]

    def size(model: nn.Module, loader: Any) -> dict[str, float]:
        return {"size": float(sum(model(x).numel() for x, _ in loader))}

    task = wrap(nn.Identity(), batches, batches, evaluate=size, metric="size")
    assert constant_metrics(task, nn.Identity()) == {}
