"""What a run knows of its tensors, asked without a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from autoprune.graph.findings import Findings


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def asked(**options: Any) -> Findings:
    return Findings(two(), **options)


def test_a_split_dimension_is_carried_by_its_last_part_of_more_than_one() -> None:
    found = asked()
    label = found.ids.fresh(24)
    assert [found.choose(label, parts) for parts in ((4, 6), (24, 1), (1, 24), (2, 3, 4))] == [
        1,
        0,
        1,
        2,
    ]
    assert [(site.key, site.choice, site.carried) for site in found.sites] == [(0, 0, 6), (3, 0, 4)]


def test_a_choice_that_was_refused_takes_the_part_before() -> None:
    found = asked(choices={0: 1, 1: 9})
    label = found.ids.fresh(24)
    assert found.choose(label, (2, 3, 4)) == 1
    assert found.choose(label, (2, 3, 4)) == 0  # the first part is the last resort
    assert [site.key for site in found.sites] == [0]


def test_known_heads_carry_a_split() -> None:
    model = two()
    found = Findings(model, heads={"0": 2})
    found.state(model[0].weight)
    label = found.owned["0.weight", 0]
    assert found.choose(label, (2, 3)) == 0
    assert found.choose(found.ids.fresh(6), (2, 3)) == 1
    assert found.choose(label, (3, 2)) == 1


def test_heads_rank_above_larger_dimensions_and_blocked_ones_below() -> None:
    found = asked()
    small, large, head, blocked = (found.ids.fresh(n) for n in (2, 8, 3, 64))
    found.heads_seen.append(head)
    found.block(blocked, "fixed")
    assert found.rank(head) > found.rank(large) > found.rank(small) > found.rank(blocked)
    assert (found.rank(small), found.rank(blocked)) == (2, 0)


def test_a_part_that_is_refused_flips_the_split_that_made_it() -> None:
    found = asked()
    label = found.ids.fresh(12)
    found.choose(label, (3, 4))
    found.choose(label, (2, 6))
    found.refuse_parts(None)
    found.refuse_parts(found.ids.fresh(4))
    assert found.flips == set()
    found.refuse_parts(label[:4])  # as long as what the first split carries
    assert found.flips == {0}
    found.refuse_parts(label[:5])  # as long as none: the last
    assert found.flips == {0, 1}


def test_a_size_is_noted_where_the_attribute_has_the_value_before() -> None:
    model = two()
    found = Findings(model)
    ids = found.ids.fresh(6)
    found.note(["0.weight"], "out_features", ids, 6)
    found.note(["0.weight"], "out_features", ids, 7)
    found.note(["2.weight"], "no_such_attribute", ids, 6)
    assert [(note.module, note.name, note.scalar) for note in found.notes] == [
        ("0", "out_features", True)
    ]
    found.note_layer("2", in_features=ids, out_features=None)
    assert [(note.module, note.name) for note in found.notes[1:]] == [("2", "in_features")]


def test_numbers_of_a_module_that_equal_a_size_are_guesses() -> None:
    model = two()
    model.width, model.two, model.groups, model.flag = 16, 2, 2, True
    found = Findings(model)
    wide, narrow = found.ids.fresh(16), found.ids.fresh(2)
    found.note_sizes((wide, narrow, None), (16, 2, 16))
    assert sorted((note.name, note.guessed) for note in found.notes) == [
        ("groups", True),  # small numbers count under such names only
        ("width", True),
    ]
    before = len(found.notes)
    found.note_sizes((wide,), (16,), known={0})
    found.caller = "linear"
    found.note_sizes((wide,), (16,))
    assert len(found.notes) == before


def test_two_dimensions_that_meet_are_united_or_fixed() -> None:
    found = asked()
    left, right = found.ids.fresh(3), found.ids.fresh(3)
    assert found.join(left, right) is left
    assert found.ids.classes(np.concatenate([left, right])) == 3
    found.join(left, None)
    assert set(found.ids.reasons().values()) == {"meets a dimension of fixed size"}
