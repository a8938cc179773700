"""What is found before the first of several dense models is searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn
from wide_stripes import WideStripes

from autoprune._search.preparing.starting_checks import check_starting_models
from autoprune.config import RunConfig
from autoprune.errors import AutopruneError, ConfigError, GraphError, TaskError
from autoprune.tasks.base import Task

GOOD = {"large": WideStripes(32), "small": WideStripes(8)}


def config(**keys: Any) -> RunConfig:
    starts = {name: {} for name in GOOD}
    data = {"task": "digits", "budget": {"macs": "50%"}, "starting_models": starts}
    return RunConfig.from_dict({**data, **keys}, resolved=True)


class Other(WideStripes):
    metric = "top1"


class Frozen(WideStripes):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_models_that_can_be_searched_pass() -> None:
    check_starting_models(GOOD, config(keep=["0"]))


@pytest.mark.parametrize(
    ("tasks", "keys", "error", "message"),
    [
        ({"small": Other()}, {}, TaskError, "small has the metric top1 maximize, large has acc"),
        ({"small": Frozen()}, {}, GraphError, "starting_models.small: it has no prunable groups"),
        ({}, {"keep": ["absent"]}, ConfigError, "starting_models.large: keep"),
        ({}, {"device": {"profile": "phone.json"}}, ConfigError, "phone.json is of one model"),
    ],
)
def test_what_does_not_fit_is_said_with_the_model(
    tasks: Mapping[str, Task], keys: Mapping[str, Any], error: type[AutopruneError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_starting_models({**GOOD, **tasks}, config(**keys))
