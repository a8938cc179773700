import os
import wave

import numpy as np
import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks import load_dense
from examples.spoken_digits import ShiftGainNoise, SpokenDigits, log_mel

DATA = os.environ.get("AUTOPRUNE_DATA")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)


def write(path, **change):
    rng = np.random.default_rng(0)
    takes = np.tile(np.arange(15, dtype=np.uint8), 2)
    arrays = {
        "audio": rng.integers(-2000, 2000, 30 * 500).astype(np.int16),
        "offsets": np.arange(31) * 500,
        "labels": np.repeat(np.array([3, 8], np.uint8), 15),
        "takes": takes,
    }
    np.savez(path, **{k: v for k, v in (arrays | change).items() if v is not None})


def write_wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_takes_decide_the_split(tmp_path):
    write(tmp_path / "fsdd_8khz.npz")
    task = SpokenDigits(tmp_path)
    takes = np.tile(np.arange(15), 2)
    for loader, expected in (
        (task.train_loader(0), range(10, 15)),
        (task.val_loader(), range(5, 10)),
        (task.test_loader(), range(5)),
    ):
        assert sorted(takes[loader.rows.numpy()].tolist()) == sorted([*expected, *expected])
    x, y = next(iter(task.train_loader(0)))
    assert x.shape == (10, 1, 64, 40)
    assert set(y.tolist()) <= {3, 8}
    assert task.build_model()(x).shape == (10, 10)


def test_the_sets_own_recordings_give_the_same_features(tmp_path):
    for form in ("npz", "wav"):
        (tmp_path / form).mkdir()
    write(tmp_path / "npz" / "fsdd_8khz.npz")
    arrays = np.load(tmp_path / "npz" / "fsdd_8khz.npz")
    (tmp_path / "wav" / "recordings").mkdir()
    for row, clip in enumerate(np.split(arrays["audio"], 30)):
        name = f"{arrays['labels'][row]}_anna_{arrays['takes'][row]}.wav"
        write_wav(tmp_path / "wav" / "recordings" / name, clip)
    one, other = (SpokenDigits(tmp_path / form).test_loader() for form in ("npz", "wav"))
    (x, y), (other_x, other_y) = next(iter(one)), next(iter(other))
    for digit in (3, 8):  # files come in the order of their names
        rows, others = x[y == digit].sum((1, 2, 3)), other_x[other_y == digit].sum((1, 2, 3))
        torch.testing.assert_close(rows.sort()[0], others.sort()[0], rtol=1e-4, atol=1e-2)


def test_recordings_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "3_anna_1.wav"
    write_wav(path, np.zeros(10, np.int16), rate=16_000)
    with pytest.raises(TaskError, match=r"3_anna_1.wav must be 8000 Hz, .* got 16000 Hz"):
        SpokenDigits(tmp_path).val_loader()
    path.write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"3_anna_1.wav cannot be read as WAV"):
        SpokenDigits(tmp_path).val_loader()


def test_features_are_standardized_by_the_training_takes(tmp_path):
    write(tmp_path / "fsdd_8khz.npz")
    loader = SpokenDigits(tmp_path).train_loader(0)
    seen = loader.inputs[loader.rows, 0].flatten(0, 1)
    torch.testing.assert_close(seen.mean(0), torch.zeros(40), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(40), atol=1e-3, rtol=0)


@pytest.mark.parametrize("hz", [300.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_the_band_around_it(hz):
    tone = torch.sin(2 * torch.pi * hz * torch.arange(8000) / 8000)
    features = log_mel(tone)
    assert features.shape == (64, 40)

    def mel(value):
        return 1127.0 * np.log1p(value / 700.0)

    width = (mel(4000.0) - mel(60.0)) / 41
    expected = (mel(hz) - mel(60.0)) / width - 1  # bands begin with number 0 at one width
    assert abs(features[:50].mean(0).argmax().item() - expected) <= 1.0


def test_short_clips_are_padded_and_long_ones_cut():
    short, long = log_mel(torch.ones(300)), log_mel(torch.ones(20_000))
    silence = np.log(1e-6)
    assert short[10:].flatten().tolist() == pytest.approx([silence] * (54 * 40))
    assert torch.equal(long, log_mel(torch.ones(9000)))


def test_augmentation_rolls_each_clip_by_itself():
    batch = torch.arange(64.0)[None, None, :, None].repeat(32, 1, 1, 40)
    out = ShiftGainNoise(frames=6, gain=0.0, noise=0.0)(batch, torch.Generator().manual_seed(0))
    shifts = (-out[:, 0, 0, 0]) % 64
    shifts = torch.where(shifts > 32, shifts - 64, shifts).long().tolist()
    assert all(-6 <= shift <= 6 for shift in shifts)
    assert len(set(shifts)) > 5
    for before, after, shift in zip(batch, out, shifts, strict=True):
        assert torch.equal(after, before.roll(shift, 1))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"fsdd is not in .*: looked for fsdd_8khz.npz and rec"):
        SpokenDigits(tmp_path).val_loader()
    (tmp_path / "fsdd_8khz.npz").write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"fsdd_8khz.npz cannot be read"):
        SpokenDigits(tmp_path).val_loader()
    write(tmp_path / "fsdd_8khz.npz", takes=None)
    with pytest.raises(TaskError, match=r"must hold takes, it holds audio, offsets, labels"):
        SpokenDigits(tmp_path).val_loader()


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AUTOPRUNE_DATA names no folder with fsdd")
def test_the_dense_model_is_good():
    task = SpokenDigits(DATA)
    parts = (task.train_loader(0), task.val_loader(), task.test_loader())
    assert [len(part.rows) for part in parts] == [2400, 300, 300]
    assert task.evaluate(load_dense(task), "test")["accuracy"] >= 0.96
