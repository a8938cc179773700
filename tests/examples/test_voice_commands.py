import os
import wave

import numpy as np
import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks import load_dense, load_task
from examples.voice_commands import CLASSES, KeywordNet, VoiceCommands, log_mel, mfcc

DATA = os.environ.get("AUTOPRUNE_DATA")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def write_npz(folder, **change):
    arrays = {
        "logmel_q": RNG.integers(0, 256, (36, 49, 40), np.uint8),
        "labels": np.tile(np.arange(12, dtype=np.uint8), 3),
        "suggested_split": np.repeat(np.arange(3, dtype=np.uint8), 12),
    }
    arrays = {k: v for k, v in (arrays | change).items() if v is not None}
    np.savez(folder / "logmel_49x40.npz", **arrays)


def write_wav(path, samples, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples).astype("<i2").tobytes())


def task_of(folder):
    return VoiceCommands(folder, dense_epochs=1)


def test_stored_features_keep_their_split(tmp_path):
    write_npz(tmp_path)
    task = task_of(tmp_path)
    splits = task.splits()
    assert [splits[name][2].tolist() for name in ("train", "val", "test")] == [
        list(range(12)),
        list(range(12, 24)),
        list(range(24, 36)),
    ]
    x, y = next(iter(task.test_loader()))
    assert x.shape == (12, 1, 49, 10)
    assert y.tolist() == list(range(12))
    assert task.build_model()(x).shape == (12, 12)


def test_the_first_coefficient_is_the_scaled_sum_over_the_bands():
    features = torch.from_numpy(RNG.normal(size=(49, 40)).astype(np.float32))
    expected = features.sum(1) * 2 / np.sqrt(80)
    torch.testing.assert_close(mfcc(features)[:, 0], expected, rtol=1e-4, atol=1e-4)
    constant = mfcc(torch.ones(1, 40))  # has no other component
    torch.testing.assert_close(constant[:, 1:], torch.zeros(1, 9), rtol=0, atol=1e-4)


@pytest.mark.parametrize("hz", [200.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_the_band_around_it(hz):
    features = log_mel(torch.sin(2 * torch.pi * hz * torch.arange(16_000) / 16_000))
    assert features.shape == (49, 40)

    def mel(value):
        return 1127.0 * np.log1p(value / 700.0)

    width = (mel(4000.0) - mel(20.0)) / 41
    expected = (mel(hz) - mel(20.0)) / width - 1  # the middle of band 0 is one width above the low
    assert abs(features.mean(0).argmax().item() - expected) <= 1.0


def test_loudness_does_not_matter_and_short_clips_are_padded():
    clip = torch.from_numpy(RNG.normal(size=8000).astype(np.float32))
    torch.testing.assert_close(log_mel(clip), log_mel(clip / 7), rtol=1e-3, atol=1e-3)
    assert log_mel(clip)[26:].flatten().tolist() == pytest.approx([np.log(1e-6)] * (23 * 40))
    assert torch.isfinite(log_mel(torch.zeros(16_000))).all()  # silence


def test_all_clips_of_a_speaker_are_in_one_split(tmp_path):
    folder = tmp_path / "speech_commands_test_set_v0.02"
    speakers = [f"{number:08x}" for number in range(40)]
    for name in CLASSES[:3]:
        for speaker in speakers:
            for take in range(2):
                clip = RNG.integers(-500, 500, 400)
                write_wav(folder / name / f"{speaker}_nohash_{take}.wav", clip)
    write_wav(folder / "_silence_" / "0.wav", RNG.integers(-9, 9, 400))
    splits = task_of(tmp_path).splits()
    rows = {name: set(part[2].tolist()) for name, part in splits.items()}
    assert sorted(row for part in rows.values() for row in part) == list(range(241))
    order = [speaker for _ in range(3) for speaker in speakers for _ in range(2)]
    found = {name: {order[row] for row in part if row < 240} for name, part in rows.items()}
    assert all(found.values())
    assert sum(map(len, found.values())) == 40


def test_the_network_has_the_published_size():
    assert sum(p.numel() for p in KeywordNet().parameters()) == 23_756


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"speech_commands_test is not in .*logmel_49x40.npz and"):
        task_of(tmp_path).val_loader()
    path = tmp_path / "yes" / "0a_nohash_1.wav"
    write_wav(path, np.zeros(10), rate=8000)
    with pytest.raises(TaskError, match=r"0a_nohash_1.wav must be 16000 Hz, .* got 8000 Hz"):
        task_of(tmp_path).val_loader()
    path.write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"0a_nohash_1.wav cannot be read as WAV"):
        task_of(tmp_path).val_loader()
    write_npz(tmp_path, labels=None)
    with pytest.raises(TaskError, match=r"must hold labels, it holds logmel_q, suggested_split"):
        task_of(tmp_path).val_loader()


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AUTOPRUNE_DATA names no folder with Speech Commands")
def test_the_reference_weights_have_their_accuracy():
    task = load_task("examples/voice_commands.py:VoiceCommands", data=DATA)
    dense = load_dense(task)
    right = [
        round(task.evaluate(dense, split)["accuracy"] * size)
        for split, size in (("val", 720), ("test", 1238))
    ]
    assert right == [665, 1130]  # 92.4 and 91.3 %; 92.3 % of all 4,890 clips
