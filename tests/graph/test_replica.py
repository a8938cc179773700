from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import autoprune
from autoprune import prune_model
from autoprune.errors import GraphError
from autoprune.graph import trace
from autoprune.graph.replica import replica, same_embeddings


class Keeping(nn.Module):
    """A model that keeps what it computed, for a loss or a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.seen: dict[str, list[Tensor]] = {"hidden": []}

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        self.seen["hidden"].append(hidden)
        return self.b(hidden)


def test_a_model_that_keeps_activations_is_copied_with_their_values() -> None:
    net = Keeping()
    net(torch.randn(2, 8)).sum().backward()
    copied = replica(net)
    (ours,), (theirs,) = net.seen["hidden"], copied.seen["hidden"]
    assert torch.equal(ours, theirs)
    assert ours.grad_fn is not None
    assert not theirs.requires_grad
    assert trace(net, torch.randn(2, 8)).sizes() == {"a": 16}
    assert len(net.seen["hidden"]) == 1


def test_empty_containers_are_copied_once_and_shared_as_before() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    shared: list[int] = []
    net[0].seen, net[1].seen, net[1].own = shared, shared, []
    net[1].counts = Counter()
    copied = replica(net)
    assert copied[0].seen is copied[1].seen is not shared
    copied[0].seen.append(1)
    copied[0].register_forward_hook(lambda module, args, out: 2 * out)
    assert (shared, net[1].own, copied[1].own) == ([], [], [])
    assert type(copied[1].counts) is Counter
    assert not net[0]._forward_hooks
    assert not copied[1]._forward_hooks
    x = torch.randn(3, 4)
    assert torch.equal(copied[0](x), 2 * net[0](x))


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.LazyLinear(3), "1.weight"), (nn.LazyBatchNorm1d(), "1.weight")]
)
def test_layers_of_unknown_sizes_are_refused_with_the_remedy(layer: nn.Module, name: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), layer), torch.randn(2, 4)
    with pytest.raises(GraphError) as caught:
        prune_model(model, x, 0.5)
    assert str(caught.value) == (
        f"a model must know its sizes, got Sequential whose {name} has none yet · call the model "
        "once on an example before"
    )
    model(x)
    assert replica(model)(x).shape == model(x).shape


def test_a_weight_that_a_hook_computes_is_copied() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    prune.l1_unstructured(net[0], "weight", 0.5)
    net(torch.randn(2, 8))
    assert torch.equal(replica(net)[0].weight, net[0].weight)
    assert trace(net, torch.randn(2, 8)).sizes() == {"0": 16}


def test_reading_an_embedding_with_a_largest_norm_is_undone() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, max_norm=1.0))
    before = torch.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0], [0.0, 0.0]])
    with torch.no_grad():
        model[0].weight.copy_(before)
    with torch.no_grad(), same_embeddings(model):
        torch.testing.assert_close(model(torch.tensor([0])), torch.tensor([[0.6, 0.8]]))
        torch.testing.assert_close(model[0].weight[0], torch.tensor([0.6, 0.8]))
    assert torch.equal(model[0].weight, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_torch_is_refused_and_as_a_part_it_stays_whole() -> None:
    with pytest.raises(GraphError, match=r"must be an nn.Module in Python, got a \w*ScriptModule"):
        trace(torch.jit.script(nn.Linear(8, 3)), torch.zeros(1, 8))
    inner = torch.jit.script(nn.Linear(16, 12))
    net = nn.Sequential(
        nn.Linear(8, 16), inner, torch.jit.script(nn.GELU()), nn.Linear(12, 6), nn.Linear(6, 3)
    )
    graph = trace(net, torch.randn(2, 8))
    assert graph.sizes() == {"3": 6}
    assert {f.name: f.size for f in graph.frozen} == {"0": 16, "1": 12, "4": 3}
    assert graph.frozen[-1].reason == "is a program of torch.jit"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["ScriptFunction", "RecursiveScriptModule", "ExportedProgram"])
def test_what_is_no_module_is_refused_everywhere(kind: str) -> None:
    x = torch.zeros(1, 8)
    model: Any = {
        "ScriptFunction": lambda: torch.jit.trace(torch.relu, x),
        "RecursiveScriptModule": lambda: torch.jit.script(nn.Linear(8, 3)),
        "ExportedProgram": lambda: torch.export.export(nn.Linear(8, 3), (x,)),
    }[kind]()
    calls: list[Callable[[], object]] = [
        lambda: autoprune.groups(model, x),
        lambda: autoprune.prune_model(model, x, 0.5),
        lambda: autoprune.count_cost(model, x),
        lambda: autoprune.measure_latency(model, x),
        lambda: autoprune.measure_peak_memory(model, x),
        lambda: autoprune.calibrate(model, [x]),
        lambda: autoprune.accumulate_gradients(model, lambda m, b: m(b).sum(), [x]),
    ]
    for call in calls:
        with pytest.raises(
            GraphError, match=f"^a model must be an nn.Module in Python, got a {kind}"
        ):
            call()


def test_an_example_of_a_subclass_is_a_plain_tensor() -> None:
    class Image(Tensor):
        pass

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    image = torch.randn(1, 3, 8, 8).as_subclass(Image)
    assert trace(net, image).sizes() == trace(net, torch.randn(1, 3, 8, 8)).sizes() == {"0": 8}
