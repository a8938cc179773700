from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from models.zoo import (
    V2_ROWS,
    ZOO,
    BasicBlock,
    Bottleneck,
    CifarResNet,
    DenseNet,
    MobileNet,
    ResNet,
)
from models.zoo_attention import ViT
from models.zoo_hard import HARD
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.errors import GraphError
from autoprune.graph import Frozen, PruningGraph, trace
from autoprune.pruning.build import build
from autoprune.pruning.masks import masked
from autoprune.pruning.verification import prunable


def units(graph: PruningGraph, name: str, tensor: str, dim: int) -> list[list[int]]:
    (found,) = [s for s in graph.group(name).slices if (s.tensor, s.dim) == (tensor, dim)]
    return found.indices.tolist()


def test_two_layers_give_one_group_with_hand_derived_slices() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = trace(net, torch.zeros(5, 4))
    (group,) = graph.groups
    told = [(s.tensor, s.dim, s.role, s.indices.tolist()) for s in group.slices]
    each = [[0], [1], [2]]
    assert sorted(told) == [
        ("0.bias", 0, "out", each),
        ("0.weight", 0, "out", each),
        ("2.weight", 1, "in", each),
    ]
    assert graph.frozen == (Frozen("2", 2, "model output"),)


def test_flatten_gives_each_channel_its_block_of_columns() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    graph = trace(net, torch.zeros(1, 1, 2, 2))
    assert units(graph, "0", "2.weight", 1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_positions_before_channels_give_each_channel_every_nth_column() -> None:
    build, draw = HARD["channels_last_flatten"]
    graph = trace(build(), draw(1))
    assert units(graph, "conv", "fc.weight", 1)[1] == [1, 7, 13, 19, 25]


def test_padded_shortcut_couples_the_middle_channels_and_freezes_what_meets_the_pad() -> None:
    graph = trace(CifarResNet(8), torch.zeros(1, 3, 16, 16))
    stem = graph.group("conv1")
    assert stem.size == 16
    assert units(graph, "conv1", "layer2.0.conv2.weight", 0) == [[u + 8] for u in range(16)]
    assert units(graph, "conv1", "layer3.0.conv2.weight", 0) == [[u + 24] for u in range(16)]
    assert {f.name: f.size for f in graph.frozen if "layer2" in f.name} == {"layer2.0.conv2": 16}
    assert sum(f.size for f in graph.frozen if f.name == "layer3.0.conv2") == 48


def test_concatenation_shifts_the_indices_of_the_second_part() -> None:
    class Cat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(2, 2), nn.Linear(5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    graph = trace(Cat(), torch.zeros(1, 2))
    assert units(graph, "a", "c.weight", 1) == [[0], [1], [2]]
    assert units(graph, "b", "c.weight", 1) == [[3], [4]]


def test_a_fixed_cut_freezes_only_what_lies_before_it() -> None:
    build, draw = HARD["concat_slice"]
    graph = trace(build(), draw(1))
    assert Frozen("a", 6, "is sliced at a fixed place") in graph.frozen
    assert units(graph, "a", "c.weight", 1) == [[0], [1]]
    assert graph.group("a").size == 2


def test_grouped_convolutions_by_hand() -> None:
    build, draw = HARD["grouped"]
    graph = trace(build(), draw(1))
    wide = graph.group("a")  # 24 channels into 2 groups of 12: equal places leave together
    assert wide.size == 12
    assert units(graph, "a", "a.weight", 0)[5] == [5, 17]
    narrow = graph.group("wide")  # 16 channels into 8 groups of 2: whole groups leave
    assert units(graph, narrow.name, "wide.weight", 0)[0] == [0, 1, 8, 9]
    assert {a.name for a in graph.attributes if a.module == "narrow"} >= {"groups", "in_channels"}


def test_an_operator_that_is_not_known_is_the_reason() -> None:
    build, draw = HARD["unknown"]
    graph = trace(build(), draw(2))
    assert [(f.size, f.reason) for f in graph.frozen if f.name == "a"] == [
        (8, "renorm is not understood")
    ]
    assert [group.name for group in graph.groups] == ["b"]


def test_pixel_shuffle_makes_one_channel_of_four_neighbours() -> None:
    build, draw = HARD["pixel_shuffle"]
    graph = trace(build(), draw(1))
    assert graph.sizes() == {"conv": 8, "up": 6}
    assert units(graph, "up", "up.weight", 0)[1] == [4, 5, 6, 7]
    assert units(graph, "up", "head.weight", 1)[1] == [1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(6, 5, batch_first=True),
        nn.GRU(6, 5, 2, batch_first=True, bidirectional=True),
        nn.MultiheadAttention(6, 2, batch_first=True),
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        nn.Softmax(-1),
        nn.LocalResponseNorm(2),
        nn.Bilinear(6, 6, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_not_understood_never_raises_and_keeps_what_it_meets(layer: nn.Module) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.layer = nn.Linear(4, 6), layer

        def forward(self, x: torch.Tensor) -> object:
            x = self.before(x)
            several = isinstance(layer, nn.MultiheadAttention | nn.Bilinear)
            return (
                layer(x, x, x)
                if isinstance(layer, nn.MultiheadAttention)
                else (layer(x, x) if several else layer(x))
            )

    graph = trace(Around(), torch.zeros(2, 3, 4))
    frozen = {f.name for f in graph.frozen}
    assert "before" in frozen or graph.group("before").size == 6


def test_a_mean_over_channels_freezes_them() -> None:
    build, draw = HARD["channel_mean"]
    graph = trace(build(), draw(1))
    assert Frozen("a", 8, "mean over channels") in graph.frozen
    assert graph.sizes() == {"b": 6}


def test_tied_parameters_are_listed_once_under_their_first_name() -> None:
    build, draw = HARD["tied"]
    graph = trace(build(), draw(1))
    (group,) = graph.groups
    tensors = {s.tensor for s in group.slices}
    assert tensors == {"encoder.weight", "encoder.bias", "twin.bias"}
    assert "twin.weight" not in graph.parameters


def test_layers_that_only_train_are_followed_too() -> None:
    build, draw = ZOO["googlenet"]
    graph = trace(build(), draw(1))
    assert any(s.tensor == "aux.0.0.weight" for g in graph.groups for s in g.slices)


@pytest.mark.parametrize("kind", ["fused", "plain", "separate"])
def test_attention_gives_heads_and_the_hidden_layer_behind_it(kind: str) -> None:
    graph = trace(ViT(kind), torch.zeros(1, 3, 32, 32))
    first = "blocks.0.attn.query" if kind == "separate" else "blocks.0.attn.qkv"
    group = graph.group(first)
    assert (group.kind, group.size) == ("head", 4)
    owned = {s.tensor: s.indices[1].tolist() for s in group.slices if s.role == "out"}
    weight = owned[f"{first}.weight"]
    expected = list(range(8, 16))
    if kind != "separate":
        expected = [k * 32 + i for k in range(3) for i in expected]
    assert weight == expected
    assert graph.group("blocks.0.fc1").kind == "ffn"
    assert graph.group("patch").kind == "channel"


def test_ignored_layers_keep_their_outputs() -> None:
    build, draw = ZOO["mlp"]
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = trace(net, torch.zeros(1, 4), ignored_layers=["0"])
    assert graph.sizes() == {"2": 6}
    assert Frozen("0", 8, "ignored_layers") in graph.frozen
    with pytest.raises(GraphError, match=r"got 'fc9' · the nearest is 'fc\d'"):
        trace(build(), draw(2), ignored_layers=["fc9"])


@pytest.mark.parametrize("ignored", ["0", "1", "2", "3", "3.0"])
def test_ignored_layers_without_channels_of_their_own_keep_what_they_pass_on(ignored: str) -> None:
    stem = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*stem, nn.Sequential(nn.Dropout()), nn.Conv2d(8, 4, 3))
    x = torch.zeros(1, 3, 8, 8)
    assert trace(net, x).sizes() == {"0": 8}
    graph = trace(net, x, ignored_layers=[ignored])
    assert graph.sizes() == {}
    assert Frozen("0", 8, "ignored_layers") in graph.frozen


def test_an_ignored_layer_with_a_parametrized_weight_leaves_its_inputs_free() -> None:
    build, draw = HARD["weight_norm"]
    graph = trace(build(), draw(1), ignored_layers=["b"])
    assert graph.sizes() == {"a": 10}


def test_inputs_may_be_positional_or_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": self.b(self.a(x) * scale)}

    x, scale = torch.ones(1, 3), torch.tensor(2.0)
    for given in ((x, scale), [x, scale], {"scale": scale, "x": x}):
        assert trace(Two(), given).sizes() == {"a": 4}


def test_a_model_that_cannot_run_is_told_in_one_line() -> None:
    with pytest.raises(GraphError, match=r"Linear must run on its example inputs \(\(1, 3\)\)"):
        trace(nn.Linear(4, 2), torch.zeros(1, 3))


def test_the_model_stays_as_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.drop, self.out = nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)
            self.extra = nn.Linear(6, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            x = self.drop(self.fc(x)) + torch.rand(1)
            return self.out(x) + (self.extra(x) if self.training else 0)

    net = Counting()
    net.drop.eval()
    seen = []
    net.fc.register_forward_hook(lambda *given: seen.append(1))
    modes = [module.training for module in net.modules()]
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    trace(net, torch.zeros(1, 4))
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert len(net.fc._forward_hooks) == 1
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_lstm_is_understood_by_its_parts() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(50, 24), nn.Linear(32, 5)
            self.lstm = nn.LSTM(24, 32, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(self.words(x))[0][:, -1])

    enabled = torch.backends.mkldnn.enabled
    graph = trace(Tagger(), torch.randint(0, 50, (1, 7)))
    assert torch.backends.mkldnn.enabled == enabled
    assert graph.sizes() == {"words": 24, "lstm": 32}
    assert [f.name for f in graph.frozen] == ["out"]
    kept = graph.sizes()
    macs = sum(int(np.prod([d.size(kept) for d in op.macs])) for op in graph.ops if op.macs)
    assert macs == 7 * 128 * (24 + 32) + 7 * 128 * (32 + 32) + 32 * 5  # gates x (inputs + hidden)


class Branching(nn.Module):
    """One of two ways behind a layer, by the size of the input, and a token only for masks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.ways = nn.ModuleList([nn.Linear(8, 6), nn.Linear(8, 6, bias=False)])
        self.out, self.token = nn.Linear(6, 2), nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.ways[int(len(x) > 4)](self.stem(x)))


def test_layers_that_no_run_reaches_are_told(caplog: pytest.LogCaptureFixture) -> None:
    reason = "not reached by the example input"
    graph = trace(Branching(), torch.zeros(2, 4))
    assert graph.sizes() == {"stem": 8, "ways.0": 6}
    assert graph.frozen[1:] == (Frozen("token", 8, reason), Frozen("ways.1", 6, reason))
    trace(Branching(), torch.zeros(2, 4))
    (record,) = caplog.records  # once
    assert "the example input does not reach 2 layers: token, ways.1 ·" in record.getMessage()


def test_buffers_that_a_run_replaces_are_given_back() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.only = nn.Linear(4, 6), nn.Linear(6, 6)
            self.register_buffer("mean", torch.zeros(6))
            self.register_buffer("table", torch.zeros(2))
            self.length = 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > self.length:
                self.length = len(x)
                self.register_buffer("table", torch.zeros(len(x)))
            x = self.fc(x) + self.table[: len(x), None]
            if self.training:
                x = self.only(x)
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return x

    net = Table()
    held = dict(net._buffers)
    trace(net, torch.ones(5, 4))
    assert all(net._buffers[name] is tensor for name, tensor in held.items())
    assert (net.mean.abs().sum(), len(net.table), net.length) == (0, 2, 2)
    assert net(torch.ones(5, 4)).shape == (5, 6)


def test_two_traces_agree() -> None:
    build, draw = ZOO["shufflenet_v2"]
    model, x = build(), draw(1)
    assert described(trace(model, x)) == described(trace(model, x))


def test_the_batch_size_changes_no_group() -> None:
    model = ResNet(BasicBlock, (1, 1, 1, 1), 8)
    one = trace(model, torch.zeros(1, 3, 32, 32))
    three = trace(model, torch.zeros(3, 3, 32, 32))
    assert described(one) == described(three)


def test_macs_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 6))
    graph = trace(net, torch.zeros(2, 3, 5, 5))
    macs = {
        op.name: int(np.prod([dim.size({"0": 3}) for dim in op.macs]))
        for op in graph.ops
        if op.macs
    }
    assert macs == {"convolution": 2 * 3 * 25 * 3 * 9, "addmm": 2 * 75 * 6}


def test_views_share_the_storage_of_what_they_view() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 1))
    graph = trace(net, torch.zeros(1, 1, 2, 2))
    storage = {op.name: graph.tensors[op.outputs[0]].storage for op in graph.ops if op.outputs}
    assert storage["convolution"] == storage["relu_"] == storage["view"] != storage["addmm"]
    assert graph.tensors[graph.outputs[0]].storage == storage["addmm"]


def described(graph: PruningGraph) -> list[tuple[object, ...]]:
    return [
        (g.name, g.kind, g.size, [(s.tensor, s.dim, s.role, s.indices.tolist()) for s in g.slices])
        for g in graph.groups
    ]


PEERS = {
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2), 8),
    "resnet50": lambda: ResNet(Bottleneck, (1, 2, 1, 1), 8),
    "vgg11_bn": ZOO["vgg11_bn"][0],
    "mobilenet_v2": lambda: MobileNet(V2_ROWS[:3]),
    "densenet": lambda: DenseNet((2, 3, 2), 4),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_the_coupled_channels_are_those_of_torch_pruning(name: str) -> None:
    """Every unit of ours is exactly one of theirs: the same (layer, side, channels)."""
    peer = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model, x = PEERS[name]().eval(), torch.randn(1, 3, 64, 64)
    graph = trace(model, x)
    paths = {module: path for path, module in model.named_modules()}
    theirs = peer.DependencyGraph().build_dependency(model, example_inputs=x)
    producers = (nn.Conv2d, nn.Linear)
    for group in graph.groups:
        for unit in sorted({0, group.size // 2, group.size - 1}):
            first = next(s for s in group.slices if s.role == "out")
            layer = model.get_submodule(first.tensor.rpartition(".")[0])
            depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1
            prune = (
                peer.prune_depthwise_conv_out_channels
                if depthwise
                else peer.prune_conv_out_channels
                if isinstance(layer, nn.Conv2d)
                else peer.prune_linear_out_channels
            )
            found = theirs.get_pruning_group(layer, prune, idxs=first.indices[unit].tolist())
            wanted = set()
            for dependency, indices in found:
                target, side = dependency.target.module, "out"
                if target not in paths:
                    continue  # their own nodes for sums, concatenations and flattening
                if isinstance(target, producers):
                    alone = (
                        isinstance(target, nn.Conv2d) and target.groups == target.in_channels > 1
                    )
                    handler = dependency.handler.__name__
                    side = "in" if handler.endswith("in_channels") and not alone else "out"
                wanted |= {(paths[target], side, int(index)) for index in indices}
            ours = set()
            for piece in group.slices:
                if piece.tensor.endswith("weight"):
                    path = piece.tensor.rpartition(".")[0]
                    side = "in" if piece.role == "in" else "out"
                    ours |= {(path, side, int(index)) for index in piece.indices[unit]}
            assert ours == wanted, (group.name, unit)


def test_a_model_that_cannot_be_followed_stays_whole() -> None:
    class Suspicious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise RuntimeError("watched")
            return self.b(self.a(x))

    graph = trace(Suspicious(), torch.zeros(1, 4))
    assert not graph.groups
    assert {f.name for f in graph.frozen} == {"a", "b"}


def test_experts_under_the_kernel_for_groups_lose_channels_in_aligned_bundles() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.o = nn.Linear(10, 16), nn.Linear(16, 4), nn.Linear(16, 3)
            self.up = nn.Parameter(0.3 * torch.randn(4, 20, 16))
            self.down = nn.Parameter(0.3 * torch.randn(4, 16, 20))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            expert, places = self.gate(x).argmax(-1).sort()
            stops = torch.histc(expert.float(), 4, 0, 3).cumsum(0).int()
            y = nn.functional.grouped_mm(x[places], self.up.mT, offs=stops)
            y = nn.functional.grouped_mm(torch.relu(y), self.down.mT, offs=stops)
            return self.o(torch.zeros_like(x).index_copy(0, places, y))

    model, x = Experts().eval(), torch.randn(6, 10)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 4, "up": 5}  # 16 bytes hold four channels
    small = build(
        model, graph, Architecture({"a": 2, "up": 2}), kept_indices={"a": (0, 2), "up": (1, 3)}
    )
    masks = masked(model, graph, {"a": [0, 2], "up": [1, 3]})
    torch.testing.assert_close(small.model(x), masks(x))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])
def test_nested_tensors_are_the_reason_for_all_layers(layout: torch.layout) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = torch.nested.nested_tensor([x[0], x[1, :3]], layout=layout)
            return self.b(torch.nested.to_padded_tensor(self.a(parts), 0.0))

    graph = trace(Nested(), torch.randn(2, 5, 8))
    assert not graph.groups
    assert {f.name for f in graph.frozen} == {"a", "b"}
    assert all("nested tensors" in f.reason for f in graph.frozen)
