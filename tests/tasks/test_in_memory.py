import torch
from torch import Tensor, nn

from autoprune.tasks import InMemoryTask, TensorLoader


class Numbers(InMemoryTask):
    """Training rows 0 to 9, validation 10 to 14, test 15 to 19 of the same tensors."""

    batch_size, evaluation_batch_size = 4, 3

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        x, y = torch.arange(20), torch.arange(20) % 2
        rows = {"train": (0, 10), "val": (10, 15), "test": (15, 20)}
        return {name: (x, y, torch.arange(*ends)) for name, ends in rows.items()}


class Prepared(Numbers):
    prepare = staticmethod(lambda x: x.float()[:, None])
    augment = staticmethod(lambda x, generator: x + 100)


def inputs(loader: TensorLoader) -> list[list[int]]:
    return [x.tolist() for x, _ in loader]


def test_evaluation_is_in_order_and_whole() -> None:
    task = Numbers()
    assert inputs(task.val_loader()) == [[10, 11, 12], [13, 14]]
    assert inputs(task.test_loader()) == [[15, 16, 17], [18, 19]]
    assert [y.tolist() for _, y in task.val_loader()] == [[0, 1, 0], [1, 0]]


def test_training_is_shuffled_by_the_seed() -> None:
    first, again, other = (inputs(Numbers().train_loader(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert [len(batch) for batch in first] == [4, 4]
    rows = [row for batch in first for row in batch]
    assert len(set(rows)) == 8
    assert set(rows) <= set(range(10))


def test_only_training_is_augmented_and_every_split_is_prepared() -> None:
    task = Prepared()
    assert task.val_loader().augment is task.test_loader().augment is None
    (x, _), *_ = task.train_loader(0)
    assert x.dtype == torch.float32
    assert x.shape == (4, 1)
    assert (x >= 100).all()
    (x, _), *_ = task.val_loader()
    assert x.tolist() == [[10.0], [11.0], [12.0]]


def test_the_example_is_the_first_prepared_input() -> None:
    assert Prepared().example_input().tolist() == [[10.0]]
