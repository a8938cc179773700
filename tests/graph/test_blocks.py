import pytest
import torch
from models.zoo import ZOO, settled
from models.zoo_attention import ViT
from torch import Tensor, nn

from autoprune.errors import GraphError
from autoprune.graph import PruningGraph, trace


def graph_of(name: str) -> PruningGraph:
    torch.manual_seed(0)
    make, example = ZOO[name]
    return trace(settled(make()).eval(), example(2))


def test_every_residual_block_of_a_resnet_is_found_by_its_module() -> None:
    graph = graph_of("resnet18")
    names = [f"layer{stage}.{place}" for stage in (1, 2, 3, 4) for place in (0, 1)]
    assert [block.name for block in graph.blocks] == names
    assert {block.kind for block in graph.blocks} == {"residual"}
    first = graph.block("layer1.0")
    assert [path for path, _ in first.modules] == [
        f"layer1.0.{child}" for child in ("bn1", "bn2", "conv1", "conv2")
    ]


def test_a_projection_stays_when_the_block_beside_it_goes() -> None:
    block = graph_of("resnet18").block("layer2.0")
    assert not any("downsample" in name or "shortcut" in name for name in block.tensors)
    assert any(name.startswith("layer2.0.conv1") for name in block.tensors)


def test_padded_shortcuts_are_enough() -> None:
    graph = graph_of("resnet20_padded")
    assert len(graph.blocks) == 9


def test_attention_and_feed_forward_are_blocks_of_their_own() -> None:
    torch.manual_seed(0)
    graph = trace(ViT("plain").eval(), torch.randn(2, 3, 32, 32))
    kinds = {block.name: block.kind for block in graph.blocks}
    assert kinds == {
        "blocks.0.attn": "attention",
        "blocks.0.fc1": "ffn",
        "blocks.1.attn": "attention",
        "blocks.1.fc1": "ffn",
    }


@pytest.mark.parametrize("name", ["vgg11_bn", "unet", "densenet121"])
def test_models_without_residual_additions_have_no_blocks(name: str) -> None:
    assert graph_of(name).blocks == ()


class Two(nn.Module):
    """`inner` is read by a second output too: it cannot go with the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.free = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.inner(x)
        z = x + y
        return z + self.free(z), y


def test_a_branch_that_something_else_reads_stays() -> None:
    graph = trace(Two(), torch.randn(2, 4))
    assert [block.name for block in graph.blocks] == ["free"]


def test_the_graph_without_a_block_is_that_of_the_smaller_model() -> None:
    graph = graph_of("resnet18")
    small = graph.without(["layer1.1", "layer3.1"])
    assert [block.name for block in small.blocks] == [
        name for name in [b.name for b in graph.blocks] if name not in ("layer1.1", "layer3.1")
    ]
    assert "layer1.1.conv1" in graph.sizes()
    assert "layer1.1.conv1" not in small.sizes()
    assert not any(name.startswith("layer1.1.") for name in small.parameters)
    assert all(op.layer != "layer1.1.conv1" for op in small.ops)
    assert small.without(["layer4.1"]).blocks[-1].name == "layer4.0"


def test_an_unknown_block_is_refused_with_the_nearest() -> None:
    with pytest.raises(GraphError, match=r"got 'layer1.7' · the nearest is 'layer1"):
        graph_of("resnet18").without(["layer1.7"])


def test_blocks_of_parameters_in_the_models_own_code_are_named_by_the_largest() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = (nn.Parameter(torch.rand(s)) for s in ((6, 4), (4, 6)))
            self.bias, self.last = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(4, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(nn.functional.linear(x, self.up, self.bias))
            x = x + nn.functional.linear(hidden, self.down)
            return self.head(x + torch.tanh(x @ self.last))

    graph = trace(Bare(), torch.randn(2, 4))
    assert [block.name for block in graph.blocks] == ["up", "last"]
    assert graph.block("up").loose == ("up", "down", "bias")


def test_what_only_a_cache_keeps_holds_no_branch() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            k, v = self.k(x), self.v(x)
            attended = (x @ k.mT).softmax(-1) @ v
            return {"logits": self.head(x + self.o(attended)), "cache": k[:, -2:]}

    (block,) = trace(Cached().eval(), torch.randn(2, 5, 8)).blocks
    assert block.kind == "attention"
    assert [path for path, _ in block.modules] == ["k", "o", "v"]


def test_branches_beside_each_other_that_read_one_norm_are_blocks_of_their_own() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
            self.one = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))
            self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            y = self.norm(x)
            return self.head(x + self.one(y) + torch.sigmoid(self.two(y)))

    graph = trace(Parallel().eval(), torch.randn(2, 4))
    assert [block.name for block in graph.blocks] == ["one", "two"]
    assert "norm.weight" not in {name for block in graph.blocks for name in block.tensors}
