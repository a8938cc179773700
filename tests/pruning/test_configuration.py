from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune import prune_model
from autoprune.pruning.configuration import fitted, integers, mend, read, write


class Config(SimpleNamespace):
    def to_dict(self) -> dict[str, object]:
        return dict(vars(self))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.size = config.width // config.heads
        self.q, self.k, self.v = (nn.Linear(config.width, config.width) for _ in range(3))
        self.o = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = (q @ k.mT / self.size**0.5).softmax(-1) @ v
        x = x + self.o(y.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(x)))


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.a = config, nn.Linear(10, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.o = nn.Linear(config.width, 3)
        self.scale = float(config.scaled and config.width) or 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for layer in self.layers:
            x = layer(x)
        return self.o(x) * self.scale

    def save_pretrained(self, folder: str) -> None:
        raise NotImplementedError


def encoder(**entries: object) -> Encoder:
    held = {
        "width": 32,
        "heads": 4,
        "inner": 48,
        "num_layers": 2,
        "max_length": 32,
        "scaled": False,
    }
    return Encoder(Config(**{**held, **entries}))


def example() -> Tensor:
    return torch.randn(2, 5, 10)


def test_entries_follow_the_sizes_and_numbers_that_only_equal_a_width_stay() -> None:
    small = prune_model(encoder(), example(), 0.5)
    assert vars(small.config) == {
        **{"width": 16, "heads": 2, "inner": 24},
        **{"num_layers": 2, "max_length": 32, "scaled": False},
    }
    again = Encoder(small.config)
    again.load_state_dict(small.state_dict())
    x = example()
    torch.testing.assert_close(again(x), small(x))


def test_layers_of_unequal_widths_leave_the_configuration_as_it_was() -> None:
    small = prune_model(encoder(), example(), {"layers.0.up": 0.5})
    assert fitted(small) is None
    assert (small.config.width, small.config.inner) == (32, 48)


def test_a_configuration_that_would_change_the_outputs_is_not_taken() -> None:
    model = encoder(scaled=True)
    small = prune_model(model, example(), 0.5)
    assert fitted(small).width == 16
    assert not mend(small, example())
    assert small.config.width == 32


class Dividing(Encoder):
    """Divides by zero where it draws the weights of a narrow model, which `meta` has none of."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not self.o.weight.is_meta:
            self.spread = 1.0 / (config.width // 32)


def test_a_configuration_that_the_class_cannot_be_built_with_is_not_taken() -> None:
    small = prune_model(Dividing(encoder().config), example(), 0.5)
    assert fitted(small).width == 16
    assert not mend(small, example())
    assert small.config.width == 32


def test_the_given_model_keeps_its_configuration() -> None:
    model = encoder()
    prune_model(model, example(), 0.5)
    assert model.config.width == 32
    assert not hasattr(model, "_dense_config")


def test_numbers_are_read_and_written_in_lists_and_nested_configurations() -> None:
    config = Config(width=8, sizes=[4, 6], vision=Config(hidden=3), vocab_size=9, flag=True)
    assert dict(integers(config)) == {
        ("width",): 8,
        ("sizes", 0): 4,
        ("sizes", 1): 6,
        ("vision", "hidden"): 3,
    }
    write(config, ("sizes", 1), 5)
    write(config, ("vision", "hidden"), 2)
    assert (config.sizes, read(config, ("vision", "hidden"))) == ([4, 5], 2)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_other_ratios_are_found_too(ratio: float) -> None:
    small = prune_model(encoder(), example(), ratio)
    assert small.config.width == round(32 * (1 - ratio))


@dataclass(frozen=True)
class Sizes:
    width: int = 32
    inner: int = 48


class Plain(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        held = config if isinstance(config, dict) else vars(config)
        self.config = config
        self.a, self.norm = nn.Linear(10, held["width"]), nn.LayerNorm(held["width"])
        self.b = nn.Linear(held["width"], held["inner"])
        self.o = nn.Linear(held["inner"], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.b(self.norm(torch.relu(self.a(x))))))


class Described(Plain):
    """Its class takes more than its configuration."""

    def __init__(self, config: Any, name: str) -> None:
        super().__init__(config)
        self.name = name


@pytest.mark.parametrize(
    "config", [Sizes(), SimpleNamespace(width=32, inner=48), {"width": 32, "inner": 48}]
)
def test_a_plain_configuration_gets_the_sizes(config: Any) -> None:
    torch.manual_seed(0)
    model, x = Plain(config), torch.randn(4, 10)
    small = prune_model(model, x, {"a": 0.5, "b": 0.25})
    sizes = small.config if isinstance(config, dict) else vars(small.config)
    assert sizes == {"width": 16, "inner": 36}
    assert (config if isinstance(config, dict) else vars(config)) == {"width": 32, "inner": 48}
    again = Plain(small.config)
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(x), small(x))


def test_a_class_that_takes_more_keeps_its_configuration() -> None:
    small = prune_model(Described(Sizes(), "wide"), torch.randn(4, 10), 0.5)
    assert small.config == Sizes()
    assert small.a.out_features == 16
