import io
import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from autoprune.errors import TaskError
from autoprune.tasks import load_dense, load_task
from examples.cifar10 import CLASSES, Cifar10ResNet20, CifarResNet, ResNet8, read

DATA = os.environ.get("AUTOPRUNE_DATA")
TASK = f"{Path(__file__).parents[2]}/examples/cifar10.py:Cifar10ResNet20"
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (20, 32, 32, 3), np.uint8)
TRAIN_LABELS = np.arange(20, dtype=np.uint8) % 10
TEST = RNG.integers(0, 256, (10, 32, 32, 3), np.uint8)
TEST_LABELS = np.arange(10, dtype=np.uint8)[::-1].copy()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def write_binary(folder):
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir()
    planes = TRAIN.transpose(0, 3, 1, 2).reshape(20, -1)
    records = np.concatenate([TRAIN_LABELS[:, None], planes], axis=1)
    for number, part in enumerate(np.split(records, 5), 1):
        part.tofile(folder / f"data_batch_{number}.bin")
    planes = TEST.transpose(0, 3, 1, 2).reshape(10, -1)
    np.concatenate([TEST_LABELS[:, None], planes], axis=1).tofile(folder / "test_batch.bin")


def write_images(folder):
    for split, images, labels in (("train", TRAIN, TRAIN_LABELS), ("test", TEST, TEST_LABELS)):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:03}.png")


def write_parquet(folder):
    def cell(image):
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    (folder / "plain_text").mkdir()
    parts = [
        ("train", 0, TRAIN[:12], TRAIN_LABELS[:12]),
        ("train", 1, TRAIN[12:], TRAIN_LABELS[12:]),
    ]
    for split, part, images, labels in [*parts, ("test", 0, TEST, TEST_LABELS)]:
        table = pyarrow.table({"img": [cell(i) for i in images], "label": labels.astype(np.int64)})
        parquet.write_table(table, folder / "plain_text" / f"{split}-{part:05}-of-00002.parquet")


def write_sheets(folder):
    def sheet(images, path):  # two images a row
        rows = images.reshape(-1, 2, 32, 32, 3).transpose(0, 2, 1, 3, 4)
        Image.fromarray(rows.reshape(-1, 64, 3)).save(path, lossless=True)

    for number, part in enumerate(np.split(TRAIN, 5), 1):
        sheet(part, folder / f"train_{number}.webp")
    sheet(TEST, folder / "test.webp")
    np.savez(folder / "labels.npz", train_labels=TRAIN_LABELS, test_labels=TEST_LABELS)


WRITERS = {
    "binary": write_binary,
    "images": write_images,
    "parquet": write_parquet,
    "sheets": write_sheets,
}


