import copy
from collections.abc import Callable

import pytest
import torch
from models.zoo import ZOO, settled
from models.zoo_attention import ViT
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.cost.analytic import count_cost
from autoprune.cost.model import CostModel
from autoprune.graph import PruningGraph, trace
from autoprune.pruning import depth, importance
from autoprune.pruning.build import build, shrink
from autoprune.pruning.depth import Removed, drop, verify_blocks
from autoprune.pruning.masks import masked
from autoprune.pruning.verification import prunable
from autoprune.schedule import Schedule

MODELS = {
    **{
        name: ZOO[name]
        for name in ("resnet18", "resnet20_padded", "mobilenet_v3", "convnext", "regnet_y")
    },
    "vit": (lambda: ViT("fused"), lambda n: torch.randn(n, 3, 32, 32)),
    "pre-norm": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True), 2
        ),
        lambda n: torch.randn(n, 5, 16),
    ),
    "post-norm": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=False), 2
        ),
        lambda n: torch.randn(n, 5, 16),
    ),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", MODELS)
def test_every_block_that_is_found_can_be_dropped(name: str) -> None:
    torch.manual_seed(0)
    make, example = MODELS[name]
    model, x = settled(make()).eval(), example(2)
    graph = trace(model, x)
    assert graph.blocks
    assert verify_blocks(model, graph, x).blocks == graph.blocks


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.scale * self.inner(self.norm(x)))


def chain() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Residual(8), Residual(8), nn.Linear(8, 2)).eval()
    return model, torch.randn(3, 4)


def test_what_remains_of_a_block_is_its_activation() -> None:
    model, x = chain()
    graph = trace(model, x)
    small = copy.deepcopy(model)
    drop(small, graph, ["1"])
    wanted = model[3](model[2](torch.relu(model[0](x))))
    assert torch.equal(small(x), wanted)


def test_nothing_of_a_block_is_held_or_computed() -> None:
    model, x = chain()
    drop(model, trace(model, x), ["1"])
    assert [name for name, _ in model[1].named_parameters()] == []
    assert isinstance(model[1].inner, Removed)
    with torch.profiler.profile() as profile:
        model(x)
    calls = [event.name for event in profile.events()]
    assert calls.count("aten::add") == calls.count("aten::mul") == 1  # those of the other block
    assert calls.count("aten::layer_norm") == 1


class AsksForTheType(nn.Module):
    """As Mamba's blocks do, which keep the residual stream in another type."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.norm.weight
        inner = self.inner(self.norm(x.to(weight.dtype).to(weight.device)))
        return x + inner.to(inner.dtype)


@pytest.mark.parametrize("now", [torch.float64, torch.bfloat16, "meta"])
def test_code_may_ask_for_the_type_and_the_device_of_weights_that_are_gone(
    now: torch.dtype | str,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), AsksForTheType(), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 4)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["1"]
    drop(model, graph, ["1"])
    assert torch.equal(model(x), model[2](model[0](x)))
    model.to(now)
    gone = model[1]
    for empty in (gone.norm.weight, gone.inner.bias, gone.inner(x)):
        assert now in (empty.dtype, empty.device.type)
    assert model(x.to(now)).dtype is model[2].weight.dtype
    assert not gone.state_dict()


def test_the_optimizer_forgets_what_is_dropped_and_keeps_the_rest() -> None:
    model, x = chain()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(x).sum().backward()
    optimizer.step()
    graph = trace(model, x)
    drop(model, graph, ["2"], optimizer=optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in optimizer.state} == set(held)


class AsksForItsSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.free = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x)
        if inner.shape != x.shape:
            raise ValueError("a size that does not fit")
        y = x + inner
        return y + self.free(y)


def test_a_block_whose_code_needs_its_result_is_no_block() -> None:
    torch.manual_seed(0)
    model, x = AsksForItsSize().eval(), torch.randn(3, 8)
    graph = trace(model, x)
    assert [block.name for block in graph.blocks] == ["inner", "free"]
    assert [block.name for block in verify_blocks(model, graph, x).blocks] == ["free"]


@pytest.mark.parametrize("layers", [(2, 3), (2, 4, 9, 3)])
def test_equal_blocks_of_all_stages_are_tried_together(
    layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    stages = [nn.Sequential(*[AsksForItsSize() for _ in range(count)]) for count in layers]
    model, x = nn.Sequential(*stages).eval(), torch.randn(3, 8)
    tries: list[int] = []
    is_right = depth._is_right

    def counted(model: nn.Module, graph: PruningGraph, names: list[str], *args, **kwargs) -> bool:
        tries.append(len(names))
        return is_right(model, graph, names, *args, **kwargs)

    monkeypatch.setattr(depth, "_is_right", counted)
    graph = trace(model, x)
    count = sum(layers)
    assert len(graph.blocks) == 2 * count
    found = {block.name for block in verify_blocks(model, graph, x).blocks}
    assert found == {b.name for b in graph.blocks if b.name.endswith("free")}
    assert tries == [2 * count, count, 1, 1, 1, 1, count]


def test_dropping_an_outer_block_before_the_one_inside_is_dropping_the_outer_one() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = nn.Sequential(nn.Linear(8, 8), Residual(8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.outer(x)

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Nested(), nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    graph = trace(model, x)
    names = [block.name for block in graph.blocks]
    assert len(names) == 2
    for order in (names, names[::-1]):
        small = copy.deepcopy(model)
        drop(small, graph, order)
        assert torch.equal(small(x), model[2](model[0](x)))
        assert len(list(small.parameters())) == 4


class Branches(nn.Module):
    """Convolutions side by side whose sum is a residual branch; the code goes through a list."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        out = 0
        for branch in self.branches:
            out = out + branch(x)
        return torch.relu(x + out / len(self.branches))


