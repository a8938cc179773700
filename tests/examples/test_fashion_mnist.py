import gzip
import os
import struct

import numpy as np
import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks import load_dense
from examples.fashion_mnist import FashionMnist

DATA = os.environ.get("AUTOPRUNE_DATA")
RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (40, 28, 28), np.uint8),
    "train_labels": np.repeat(np.arange(10, dtype=np.uint8), 4),
    "test_images": RNG.integers(0, 256, (6, 28, 28), np.uint8),
    "test_labels": np.arange(6, dtype=np.uint8),
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def write_npz(folder):
    np.savez(folder / "fashion_mnist.npz", **ARRAYS)


def write_idx(folder):
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = ARRAYS[f"{split}_images"], ARRAYS[f"{split}_labels"]
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        path = folder / f"{name}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        path = folder / f"{name}-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(header + labels.tobytes()))


@pytest.mark.parametrize("write", [write_npz, write_idx])
@pytest.mark.parametrize("inside", ["", "fashion_mnist"])
def test_both_forms_give_the_same_splits(tmp_path, write, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    write(tmp_path / inside)
    task = FashionMnist(tmp_path)
    train, val, test = task.train_loader(0), task.val_loader(), task.test_loader()
    assert (len(train.rows), len(val.rows)) == (30, 10)  # one of each class held out
    assert sorted(train.rows.tolist() + val.rows.tolist()) == list(range(40))
    x, y = next(iter(test))
    assert y.tolist() == [0, 1, 2, 3, 4, 5]
    expected = (ARRAYS["test_images"][3, 4, 5] / 255 - 0.286) / 0.353
    assert x[3, 0, 4, 5].item() == pytest.approx(expected, rel=1e-4)
    assert task.build_model()(next(iter(train))[0]).shape == (30, 10)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"looked for fashion_mnist.npz or train-images-idx3"):
        FashionMnist(tmp_path).val_loader()
    path = tmp_path / "fashion_mnist.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"fashion_mnist.npz cannot be read"):
        FashionMnist(tmp_path).val_loader()
    np.savez(path, **{**ARRAYS, "test_images": ARRAYS["test_images"][:, :5]})
    with pytest.raises(TaskError, match=r"test_images must be uint8 \(6, 28, 28\), got uint8"):
        FashionMnist(tmp_path).val_loader()
    path.unlink()
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"t10k-labels-idx1-ubyte.gz is damaged"):
        FashionMnist(tmp_path).val_loader()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(TaskError, match=r"not complete: no t10k-labels-idx1-ubyte.gz"):
        FashionMnist(tmp_path).val_loader()


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AUTOPRUNE_DATA names no folder with Fashion-MNIST")
def test_the_dense_model_is_good():
    task = FashionMnist(DATA)
    assert [len(task.train_loader(0).rows), len(task.val_loader().rows)] == [54_000, 6_000]
    dense = load_dense(task)
    assert task.evaluate(dense, "test")["accuracy"] >= 0.92
    assert not torch.is_inference_mode_enabled()
