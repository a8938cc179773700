"""What the flow hears of the functions that the model's code calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph.caller import following
from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow
from autoprune.graph.rules import RULES
from autoprune.graph.sizes import LISTENER, Seen, Size, mark


class Noting(Flow):
    """Notes for each operator which function was being called, with how many arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, RULES)
        self.heard: dict[str, tuple[str, int]] = {}

    def compute(self, func: object, args: object, kwargs: object, call: Call) -> object:
        self.heard[call.name] = self.caller, len(self.arguments[0])
        return super().compute(func, args, kwargs, call)  # type: ignore[arg-type]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.width = nn.Linear(4, 8), 8

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.a(x), 1)


def test_operators_are_heard_under_the_functions_that_call_them() -> None:
    net = Net()
    flow = Noting(net)
    with following(flow), torch.no_grad():
        net(torch.zeros(2, 4))
    assert flow.heard["_softmax"][0] == "softmax"
    assert flow.heard["addmm"][0] == "linear"
    assert (flow.caller, flow.arguments) == ("", ((), {}))


def test_the_function_before_is_called_again_after_an_error() -> None:
    flow = Flow(nn.Identity(), RULES)

    def broken() -> None:
        with following(flow):
            torch.cat([torch.zeros(2, 3), torch.zeros(3, 4)])

    with pytest.raises(RuntimeError):
        broken()
    assert flow.caller == ""
    assert LISTENER.get() is None
    assert torch.zeros(2).tanh().tolist() == [0.0, 0.0]


def test_sizes_remember_their_dimension_inside_only() -> None:
    net = Net()
    flow = Flow(net, RULES)
    with following(flow), torch.no_grad():
        hidden = net.a(torch.zeros(2, 4))
        batch, width = hidden.shape
        again = hidden.size(1)
    assert (batch, width, again) == (2, 8, 8)
    assert type(batch) is int
    assert isinstance(width, Size)
    assert isinstance(width.source, Seen)
    assert width.source.run is flow
    assert width.source.label.tolist() == flow.labels(hidden)[1].tolist()  # type: ignore[union-attr]
    assert isinstance(again, Size)
    assert type(hidden.shape[1]) is int


def test_an_attribute_that_is_compared_with_a_size_holds_it() -> None:
    net = Net()
    mark(net)
    flow = Flow(net, RULES)
    with following(flow), torch.no_grad():
        hidden = net.a(torch.zeros(2, 4))
        before = list(flow.notes)
        assert hidden.shape[1] == net.width
    (note,) = [note for note in flow.notes if note not in before]
    assert (note.module, note.name, note.guessed) == ("", "width", False)
    assert note.sizes[0] is flow.labels(hidden)[1]


def test_the_shape_of_a_norm_is_that_of_what_it_normalizes() -> None:
    class Normed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(self.a(x), (self.width,))

    net = Normed()
    mark(net)
    flow = Flow(net, RULES)
    with following(flow), torch.no_grad():
        net(torch.zeros(2, 4))
    assert {note.name for note in flow.notes if note.module == ""} == {"width"}