@pytest.mark.parametrize("count", [1, 3])
def test_a_branch_whose_code_goes_through_a_list_is_a_block(count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Branches(count), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 4)
    graph = prunable(model, x)
    paths = {f"1.branches.{n}" for n in range(count)}
    (whole,) = (b for b in graph.blocks if {path for path, _ in b.modules} == paths)
    drop(model, graph, [whole.name])
    assert torch.equal(model(x), model[2](torch.relu(model[0](x))))
    assert len(list(model.parameters())) == 4


def test_a_branch_with_a_difference_inside_is_a_block() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.scale = nn.Parameter(torch.full((8,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * (self.mix(x) - self.norm(x))

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Mixer(), nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["1"]
    drop(model, graph, ["1"])
    assert torch.equal(model(x), model[2](model[0](x)))


class Inline(nn.Module):
    """Attention in the code of the block, which holds the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = 4, nn.Linear(8, 96), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        qkv = self.qkv(torch.tanh(x)).view(batch, count, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


def test_a_number_that_only_a_dropped_block_needs_stays_while_the_rest_is_pruned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), Inline(), Inline(), nn.Linear(8, 2)).eval()
    x = torch.randn(2, 5, 3)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["1", "2"]
    assert graph.sizes() == {"0": 8, "1.qkv": 4, "2.qkv": 4}
    units = {"0": [1, 2, 4, 6, 7], "2.qkv": [0, 3]}
    small = build(model, graph, Architecture({"0": 5, "2.qkv": 2}, ["1"]), kept_indices=units).model
    assert (small[1].heads, small[2].heads) == (4, 2)
    by_hand = nn.Sequential(model[0], model[2], model[3])
    wanted = masked(by_hand, trace(by_hand, x), {"0": units["0"], "1.qkv": units["2.qkv"]})
    torch.testing.assert_close(small(x), wanted(x))


class Denoiser(nn.Module):
    """Takes off what it estimates, as RED and DnCNN do; `negated` with the other sign."""

    def __init__(self, *, negated: bool = False, in_place: bool = False) -> None:
        super().__init__()
        self.inner, self.negated, self.in_place = nn.Linear(8, 8), negated, in_place

    def forward(self, x: Tensor) -> Tensor:
        noise = self.inner(torch.tanh(x))
        if self.in_place:
            return x.sub_(noise)
        return noise - x if self.negated else x - noise


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_taken_off_is_a_block(in_place: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Denoiser(in_place=in_place), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 4)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["1"]
    assert CostModel(graph).cost(Architecture(dropped=["1"])).macs == 3 * (4 * 8 + 8 * 2)
    drop(model, graph, ["1"])
    assert torch.equal(model(x), model[2](model[0](x)))


def test_what_something_is_taken_off_from_is_no_block() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(negated=True)
    model = nn.Sequential(nn.Linear(4, 8), denoiser, nn.Linear(8, 2)).eval()
    assert trace(model, torch.randn(3, 4)).blocks == ()


class Mixing(nn.Module):
    """A branch that is mixed in by one call, by a number or by a parameter."""

    def __init__(self, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.scale, self.mix = nn.Linear(8, 8), nn.Parameter(torch.rand(8)), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, self.inner(torch.tanh(x)), self.scale)


MIXES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "lerp": lambda x, f, s: torch.lerp(x, f, 0.3),
    "lerp back": lambda x, f, s: torch.lerp(f, x, 0.3),
    "lerp by a parameter": torch.lerp,
    "addcmul": torch.addcmul,
    "addcmul in place": lambda x, f, s: x.addcmul_(s, f, value=0.5),
}


@pytest.mark.parametrize("how", MIXES)
def test_what_is_mixed_in_by_one_call_is_a_block(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Mixing(MIXES[how]), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 4)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["1"]
    costs = CostModel(graph)
    without = costs.cost(Architecture(dropped=["1"]))
    drop(model, graph, ["1"])
    assert torch.equal(model(x), model[2](model[0](x)))
    scales = 8 if "addcmul" not in how and "parameter" not in how else 0  # unread, it stays
    assert without.params == sum(p.numel() for p in model.parameters()) == 58 + scales


def test_what_a_product_is_added_to_is_no_block() -> None:
    class Added(Mixing):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addcmul(self.inner(torch.tanh(x)), x, self.scale)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Added(torch.addcmul), nn.Linear(8, 2)).eval()
    assert trace(model, torch.randn(3, 4)).blocks == ()


def test_building_drops_blocks_and_narrows_the_rest() -> None:
    torch.manual_seed(0)
    make, example = ZOO["resnet18"]
    model, x = settled(make()).eval(), example(2)
    graph = trace(model, x)
    lost = set(graph.lost(["layer1.1"]))
    widths = {name: size // 2 for name, size in graph.sizes().items() if name not in lost}
    architecture = Architecture(widths, ["layer1.1"])
    scores = importance.scores(model, graph, "l2")
    built = build(model, graph, architecture, scores=scores)
    assert built.graph.sizes() == widths
    assert count_cost(built.model, x).params == CostModel(graph).cost(architecture).params
    again = build(model, graph, architecture, kept_indices=built.kept_indices)
    for mine, theirs in zip(built.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_gradual_candidate_drops_its_blocks_at_the_first_stage() -> None:
    model, x = chain()
    graph = trace(model, x)
    made = Candidate.planned(
        Architecture({"0": 4}, ["1"]), {"0": 8}, schedule=Schedule("linear", 0.0, 0.5, 2)
    )
    current = graph
    for stage in made.removals:
        units = {"0": range(stage.architecture.widths["0"])}
        current = shrink(model, current, stage.architecture, kept_indices=units).graph
        assert current.dropped == {"1"}
    assert current.sizes()["0"] == 4
    assert model(x).shape == (3, 2)


@pytest.mark.parametrize("block", ["linear1", "self_attn"])
def test_an_encoder_layer_of_torch_runs_without_a_part_where_its_fused_kernel_would(
    block: str,
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 2)).eval()
    x = torch.randn(3, 5, 4)
    drop(model, trace(model, x), [f"1.{block}"])
    with torch.inference_mode():
        fused = model(x)
    assert torch.allclose(fused, model.train()(x), atol=1e-6)


def test_later_stages_may_name_groups_inside_a_block_that_is_gone() -> None:
    torch.manual_seed(0)

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.body(x))

    model = nn.Sequential(nn.Linear(4, 8), Bottleneck(), Bottleneck(), nn.Linear(8, 2)).eval()
    graph = trace(model, torch.randn(3, 4))
    last = Architecture({"0": 2, "2.body.0": 4}, ["1"])
    stages = Candidate.planned(last, graph.sizes(), schedule=Schedule("linear", 0.0, 0.5, 3)).stages
    assert [stage.architecture.widths["1.body.0"] for stage in stages[:2]] == [16, 16]
    for stage in stages:
        scores = importance.scores(model, graph, "l2")
        built = shrink(model, graph, stage.architecture, scores=scores)
        graph = built.graph
    assert graph.sizes() == {"0": 2, "2.body.0": 4}


class UNet(nn.Module):
    """Down, across and up, with residual branches on every level and joined levels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.left, self.middle = Convolved(8), nn.Sequential(Convolved(16), Convolved(16))
        self.up, self.join = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 1)
        self.right, self.leave = Convolved(8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.left(torch.relu(self.enter(x)))
        coarse = self.middle(torch.relu(self.down(fine)))
        joined = torch.relu(self.join(torch.cat([fine, self.up(coarse)], 1)))
        return self.leave(self.right(joined))


class Convolved(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


@pytest.mark.parametrize(
    "dropped",
    [["left"], ["middle.1", "right"], ["left", "middle.0", "middle.1", "right"]],
)
def test_residual_branches_of_a_u_net_can_go_on_every_level(dropped: list[str]) -> None:
    torch.manual_seed(0)
    model, x = settled(UNet()).eval(), torch.randn(2, 3, 16, 16)
    graph = prunable(model, x)
    assert [block.name for block in graph.blocks] == ["left", "middle.0", "middle.1", "right"]
    by_hand = copy.deepcopy(model)
    for name in dropped:
        parent, _, leaf = name.rpartition(".")
        setattr(by_hand.get_submodule(parent), leaf, nn.Identity())
    small = build(model, graph, Architecture(dropped=dropped)).model
    torch.testing.assert_close(small(x), by_hand(x))
    assert sum(p.numel() for p in small.parameters()) == sum(
        p.numel() for p in by_hand.parameters()
    )


class Mixer(nn.Module):
    """Branches over positions, whose sums are transposed in memory, before those over channels."""

    def __init__(self, blocks: int, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), last
        self.convs = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=1) for _ in range(blocks))
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for conv, linear in zip(self.convs, self.linears, strict=True):
            x = conv(x.transpose(1, 2)).transpose(1, 2) + x
            x = x + torch.relu(linear(x))
        x = self.last(x)
        return x[0] if isinstance(x, tuple) else x


@pytest.mark.parametrize("last", [nn.Linear(8, 3), nn.GRU(8, 8, batch_first=True)])
def test_sums_that_are_transposed_in_memory_can_go(last: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = Mixer(3, last).eval(), torch.randn(2, 6, 4)
    names = {block.name for block in prunable(model, x).blocks}
    assert {f"{kind}.{n}" for kind in ("convs", "linears") for n in range(3)} <= names
