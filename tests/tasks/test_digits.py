import pickle

import numpy as np
import pytest
import torch

from autoprune.tasks import load_dense
from autoprune.tasks.digits import Digits


def test_splits_are_fixed_disjoint_complete_and_stratified():
    task = Digits()
    parts = [task.train_loader(0), task.val_loader(), task.test_loader()]
    assert [len(part.rows) for part in parts] == [1079, 359, 359]
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(1797))
    for part in parts:
        counts = np.bincount(part.targets[part.rows])
        assert counts.min() > 0.9 * counts.max()  # 174 to 183 of each in the whole set


def test_batches_fit_the_network():
    task = Digits(batch_size=8)
    x, y = next(iter(task.train_loader(0)))
    assert x.shape == (8, *task.example_input().shape[1:])
    assert x.dtype == torch.float32
    assert task.build_model()(x).shape == (8, 10)
    assert torch.isfinite(task.loss(task.build_model(), (x, y)))


def test_inputs_are_standardised():
    x = torch.cat([x for x, _ in Digits().val_loader()])
    assert abs(x.mean().item()) < 0.1
    assert abs(x.std().item() - 1) < 0.1


def test_the_task_is_light_to_send():
    task = Digits()
    list(task.val_loader())
    assert len(pickle.dumps(task)) < 1000


@pytest.mark.slow
def test_the_dense_model_reaches_98_percent(tmp_path):
    task = Digits()
    dense = load_dense(task, tmp_path)
    assert task.evaluate(dense, "val")["accuracy"] >= 0.98
    assert task.evaluate(dense, "test")["accuracy"] >= 0.97
