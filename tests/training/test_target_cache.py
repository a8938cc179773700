from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.training import RecoveryRun
from autoprune.training.precision import Call
from autoprune.training.target_cache import TargetCache

X = torch.arange(24.0).view(8, 3)


def doubled(x: Tensor) -> Tensor:
    return 2 * x


class Asked:
    """A cache in front of a function; counts how often that is really called."""

    def __init__(self, function: Callable[..., Any] = doubled, **options: Any) -> None:
        self.cache = TargetCache(**options)
        self.calls = 0
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def compute() -> Any:
            self.calls += 1
            return self._function(*args, **kwargs)

        return self.cache.answer(Call(args, kwargs, None), compute)


def known(asked: Asked, *batches: Tensor) -> None:
    """Show batches until what comes back is believed."""
    for _ in range(4):
        for batch in batches:
            asked(batch)
    for shift in range(1, 4):
        asked(torch.cat(batches).roll(shift, 0))


def test_what_comes_back_in_another_order_is_not_computed_again() -> None:
    asked = Asked()
    known(asked, X[:4], X[4:])
    calls = asked.calls
    mixed = X[[7, 0, 5, 2]]
    assert torch.equal(asked(mixed), 2 * mixed)
    assert asked.calls == calls


def test_a_sample_that_is_altered_is_computed() -> None:
    asked = Asked()
    known(asked, X)
    calls = asked.calls
    altered = X.clone()
    altered[3, 1] += 1e-6 * altered[3, 1]
    assert torch.equal(asked(altered), 2 * altered)
    assert asked.calls == calls + 1
    assert torch.equal(asked(altered.view(8, 3, 1)), 2 * altered.view(8, 3, 1))
    assert asked.calls == calls + 2


def test_settings_beside_the_tensors_are_part_of_what_is_known() -> None:
    asked = Asked(lambda x, scale=1: scale * x)
    for _ in range(5):
        asked(X, scale=3)
    assert asked.calls == 4
    assert torch.equal(asked(X, scale=2), 2 * X)
    assert torch.equal(asked(X, scale=3), 3 * X)


def test_nested_inputs_and_outputs_of_any_type() -> None:
    asked = Asked(lambda ids, more: {"a": ids * 2, "b": (more["mask"], ids[:, :1].float())})
    ids, mask = torch.arange(6).view(3, 2), torch.tensor([[True], [False], [True]])
    for _ in range(5):
        answer = asked(ids, {"mask": mask})
    assert asked.calls == 4
    assert torch.equal(answer["a"], ids * 2)
    assert torch.equal(answer["b"][0], mask)
    assert answer["b"][1].dtype == torch.float32


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),  # depends on the rest of the batch
        lambda x: x + torch.rand_like(x),
    ],
)
def test_answers_that_are_not_of_the_sample_alone_are_not_kept(
    function: Callable[[Tensor], Tensor],
) -> None:
    asked = Asked(function)
    known(asked, X[:4], X[4:])
    mixed = X[[7, 0, 5, 2]]
    for _ in range(5):
        calls = asked.calls
        asked(mixed)
        assert asked.calls == calls + 1


def test_outputs_without_a_row_for_each_sample_are_not_kept() -> None:
    asked = Asked(lambda x: x.sum())
    known(asked, X)
    assert asked.calls == 7


def test_one_number_a_sample_is_an_input_too() -> None:
    asked = Asked(lambda x, lengths: x * lengths[:, None])
    lengths = torch.arange(8)
    for _ in range(5):
        assert torch.equal(asked(X, lengths), X * lengths[:, None])
    assert asked.calls == 4
    assert torch.equal(asked(X, lengths + 1), X * (lengths + 1)[:, None])


@pytest.mark.parametrize(
    "inputs",
    [torch.empty(0, 3), torch.eye(3).to_sparse(), torch.tensor(1.0), "text", [], (X, X[:2])],
)
def test_inputs_that_are_not_samples_are_computed(inputs: object) -> None:
    asked = Asked(lambda x: 7)
    assert [asked(inputs) for _ in range(6)] == [7] * 6
    assert asked.calls == 6


def test_no_more_is_held_than_allowed() -> None:
    asked = Asked(most_bytes=4 * (250 + 12))
    known(asked, X[:4])
    calls = asked.calls
    asked(X[:4])
    assert asked.calls == calls
    asked(X[4:])
    asked(X[4:])
    assert asked.calls == calls + 2


def test_it_gives_up_where_nothing_comes_back() -> None:
    asked = Asked(tries=3)
    for shift in range(4):
        asked(X + 100 * shift)
    known(asked, X)
    assert asked.cache.hits == 0


def test_runs_that_share_targets_end_as_those_that_do_not() -> None:
    answers: list[int] = []

    class Counted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            if not self.training and not torch.is_grad_enabled():
                answers.append(len(x))
            return self.inner(x)

    model, graph = dense()
    task = Stripes()

    def trained(ratio: float, targets: TargetCache | None) -> dict[str, Tensor]:
        chosen = Candidate(
            Architecture({"0": round(16 * (1.0 - ratio))}),
            Selection(repair=False),
            recovery=Recovery(0.05, 0.5, 0.0),
        )
        run = RecoveryRun(task, model, graph, chosen, epochs=2, seed=0, targets=targets)
        run.build()
        assert run._teacher is not None
        run._teacher._model = Counted(run._teacher._model).eval()
        run.advance(2)
        return run.result().state_dict()

    def batches(targets: TargetCache | None) -> int:
        answers.clear()
        ends.append([trained(ratio, targets) for ratio in (0.5, 0.25)])
        return len(answers)

    ends: list[list[dict[str, Tensor]]] = []
    assert batches(TargetCache(most_bytes=0)) == 24  # 2 runs, 2 epochs of 6 batches
    assert batches(None) == 2 * (6 + 3)  # the images come back in another order: three checks
    assert batches(TargetCache()) == 6 + 3 + 3  # and three of the batches that come back
    for each in ends[1:]:
        for one, other in zip(ends[0], each, strict=True):
            for name, tensor in one.items():
                torch.testing.assert_close(tensor, other[name])