def in_a_set_order(images, labels):
    return sorted(
        (int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_every_form_gives_the_same_pixels_and_labels(tmp_path, form, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    WRITERS[form](tmp_path / inside)
    arrays = read(tmp_path)
    assert arrays["train_images"].shape == (20, 3, 32, 32)
    for split, images, labels in (("train", TRAIN, TRAIN_LABELS), ("test", TEST, TEST_LABELS)):
        expected = in_a_set_order(images.transpose(0, 3, 1, 2), labels)
        assert in_a_set_order(arrays[f"{split}_images"], arrays[f"{split}_labels"]) == expected
    if form != "images":  # a folder has no order of its own
        assert np.array_equal(arrays["train_labels"], TRAIN_LABELS)


def test_decoding_happens_once_and_again_when_the_files_change(tmp_path):
    write_sheets(tmp_path)
    first = read(tmp_path)
    assert isinstance(first["train_images"], np.memmap)
    before = (tmp_path / "test.webp").stat().st_mtime_ns
    (tmp_path / "test.webp").write_bytes(b"damaged, but never looked at again")
    os.utime(tmp_path / "test.webp", ns=(before, before + 10**9))
    with pytest.raises(TaskError, match=r"test.webp cannot be read as an image"):
        read(tmp_path)


def test_what_is_written_to_an_array_does_not_reach_the_cache(tmp_path):
    write_binary(tmp_path)
    read(tmp_path)["test_images"][:] = 0
    assert read(tmp_path)["test_images"].any()


def test_no_data_says_what_was_looked_for(tmp_path):
    with pytest.raises(TaskError, match="environment variable AUTOPRUNE_DATA, to the folder"):
        read(None)
    with pytest.raises(TaskError, match=r"gone does not exist · set .*AUTOPRUNE_DATA"):
        read(tmp_path / "gone")
    with pytest.raises(TaskError) as caught:
        read(tmp_path)
    for expected in ("data_batch_*.bin", "train*.parquet", "labels.npz", "train/*/*.png", "pickle"):
        assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def damage_binary(folder):
    write_binary(folder)
    (folder / "cifar-10-batches-bin" / "data_batch_3.bin").write_bytes(b"12345")
    return r"data_batch_3.bin must hold records of 3073 bytes, got 5 bytes"


def lose_binary(folder):
    write_binary(folder)
    (folder / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    return r"not complete: binary version needs 5 or more files data_batch"


def lose_sheet(folder):
    write_sheets(folder)
    (folder / "train_2.webp").unlink()
    return r"must have a label in 0..9 for each image, got 16 images and 20 labels"


def rename_class(folder):
    write_images(folder)
    (folder / "train" / "cat").rename(folder / "train" / "kitten")
    return r"folders must be named airplane, .* got kitten"


def enlarge_image(folder):
    write_images(folder)
    Image.new("RGB", (40, 30)).save(folder / "test" / "dog" / "large.png")
    return r"large.png must be 32 x 32 pixels, got 40 x 30"


def lose_test(folder):
    write_images(folder)
    (folder / "test").rename(folder / "other")
    return r"not complete: image folders needs .*test/\*/\*.png"


def other_columns(folder):
    for split in ("train", "test"):
        parquet.write_table(pyarrow.table({"x": [1]}), folder / f"{split}.parquet")
    return r"must have the columns img and label, it has .'x'"


def no_parquet(folder):
    for split in ("train", "test"):
        (folder / f"{split}.parquet").write_bytes(b"no such thing")
    return r"train.parquet cannot be read as parquet"


def hundred_classes(folder):
    write_sheets(folder)
    np.savez(folder / "labels.npz", train_labels=TRAIN_LABELS + 50, test_labels=TEST_LABELS)
    return r"a label in 0..9 for each image, got 20 images and 20 labels up to 59"


@pytest.mark.parametrize(
    "damage",
    [
        damage_binary,
        lose_binary,
        lose_sheet,
        rename_class,
        enlarge_image,
        lose_test,
        other_columns,
        no_parquet,
        hundred_classes,
    ],
)
def test_damaged_data_are_named(tmp_path, damage):
    message = damage(tmp_path)
    with pytest.raises(TaskError, match=message):
        read(tmp_path)


def test_splits_are_disjoint_and_complete(tmp_path):
    write_binary(tmp_path)
    task = Cifar10ResNet20(tmp_path, dense_epochs=1)
    train, val, test = task.train_loader(0), task.val_loader(), task.test_loader()
    assert sorted(train.rows.tolist() + val.rows.tolist()) == list(range(20))
    assert sorted(next(iter(val))[1].tolist()) == list(range(10))  # one of each class
    assert next(iter(test))[1].tolist() == TEST_LABELS.tolist()
    x, _ = next(iter(test))
    expected = (TEST[0, 5, 7, 2] / 255 - 0.406) / 0.225
    assert x[0, 2, 5, 7].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (56, 853_018)]
)  # He et al. 2016 give 0.27, 0.46 and 0.85 M
def test_the_networks_have_the_published_size(depth, parameters):
    assert sum(p.numel() for p in CifarResNet(depth).parameters()) == parameters


def test_resnet8_has_the_published_size_and_pads_as_tensorflow_does():
    network = ResNet8().eval()
    assert sum(p.numel() for p in network.parameters()) == 78_186
    x = torch.zeros(1, 3, 32, 32)
    assert network(x).shape == (1, 10)
    block = network.layer2
    with torch.no_grad():
        block.conv1.weight.fill_(1.0)
        block.conv1.bias.zero_()
    corner = torch.zeros(1, 16, 32, 32)
    corner[0, 0, 0, 0] = 1.0  # nothing is padded above and on the left: one window holds it
    seen = block.conv1(torch.nn.functional.pad(corner, block.pad))[0, 0]
    assert seen.sum() == 1.0
    assert seen[0, 0] == 1.0


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_evenly():
    shortcut = CifarResNet(20).layer2[0].shortcut
    x = torch.arange(16 * 4 * 4.0).view(1, 16, 4, 4)
    y = shortcut(x)
    assert y.shape == (1, 32, 2, 2)
    assert not y[:, :8].any()
    assert not y[:, 24:].any()
    assert y[0, 8].tolist() == [[0.0, 2.0], [8.0, 10.0]]


def test_trained_weights_are_found_in_the_data_folder_or_its_subfolder(tmp_path):
    with pytest.raises(TaskError, match=r"looked for resnet20_cifar10.safetensors"):
        load_task(TASK, data=tmp_path)
    (tmp_path / "checkpoints").mkdir()
    net = CifarResNet(20)
    for place in ("checkpoints", "."):
        file = tmp_path / place / "resnet20_cifar10.safetensors"
        save_file(net.state_dict(), file)
        assert torch.equal(
            load_dense(load_task(TASK, data=tmp_path)).linear.weight, net.linear.weight
        )
        file.unlink()


def test_without_trained_weights_the_dense_model_can_be_trained(tmp_path):
    assert load_task(TASK, data=tmp_path, args={"dense_epochs": 3}).checkpoint is None


@pytest.mark.parametrize(
    ("depth", "file"),
    [(20, "resnet20-12fca82f.th"), (32, "resnet32-d509ac18.th"), (56, "resnet56-4bfd9763.th")],
)
def test_the_public_file_is_read_as_it_is_downloaded(tmp_path, depth, file):
    """As their training wrote it: of DataParallel, in the old format, without counters."""
    weights = {
        f"module.{name}": value
        for name, value in CifarResNet(depth).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save(
        {"state_dict": weights, "best_prec1": torch.tensor(91.7)},
        tmp_path / "checkpoints" / file,
        _use_new_zipfile_serialization=False,
    )
    model = load_dense(load_task(TASK.replace("ResNet20", f"ResNet{depth}"), data=tmp_path))
    assert torch.equal(model.conv1.weight, weights["module.conv1.weight"])
    assert torch.equal(model.linear.bias, weights["module.linear.bias"])


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AUTOPRUNE_DATA names no folder with CIFAR-10")
def test_the_public_checkpoint_has_its_published_accuracy():
    task = load_task(TASK, data=DATA)
    assert [len(s.rows) for s in (task.train_loader(0), task.val_loader())] == [45_000, 5_000]
    assert np.bincount(torch.cat([y for _, y in task.val_loader()])).tolist() == [500] * 10
    assert task.evaluate(load_dense(task), "test")["accuracy"] == pytest.approx(0.9173, abs=2e-4)
