from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.training import Answers, Precision, RecoveryRun
from autoprune.training.precision import Call


class Counted:
    """An answer that counts how often it is computed."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.times = answer, 0

    def __call__(self) -> Any:
        self.times += 1
        return self.answer


def asked(answers: Answers, *inputs: Any, precision: Precision | None = None, **named: Any) -> int:
    """How often the inputs, asked twice, were computed."""
    found = Counted(torch.zeros(4))
    for _ in range(2):
        answers.of(Call(inputs, named, None), precision or Precision(), found)
    return found.times


X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "inputs",
    [
        X,
        [X, (X, None)],
        {"ids": X.long(), "mask": X > 2, "name": "a", "n": 1},
        X.bfloat16(),
        X.t(),
        torch.tensor(1.0),
        torch.zeros(0, 3),
        torch.nn.utils.rnn.pack_padded_sequence(X[..., None], [3, 2], batch_first=True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_same_content_is_computed_once(inputs: Any) -> None:
    answers = Answers()
    assert asked(answers, inputs) == 1
    copied = inputs.clone() if isinstance(inputs, Tensor) else inputs
    assert asked(answers, copied) == 0


@pytest.mark.parametrize(
    "other",
    [
        X + 1,
        X.double(),
        X.reshape(3, 2),
        X[:1],
        [X],
        {"x": X},
    ],
    ids=["values", "dtype", "shape", "part", "list", "dict"],
)
def test_other_content_has_its_own_answer(other: Any) -> None:
    answers = Answers()
    asked(answers, X)
    assert asked(answers, other) == 1


def test_names_and_places_of_inputs_count() -> None:
    answers = Answers()
    assert [asked(answers, X), asked(answers, x=X), asked(answers, y=X)] == [1, 1, 1]
    assert [asked(answers, a=1, b=11), asked(answers, a=11, b=1)] == [1, 1]
    assert [asked(answers, ["a", "b"]), asked(answers, ["ab"])] == [1, 1]


def test_another_arithmetic_has_its_own_answer() -> None:
    answers = Answers()
    asked(answers, X)
    assert asked(answers, X, precision=Precision(bf16=True)) == 1


@pytest.mark.parametrize(
    "unknown",
    [object(), OrderedDict(x=object()), nn.Parameter(X), X.to_sparse(), X.to("meta")],
    ids=["object", "nested", "subclass", "sparse", "not on the CPU"],
)
def test_what_cannot_be_told_apart_is_computed_each_time(unknown: Any) -> None:
    answers = Answers()
    assert asked(answers, unknown) == 2


def test_nothing_is_added_beyond_the_limit_and_what_is_there_stays() -> None:
    answers = Answers(limit=40)  # two answers of four floats are 32
    assert [asked(answers, X + n) for n in range(3)] == [1, 1, 2]
    assert asked(answers, X) == 0


def test_a_view_counts_with_all_that_it_keeps_in_memory() -> None:
    answers, large = Answers(limit=1000), torch.zeros(1000)
    found = Counted(large[:1])
    for _ in range(2):
        answers.of(Call((X,), {}, None), Precision(), found)
    assert found.times == 2


def test_an_answer_that_a_loss_has_written_into_is_computed_again() -> None:
    answers, call = Answers(), Call((X,), {}, None)
    first = answers.of(call, Precision(), lambda: {"logits": torch.ones(2)})
    first["logits"].mul_(2.0)
    again = answers.of(call, Precision(), lambda: {"logits": torch.ones(2)})
    assert again["logits"].tolist() == [1.0, 1.0]
    assert answers.of(call, Precision(), lambda: None) is again


def test_an_answer_without_tensors_is_kept() -> None:
    answers, found = Answers(), Counted(3.0)
    for _ in range(2):
        answers.of(Call((X,), {}, None), Precision(), found)
    assert found.times == 1


def run(answers: Answers | None, features: float = 0.0) -> tuple[RecoveryRun, list[int]]:
    """A run of two epochs with a teacher whose calls are counted."""
    model, graph = dense()
    calls: list[int] = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                calls.append(len(x))
            return super().forward(x)

    chosen = Candidate(
        Architecture({"0": 4}),
        Selection(repair=False),
        recovery=Recovery(lr=0.05, distillation=0.5, features=features),
    )
    made = RecoveryRun(
        Stripes(),
        model,
        graph,
        chosen,
        epochs=2,
        seed=0,
        teacher=Watched(*model),
        answers=answers,
    )
    made.advance(2)
    return made, calls


def test_a_second_training_is_the_same_to_the_bit_without_asking_the_teacher() -> None:
    answers = Answers()
    plain, every = run(None)
    first, asked_first = run(answers)
    second, asked_again = run(answers)
    assert len(asked_first) == len(every) > 0
    assert not asked_again
    for one in (first, second):
        pairs = zip(plain.model.state_dict().values(), one.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_features_need_the_forward_pass_of_the_teacher() -> None:
    answers = Answers()
    run(answers, features=0.1)
    assert run(answers, features=0.1)[1]
