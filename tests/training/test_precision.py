from __future__ import annotations

import dataclasses
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.config.sections import Arithmetic
from autoprune.errors import DeviceError
from autoprune.tasks.wrap import wrap
from autoprune.training import precision
from autoprune.training.precision import (
    Precision,
    as_float32,
    choose,
    training_precision,
    watched,
)

CPU = torch.device("cpu")


def clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[Precision, float]) -> None:
    def timed(task: object, model: object, batch: object, option: Precision, *_: object) -> float:
        return seconds.get(option, 9.0)

    monkeypatch.setattr(precision, "_time", timed)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({Precision(): 1.0, Precision(True, True): 0.5}, Precision(True, True)),
        ({Precision(): 1.0, Precision(True, True): 0.5, Precision(True): 0.4}, Precision(True)),
        ({Precision(): 1.0, Precision(True, True): 0.9}, Precision()),
        ({Precision(): 1.0, Precision(False, True): 0.6}, Precision(False, True)),
        ({Precision(): 1.0, Precision(True, True): float("inf")}, Precision()),
    ],
)
def test_the_fastest_is_taken_where_it_clearly_pays(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[Precision, float], expected: Precision
) -> None:
    clock(monkeypatch, seconds)
    assert choose(Stripes(), dense()[0]) == expected


def test_what_was_faster_once_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first option that is timed warms up the machine."""
    cold = iter([3.0])
    low = Precision(True)

    def timed(task: object, model: object, batch: object, option: Precision, *_: object) -> float:
        return next(cold, 1.0) if option == Precision() else 1.0 if option == low else 9.0

    monkeypatch.setattr(precision, "_time", timed)
    assert choose(Stripes(), dense()[0]) == Precision()


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        ("auto", Precision(True, True)),
        ("float32", Precision()),
        ("bfloat16", Precision(bf16=True)),
    ],
)
def test_only_auto_is_timed(
    monkeypatch: pytest.MonkeyPatch, arithmetic: Arithmetic, expected: Precision
) -> None:
    clock(monkeypatch, {Precision(): 1.0, Precision(True, True): 0.5})
    assert training_precision(arithmetic, Stripes(), dense()[0]) == expected


def test_bfloat16_on_a_gpu_without_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(DeviceError, match=r"arithmetic: bfloat16, but .* write arithmetic: float"):
        training_precision("bfloat16", Stripes(), dense()[0], "cuda")


def test_choosing_trains_copies_only_and_gives_a_value_that_travels() -> None:
    model, _ = dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    chosen = choose(Stripes(), model, steps=1)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert Precision(**dataclasses.asdict(chosen)) == chosen


def test_what_gives_no_finite_loss_is_not_chosen() -> None:
    class Overflows(Stripes):
        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            value = super().loss(model, batch)
            rough = torch.is_autocast_enabled("cpu") or batch[0].is_contiguous(
                memory_format=torch.channels_last
            )
            return value * float("nan") if rough else value

    seconds = precision._time(
        Overflows(),
        dense()[0],
        next(iter(Stripes().train_loader(0))),
        Precision(False, True),
        CPU,
        2,
        float("inf"),
    )
    assert seconds == float("inf")


def test_only_the_models_own_forward_is_rounded() -> None:
    model, _ = dense()
    x = torch.randn(4, 1, 8, 8)
    inside: list[torch.dtype] = []
    model[3].register_forward_hook(lambda m, args, output: inside.append(output.dtype))
    with watched(model, Precision(bf16=True), CPU) as calls:
        y = model(x)
        assert not torch.is_autocast_enabled("cpu")
        outside = nn.functional.linear(y, torch.eye(3))
    assert inside == [torch.bfloat16]
    assert y.dtype == outside.dtype == torch.float32
    assert calls[0].args == (x,)
    assert calls[0].output is y
    with torch.no_grad():
        assert (y - model(x)).abs().max() < 0.1
    assert len(calls) == 1


def test_a_forward_that_raises_leaves_no_autocast_and_no_hook() -> None:
    model, _ = dense()
    with pytest.raises(RuntimeError), watched(model, Precision(bf16=True), CPU):
        model(torch.zeros(1, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_nests_of_outputs_become_float32() -> None:
    low = torch.ones(2, dtype=torch.bfloat16)
    found = as_float32({"a": (low, [low]), "b": "text", "c": torch.ones(1, dtype=torch.int64)})
    assert found["a"][0].dtype == found["a"][1][0].dtype == torch.float32
    assert found["b"] == "text"
    assert found["c"].dtype == torch.int64


def test_channels_last_reaches_images_in_nests_and_nothing_else() -> None:
    images, points = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)
    batch = Precision(channels_last=True).batch(({"x": images}, points), CPU)
    assert batch[0]["x"].is_contiguous(memory_format=torch.channels_last)
    assert batch[1].is_contiguous()


def block(inputs: int, *, stride: int = 2, kernel: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 32, kernel, stride, groups=groups), nn.ReLU())


@pytest.mark.parametrize(
    ("model", "safe"),
    [
        (block(8), False),
        (block(32, groups=4), False),
        (block(16), True),
        (block(8, stride=1), True),
        (block(8, kernel=3), True),
    ],
)
def test_narrow_strided_projections_are_not_trained_in_channels_last(
    model: nn.Module, safe: bool
) -> None:
    wanted = Precision(bf16=True, channels_last=True)
    assert wanted.suited(model, "cpu") == Precision(bf16=True, channels_last=safe)
    assert wanted.suited(model, "cuda") == wanted
    assert Precision().suited(model, "cpu") == Precision()


def test_a_model_goes_back_to_the_plain_layout() -> None:
    model = Precision(channels_last=True).place(block(16, kernel=3), "cpu")
    assert not model[0].weight.is_contiguous()
    Precision().place(model, "cpu")
    assert model[0].weight.is_contiguous()


def test_five_dimensional_weights_are_left_in_their_layout() -> None:
    model = nn.ModuleList([nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3)])
    Precision(channels_last=True).place(model, "cpu")
    assert model[0].weight.is_contiguous()
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)


class Answer(OrderedDict):
    """A mapping whose items are attributes too."""

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


@dataclass(frozen=True)
class Both:
    logits: torch.Tensor
    more: SimpleNamespace


def test_outputs_keep_their_type_in_float32() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    answer = Answer(logits=half)
    found = as_float32(answer)
    assert type(found) is Answer
    assert found.logits.dtype == found["logits"].dtype == torch.float32
    assert answer.logits is half
    both = as_float32(Both(half, SimpleNamespace(x=(half, None))))
    assert (both.logits.dtype, both.more.x[0].dtype) == (torch.float32, torch.float32)
    assert as_float32(MappingProxyType({"a": half}))["a"].dtype == torch.float32


def test_an_arithmetic_that_fails_is_not_chosen() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            # Layouts are asked of what was given: that of an output is the processor's own choice.
            if y.dtype != torch.float32 or not (
                x.is_contiguous() and self.a.weight.is_contiguous()
            ):
                raise RuntimeError("not implemented")
            return y.mean((2, 3))

    batches = [(torch.randn(4, 3, 8, 8), torch.zeros(4).long())]
    task = wrap(Picky(), batches, batches)
    assert choose(task, task.build_model()) == Precision()
