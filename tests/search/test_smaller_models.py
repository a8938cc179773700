"""Which smaller dense models can stand beside a search, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stripes import images
from torch import Tensor, nn
from wide_stripes import WideStripes

from autoprune._search.preparing.smaller_models import SmallerModel, smaller_models
from autoprune.config import RunConfig
from autoprune.cost_fields import FILE
from autoprune.errors import TaskError

FILE_OF_TASKS = Path(__file__)
WIDE = Path(__file__).parents[1] / "wide_stripes.py"
METRICS = {"accuracy": 0.9, "loss": 0.5}


class OtherMetric(WideStripes):
    metric = "top1"


class OtherInput(WideStripes):
    def example_input(self) -> Tensor:
        return torch.zeros(1, 1, 9, 8)


class OtherSplit(WideStripes):
    def val_loader(self) -> list[tuple[Tensor, Tensor]]:
        return [images(30, 1)]


class MoreMetrics(WideStripes):
    def evaluate(self, model: nn.Module, split: Any) -> dict[str, float]:
        return {**super().evaluate(model, split), "top2": 1.0}


class OtherOutput(WideStripes):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def made(smaller: dict[str, Any], **keys: Any) -> tuple[SmallerModel, ...]:
    data = {"task": f"{WIDE}:WideStripes", "budget": {"macs": "50%"}, **keys}
    config = RunConfig.from_dict({**data, "search": {"baselines": {"smaller": smaller}}})
    task = WideStripes()
    return smaller_models(config, task, task.build_model().eval(), METRICS, "cpu")


def test_its_costs_are_counted_on_its_own_layers() -> None:
    (found,) = made({"narrow": {"width": 6}})
    assert (found.name, found.config.task_args) == ("narrow", {"width": 6})
    assert found.cost.params == 9 * 6 + 2 * 6 + (6 + 1) * 3  # convolution, norm, linear layer
    assert found.cost.macs == 9 * 6 * 6 * 6 + 6 * 3  # 6 x 6 positions
    assert (found.cost.latency_ms, found.cost.file_bytes) == (None, None)


def test_it_may_be_another_task_and_the_file_counts_where_it_is_asked_for() -> None:
    narrow = f"{FILE_OF_TASKS}:MoreMetrics"
    with pytest.raises(TaskError, match="its metrics are accuracy, loss, top2, and the search"):
        made({"narrow": narrow})
    found = made({"wide": f"{WIDE}:WideStripes"}, budget={FILE: "50%"})[0]
    assert found.cost.value(FILE) is not None
    assert found.config.task_args == {}


def test_none_are_made_without_the_key() -> None:
    assert made({}) == ()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("OtherMetric", r"its metric is top1 \(maximize\), and the search's task has accuracy"),
        ("OtherInput", r"its inputs are \[\[1, 1, 9, 8\]\], and the search's task has \[\[1, 1, 8"),
        ("OtherSplit", "its validation samples are 30, and the search's task has 60"),
        ("OtherOutput", r"its outputs are \[\[1, 4\]\], and the search's task has \[\[1, 3\]\]"),
    ],
)
def test_what_cannot_be_compared_is_said_with_its_name(what: str, message: str) -> None:
    with pytest.raises(TaskError, match=f"search.baselines.smaller.odd: {message}"):
        made({"odd": f"{FILE_OF_TASKS}:{what}"})


def test_arguments_for_a_task_object_are_refused() -> None:
    with pytest.raises(TaskError, match=r"smaller.odd: the search was given a Task object"):
        made({"odd": {"width": 6}}, task="python:WideStripes")
    assert made({"other": f"{WIDE}:WideStripes"}, task="python:WideStripes")
