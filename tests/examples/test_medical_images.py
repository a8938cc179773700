import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks import load_dense
from examples.medical_images import (
    BreastUltrasound,
    ChestXray,
    calibration_error,
    interval,
    operating_point,
    partial_auc,
    threshold,
)

DATA = os.environ.get("AUTOPRUNE_DATA")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def write_chest(folder, name="pneumoniamnist.npz", **change):
    arrays = {}
    for split, count in (("train", 40), ("val", 20), ("test", 12)):
        arrays[f"{split}_images"] = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    np.savez(folder / name, **{k: v for k, v in (arrays | change).items() if v is not None})


def write_ultrasound(folder, copies=1):
    """Twenty pictures of each class and their outlines; each picture `copies` times."""
    for name in ("benign", "malignant", "normal"):
        place = folder / "Dataset_BUSI_with_GT" / name
        place.mkdir(parents=True)
        for number in range(20 * copies):
            if number % copies == 0:
                pixels = RNG.integers(0, 256, (150, 140, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{name} ({number}).png")
            Image.fromarray(pixels).save(place / f"{name} ({number})_mask.png")


def test_the_threshold_lets_nine_of_ten_negatives_pass():
    scores = np.arange(20.0)
    is_positive = scores >= 10
    limit = threshold(scores, is_positive)
    assert limit == 8.0  # of the negatives 0 to 9, only 9 is above it
    assert operating_point(scores, is_positive, limit)["specificity"] == 0.9
    assert threshold(np.arange(7.0), np.zeros(7, bool)) == 6.0  # 6 of 7 would be below 90 %


def test_the_operating_point_counts_what_is_above_the_threshold():
    found = operating_point(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1], bool), 0.5)
    assert found["sensitivity"] == 0.5
    assert found["specificity"] == 1.0


@pytest.mark.parametrize(
    ("found", "total", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (8, 10, 0.4439, 0.9748), (1, 2, 0.0126, 0.9874)],
)  # published tables of the exact interval
def test_the_interval_is_that_of_clopper_and_pearson(found, total, low, high):
    assert interval(found, total) == pytest.approx((low, high), abs=1e-4)


def test_the_partial_area_is_the_mean_sensitivity_at_few_false_alarms():
    is_positive = np.array([True] * 4 + [False] * 10)
    negatives = np.arange(10) / 100  # two of ten may be false alarms: 0.09 and 0.08
    perfect = np.concatenate([np.ones(4), negatives])
    assert partial_auc(perfect, is_positive) == 1.0
    some = np.concatenate([[0.5, 0.085, 0.085, 0.0], negatives])  # 1/4, then 3/4 are found
    assert partial_auc(some, is_positive) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert partial_auc(np.zeros(14), is_positive) == 0.5  # nothing is known: ties count half


def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy():
    sure = np.array([[0.95, 0.05]] * 10)
    assert calibration_error(sure, np.zeros(10, int)) == pytest.approx(0.05)
    half = np.array([0] * 5 + [1] * 5)
    assert calibration_error(sure, half) == pytest.approx(0.45)
    mixed = np.concatenate([sure, np.array([[0.25, 0.75]] * 10)])
    targets = np.concatenate([np.zeros(10, int), half])
    assert calibration_error(mixed, targets) == pytest.approx((0.05 + 0.25) / 2)


class Scores(nn.Module):
    """The mean of an image as the logit of the second class."""

    def forward(self, x):
        score = x.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def grey(levels):
    return np.repeat(np.array(levels, np.uint8), 28 * 28).reshape(-1, 28, 28)


def test_the_test_split_is_judged_at_the_threshold_of_validation(tmp_path):
    labels = np.array([0] * 10 + [1] * 10, np.uint8)
    val = grey([*range(0, 100, 10), *range(100, 200, 10)])  # the threshold is 80
    test = grey([*range(50, 150, 10), *range(60, 160, 10)])
    parts = {"val_images": val, "val_labels": labels, "test_images": test, "test_labels": labels}
    write_chest(tmp_path, **parts)
    task = ChestXray(tmp_path)
    found = task.evaluate(Scores(), "val")
    assert (found["sensitivity"], found["specificity"]) == (1.0, 0.9)
    assert found["partial_auc"] == 1.0
    found = task.evaluate(Scores(), "test")
    assert (found["sensitivity"], found["specificity"]) == (0.7, 0.4)  # 90 to 150; 50 to 80
    assert found["sensitivity_low"] < 0.7 < found["sensitivity_high"]
    assert {"accuracy", "loss", "calibration_error"} <= set(found)


def test_evaluation_leaves_the_mode_as_it_was(tmp_path):
    write_chest(tmp_path)
    model = ChestXray(tmp_path).build_model()
    model.stages[0].eval()
    ChestXray(tmp_path).evaluate(model, "val")
    assert model.training
    assert not model.stages[0].training


@pytest.mark.parametrize("name", ["pneumoniamnist.npz", "pneumonia_mnist_28.npz"])
def test_the_official_splits_are_kept(tmp_path, name):
    (tmp_path / "pneumonia_mnist").mkdir()
    write_chest(tmp_path / "pneumonia_mnist", name)
    task = ChestXray(tmp_path)
    assert [len(task.splits()[split][2]) for split in ("train", "val", "test")] == [40, 20, 12]
    x, y = next(iter(task.test_loader()))
    assert x.shape == (12, 1, 28, 28)
    assert y.tolist() == [0, 1] * 6


def test_pictures_are_read_without_their_outlines_and_split_by_class(tmp_path):
    write_ultrasound(tmp_path)
    splits = BreastUltrasound(tmp_path).splits()
    images, labels, _ = splits["train"]
    assert images.shape == (60, 1, 128, 128)
    counts = {name: Counter(labels[part[2]].tolist()) for name, part in splits.items()}
    assert counts["test"] == {0: 4, 1: 4, 2: 4}
    assert counts["val"] == {0: 2, 1: 2, 2: 2}
    assert counts["train"] == {0: 14, 1: 14, 2: 14}


def test_copies_of_a_picture_are_in_one_split(tmp_path):
    write_ultrasound(tmp_path, copies=2)
    splits = BreastUltrasound(tmp_path).splits()
    images = splits["train"][0]
    seen = {name: {images[row].numpy().tobytes() for row in s[2]} for name, s in splits.items()}
    assert all(seen.values())
    assert not seen["train"] & seen["val"]
    assert not (seen["train"] | seen["val"]) & seen["test"]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"looked for pneumoniamnist.npz or pneumonia_mnist_28"):
        ChestXray(tmp_path).val_loader()
    with pytest.raises(TaskError, match=r"looked for busi_gray_128.npz and for PNG files in folde"):
        BreastUltrasound(tmp_path).val_loader()
    write_chest(tmp_path, val_labels=None)
    with pytest.raises(TaskError, match=r"must hold val_labels, it holds train_images"):
        ChestXray(tmp_path).val_loader()
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "a.png").write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"a.png cannot be read as an image"):
        BreastUltrasound(tmp_path).val_loader()


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AUTOPRUNE_DATA names no folder with PneumoniaMNIST")
def test_the_dense_model_is_good():
    task = ChestXray(DATA)
    found = task.evaluate(load_dense(task), "val")
    assert found["sensitivity"] >= 0.9
    assert found["sensitivity_low"] < found["sensitivity"] < found["sensitivity_high"]
