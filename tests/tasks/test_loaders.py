import numpy as np
import pytest
import torch

from autoprune.tasks import Normalize, PadCropFlip, TensorLoader, stratified

ROWS = torch.arange(10)


def order(loader):
    return torch.cat([x for x, _ in loader]).tolist()


def test_without_a_seed_the_rows_come_in_order_and_whole():
    loader = TensorLoader(ROWS, ROWS * 2, batch_size=4)
    assert len(loader) == 3
    assert order(loader) == order(loader) == list(range(10))
    assert [y.tolist() for _, y in loader][2] == [16, 18]


def test_with_a_seed_each_pass_is_another_shuffle_that_can_be_repeated():
    first = TensorLoader(ROWS, ROWS, batch_size=5, seed=1)
    passes = [order(first), order(first)]
    assert sorted(passes[0]) == list(range(10))
    assert passes[0] != passes[1]
    again = TensorLoader(ROWS, ROWS, batch_size=5, seed=1)
    again.epoch = 1
    assert order(again) == passes[1]
    assert order(TensorLoader(ROWS, ROWS, batch_size=5, seed=2)) != passes[0]


def test_the_short_last_batch_is_left_out_of_training_unless_it_is_alone():
    assert [len(x) for x, _ in TensorLoader(ROWS, ROWS, batch_size=4, seed=0)] == [4, 4]
    small = TensorLoader(ROWS, ROWS, batch_size=64, seed=0)
    assert len(small) == 1
    assert [len(x) for x, _ in small] == [10]


def test_rows_choose_a_split():
    loader = TensorLoader(ROWS, ROWS, rows=torch.tensor([7, 3]), batch_size=4)
    assert order(loader) == [7, 3]


def test_the_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    images = torch.zeros(8, 1, 4, 4)
    list(TensorLoader(images, torch.zeros(8), seed=0, augment=PadCropFlip(1)))
    assert torch.equal(torch.rand(1), expected)


def test_crop_and_flip_give_one_of_the_possible_windows_for_each_image():
    images = torch.arange(1, 1 + 64 * 2 * 9, dtype=torch.int32).view(64, 2, 3, 3)
    out = PadCropFlip(pad=1)(images, torch.Generator().manual_seed(0))
    seen = set()
    for image, crop in zip(images, out, strict=True):
        padded = torch.zeros(2, 5, 5, dtype=torch.int32)
        padded[:, 1:4, 1:4] = image
        windows = {(y, x): padded[:, y : y + 3, x : x + 3] for y in range(3) for x in range(3)}
        found = [(*at, False) for at, window in windows.items() if torch.equal(window, crop)]
        found += [
            (*at, True) for at, window in windows.items() if torch.equal(window.flip(2), crop)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 12  # 18 windows, 64 draws


def test_without_padding_and_flip_nothing_changes():
    images = torch.rand(4, 1, 3, 3)
    assert torch.equal(PadCropFlip(0, flip=False)(images, torch.Generator()), images)


def test_normalize_by_hand():
    batch = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    out = Normalize(mean=(0.5, 0.25), std=(0.5, 0.25))(batch)
    assert out.flatten().tolist() == pytest.approx([-1.0, 3.0])


def test_stratified_takes_the_share_of_each_class():
    targets = np.array([0] * 20 + [1] * 10 + [2] * 2)
    rest, held = stratified(targets, 0.1, seed=0)
    assert np.bincount(targets[held.numpy()]).tolist() == [2, 1, 1]
    assert sorted(rest.tolist() + held.tolist()) == list(range(32))
    assert torch.equal(held, stratified(targets, 0.1, seed=0)[1])
    assert not torch.equal(held, stratified(targets, 0.1, seed=1)[1])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="as many rows, got 10 and 9"):
        TensorLoader(ROWS, ROWS[:9])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TensorLoader(ROWS, ROWS, batch_size=0)


@pytest.mark.gpu
def test_the_same_batches_on_the_gpu():
    images = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)
    loader = TensorLoader(
        images,
        torch.arange(32),
        batch_size=8,
        seed=3,
        augment=PadCropFlip(2),
        prepare=Normalize((0.5,) * 3, (0.2,) * 3),
    )
    for (x, y), (gx, gy) in zip(loader.to("cuda"), loader, strict=True):
        assert x.is_cuda
        torch.testing.assert_close(x.cpu(), gx)
        assert torch.equal(y.cpu(), gy)
