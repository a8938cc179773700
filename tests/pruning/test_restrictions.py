"""`keep` and `bounds` on the groups and blocks of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph import PruningGraph, trace
from autoprune.pruning.restrictions import restrictions

DEFAULT = (0.0, 0.8)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.conv1(x).relu())


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3))
    model.add_module("layer1", Block(8))
    model.add_module("layer2", Block(8))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("hidden", nn.Linear(8, 12))
    model.add_module("head", nn.Linear(12, 4))
    return trace(model.eval(), torch.zeros(1, 3, 8, 8))


def test_the_graph_is_what_the_tests_think(graph: PruningGraph) -> None:
    assert set(graph.sizes()) == {"stem", "layer1.conv1", "layer2.conv1", "hidden"}
    assert {block.name for block in graph.blocks} == {"layer1", "layer2"}


def test_a_glob_keeps_groups_and_the_blocks_around_them(graph: PruningGraph) -> None:
    found = restrictions(graph, ["layer1.*"], {}, DEFAULT)
    # layer1.conv2 adds to the stem's channels: they stay, too
    assert found.ranges == {"layer1.conv1": (0.0, 0.0), "stem": (0.0, 0.0)}
    assert found.blocks == {"layer1"}


def test_a_name_stands_for_what_lies_inside(graph: PruningGraph) -> None:
    assert restrictions(graph, ["layer1"], {}, DEFAULT) == restrictions(
        graph, ["layer1", "layer1.*"], {}, DEFAULT
    )


def test_what_is_not_prunable_may_be_kept(graph: PruningGraph) -> None:
    found = restrictions(graph, ["head"], {}, DEFAULT)
    assert (found.ranges, found.blocks) == ({}, frozenset())


def test_bounds_say_one_end_or_both(graph: PruningGraph) -> None:
    bounds = {"layer*.conv1": (None, 0.3), "hidden": (0.2, None), "stem": (0.1, 0.9)}
    found = restrictions(graph, [], bounds, (0.05, 0.8))
    assert found.ranges == {
        "layer1.conv1": (0.05, 0.3),
        "layer2.conv1": (0.05, 0.3),
        "hidden": (0.2, 0.8),
        "stem": (0.1, 0.9),
    }


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"layer2.*": (None, 0.3)}, {"layer2"}),  # without the block, all of layer2.conv1 is gone
        ({"layer2.*": (None, 0.95)}, {"layer2"}),
        ({"layer2.*": (0.2, None)}, set()),  # the largest ratio is the space's
        ({"stem": (None, 0.3), "hidden": (None, 0.3)}, set()),  # no block holds all of them
        ({"*": (None, 0.3)}, {"layer1", "layer2"}),
        ({"*": (None, 0.3), "layer1.*": (0.1, None)}, {"layer2"}),  # the last one counts
    ],
)
def test_a_block_with_a_bounded_group_inside_is_not_dropped(
    graph: PruningGraph, bounds: dict, kept: set[str]
) -> None:
    assert restrictions(graph, [], bounds, DEFAULT).blocks == kept


def test_keep_is_stronger_than_a_bound(graph: PruningGraph) -> None:
    found = restrictions(graph, ["hidden"], {"*": (None, 0.3)}, DEFAULT)
    assert found.ranges["hidden"] == (0.0, 0.0)
    assert found.ranges["stem"] == (0.0, 0.3)
    assert [found.words(name) for name in ("hidden", "stem", "none")] == [
        "kept",
        "at most 30 % pruned",
        "",
    ]


@pytest.mark.parametrize(
    ("keep", "bounds", "message"),
    [
        (["layr1.*"], {}, "keep: 'layr1.*' matches no group, block or layer · near: layer1"),
        (["backbone.*"], {}, "keep: 'backbone.*' matches no .* autoprune profile lists them"),
        ([], {"hiden": (None, 0.3)}, "bounds: 'hiden' matches no group · near: hidden"),
        ([], {"head": (None, 0.3)}, "bounds: 'head' is not prunable anyway: head: "),
    ],
)
def test_a_pattern_without_a_match_is_one_line(
    graph: PruningGraph, keep: list[str], bounds: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("*'", r"\*'")) as caught:
        restrictions(graph, keep, bounds, DEFAULT)
    assert "\n" not in str(caught.value)
