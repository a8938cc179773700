"""Large tensors travel as files that are mapped, copied only where they are written to."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import ray
import torch

from autoprune._search.trials.sharing import shared_tensors

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_large_tensor_is_mapped_and_writing_to_it_stays_private(tmp_path: Path) -> None:
    data = torch.arange(600_000, dtype=torch.float32).reshape(300, 2000)
    task = {"x": data, "y": data[10:, ::2].T, "small": torch.ones(3), "none": torch.zeros(0)}
    with shared_tensors(tmp_path):
        sent = ray.cloudpickle.dumps(task)
    assert len(sent) < 20_000
    assert len(list(tmp_path.iterdir())) == 1
    first, second = pickle.loads(sent), pickle.loads(sent)
    for name, tensor in task.items():
        assert torch.equal(first[name], tensor)
    first["x"].zero_()
    assert torch.equal(second["x"], data)
    assert torch.equal(pickle.loads(sent)["x"], data)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.bool])
def test_every_type_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    data = torch.randint(0, 2, (2_000_000,)).to(dtype)
    with shared_tensors(tmp_path):
        sent = ray.cloudpickle.dumps([data, torch.nn.Parameter(torch.ones(2, 600_000))])
    again, parameter = pickle.loads(sent)
    assert torch.equal(again, data)
    assert isinstance(parameter, torch.nn.Parameter)
    assert torch.equal(parameter, torch.ones(2, 600_000))


def test_other_pickles_are_as_they_were(tmp_path: Path) -> None:
    with shared_tensors(tmp_path):
        pass
    sent = ray.cloudpickle.dumps(torch.ones(1_000_000))
    assert len(sent) > 4_000_000
    assert list(tmp_path.iterdir()) == []
