"""Every example is a task of a user's own: one file that works wherever it is copied to."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import autoprune
from autoprune import RunConfig, prune_model
from autoprune.tasks import load_task
from examples import cifar10
from examples.voice_commands import KeywordNet

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = {
    "cifar10": ("Cifar10ResNet20", "Cifar10ResNet32", "Cifar10ResNet56", "Cifar10ResNet8"),
    "detection": ("TrafficObjects", "BloodCells"),
    "fashion_mnist": ("FashionMnist",),
    "medical_images": ("BreastUltrasound", "ChestXray"),
    "spoken_digits": ("SpokenDigits",),
    "voice_commands": ("VoiceCommands",),
}
RNG = np.random.default_rng(0)


def write_data(folder: Path) -> Path:
    """A few samples of every set, in its own format, and an untrained checkpoint."""
    for depth in (20, 32, 56):
        weights = cifar10.CifarResNet(depth).state_dict()
        save_file(weights, folder / f"resnet{depth}_cifar10.safetensors")
    others = {"resnet8_mlperf_tiny_cifar10": cifar10.ResNet8, "dscnn_mlperf_tiny_kws": KeywordNet}
    for name, network in others.items():
        save_file(network().state_dict(), folder / f"{name}.safetensors")
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        records = RNG.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(folder / f"{name}.bin")
    labels = np.repeat(np.arange(10, dtype=np.uint8), 14)
    images = RNG.integers(0, 256, (140, 28, 28), np.uint8)
    arrays = {f"{split}_{kind}": v for split in ("train", "test") for kind, v in
              (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(folder / "fashion_mnist.npz", **arrays)
    arrays = {f"{split}_{kind}": v for split in ("train", "val", "test") for kind, v in
              (("images", images), ("labels", labels % 2))}  # fmt: skip
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    Image.new("RGB", (96, 64)).save(buffer := io.BytesIO(), "JPEG")
    encoded = np.frombuffer(buffer.getvalue(), np.uint8)
    packed = {
        "jpeg_bytes": np.tile(encoded, 9),
        "jpeg_offsets": np.arange(10) * len(encoded),
        "split": np.arange(9, dtype=np.uint8) % 3,
        "boxes": np.tile(np.array([[8, 8, 40, 40]], np.float32), (9, 1)),
        "box_labels": np.zeros(9, np.uint8),
        "box_image": np.arange(9),
    }
    np.savez(folder / "traffic.npz", **packed, class_names=np.array(["vehicle"]))
    np.savez(folder / "bccd.npz", **packed)
    parts = {"labels": labels[:60] % 3, "suggested_split": np.arange(60, dtype=np.uint8) // 3 % 3}
    pictures = RNG.integers(0, 256, (60, 128, 128), np.uint8)
    np.savez(folder / "busi_gray_128.npz", images=pictures, **parts)
    parts = {"labels": labels % 12, "suggested_split": np.arange(140, dtype=np.uint8) % 3}
    features = RNG.integers(0, 256, (140, 49, 40), np.uint8)
    np.savez(folder / "logmel_49x40.npz", logmel_q=features, **parts)
    for digit in range(10):
        for take in range(20):
            with wave.open(str(folder / f"{digit}_anna_{take}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(RNG.integers(-2000, 2000, 4000).astype("<i2").tobytes())
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


CONFIGURATIONS = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_a_configuration_names_a_task_that_is_here(data: Path, file: Path) -> None:
    config = RunConfig.load(file)
    place, name = config.task.rsplit(":", 1)
    assert name in TASKS[Path(place).stem]
    assert file.name in (EXAMPLES / "README.md").read_text()
    task = load_task(config.task, data=data, args=config.task_args)
    groups = autoprune.groups(task.build_model(), task.example_input())
    assert len(groups) > 3


def test_every_example_is_listed_here_and_in_the_readme() -> None:
    assert sorted(TASKS) == sorted(file.stem for file in EXAMPLES.glob("*.py"))
    named = re.findall(r"`examples/(\w+)\.py:(\w+)`", (EXAMPLES / "README.md").read_text())
    assert sorted(named) == sorted((file, cls) for file, all_ in TASKS.items() for cls in all_)


@pytest.mark.parametrize(("file", "name"), [(f, names[0]) for f, names in TASKS.items()])
def test_a_copied_file_alone_trains_and_is_pruned(
    data: Path, tmp_path: Path, file: str, name: str
) -> None:
    copy = shutil.copy(EXAMPLES / f"{file}.py", tmp_path / "alone.py")
    task = load_task(f"{copy}:{name}", data=data)
    dense = task.build_model()
    small = prune_model(dense, task.example_input(), 0.5)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (dense, small)]
    assert sizes[1] < 0.5 * sizes[0]
    task.loss(small, next(iter(task.train_loader(0)))).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert {"loss", task.metric} <= set(task.evaluate(small, "test"))


def test_every_task_reaches_another_process(data: Path, tmp_path: Path) -> None:
    references = [f"{EXAMPLES / file}.py:{name}" for file, names in TASKS.items() for name in names]
    tasks = [load_task(reference, data=data) for reference in references]
    (tmp_path / "tasks.pickle").write_bytes(pickle.dumps(tasks))
    code = (
        "import pickle; tasks = pickle.load(open('tasks.pickle', 'rb'))\n"
        "print(*(f'{type(task).__name__}:{len(task.splits())}' for task in tasks))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    names = [name for names in TASKS.values() for name in names]
    assert done.stdout.split() == [f"{name}:3" for name in names], done.stderr


@pytest.mark.slow
def test_a_copied_file_is_searched_from_the_command_line(data: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "cifar10.py", tmp_path / "mine.py")
    config = {
        "task": "mine.py:Cifar10ResNet20",
        "budget": {"macs": "50%"},
        "device": {"runtime": "torch"},
        "space": "quick",
        "search": {"trials": 3, "epochs": 1, "rungs": 0, "concurrent": 1, "screen": 0},
        "output": "run",
    }
    (tmp_path / "budget.yaml").write_text(json.dumps(config))  # JSON is YAML
    environment = {**os.environ, "AUTOPRUNE_DATA": str(data), "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, "-m", "autoprune", "search", "budget.yaml"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
    front = json.loads((tmp_path / "run" / "front.json").read_text())
    assert front["members"]
