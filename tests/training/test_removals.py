"""What a run prunes and when, apart from its training."""

import torch
from stripes import Stripes, dense

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.schedule import Schedule
from autoprune.training import Precision
from autoprune.training.optimizers import built_in
from autoprune.training.removals import Removals

SIZES = {"0": 16, "3": 16}


def removals(*, regularizer=0.0, steps=12):
    candidate = Candidate.planned(
        Architecture({"0": 8, "3": 8}),
        SIZES,
        schedule=Schedule("linear", 0.0, 0.5, 3),
        recovery=Recovery(lr=0.05, regularizer=regularizer),
    )
    model, graph = dense()
    return Removals(
        Stripes(),
        model,
        graph,
        candidate,
        steps=steps,
        seed=3,
        precision=Precision(),
        device=torch.device("cpu"),
    )


def widths(found):
    return [found.pruner.model[0].out_channels, found.pruner.model[3].out_channels]


def test_each_milestone_removes_its_share_with_the_optimizers_state():
    found = removals()
    assert list(found.milestones) == [0, 3, 6]
    assert found.ahead(3) == [6]
    optimizer = built_in(found.pruner.model, "sgd", 0.1, 0.0)
    found.pruner.model(torch.zeros(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    seen = []
    for step in found.milestones:
        found.remove(step, optimizer)
        seen.append(widths(found))
    assert seen == [[13, 13], [11, 11], [8, 8]]
    weight = found.pruner.model[3].weight
    assert optimizer.state[weight]["momentum_buffer"].shape == weight.shape == (8, 8, 3, 3)


def test_milestones_of_a_run_without_steps_are_all_before_it():
    assert list(removals(steps=0).milestones) == [0]
    assert list(removals(steps=1).milestones) == [0]


def test_a_penalty_is_there_while_something_is_ahead():
    assert removals().penalty(0) is None
    found = removals(regularizer=1.0)
    assert found.penalty(0) is not None
    assert found.penalty(6) is None


def test_a_restored_model_has_the_sizes_of_the_saved_one():
    found, again = removals(), removals()
    found.remove(0, None)
    kept = {name: list(units) for name, units in found.pruner.kept_indices.items()}
    again.restore(kept, [], {}, {})
    assert widths(again) == widths(found) == [13, 13]
    assert dict(again.pruner.kept_indices) == dict(found.pruner.kept_indices)


def test_a_stage_that_takes_nothing_away_is_no_removal():
    """One unit of 16 at shares 1/3, 2/3 and 1: 16, 15 and 15 are left."""
    candidate = Candidate.planned(
        Architecture({"0": 15}),
        SIZES,
        schedule=Schedule("linear", 0.0, 0.5, 3),
        recovery=Recovery(lr=0.05, regularizer=1.0),
    )
    model, graph = dense()
    found = Removals(
        Stripes(),
        model,
        graph,
        candidate,
        steps=12,
        seed=3,
        precision=Precision(),
        device=torch.device("cpu"),
    )
    assert {at: it.widths["0"] for at, it in found.milestones.items()} == {0: 16, 3: 15}
    assert found.penalty(3) is None
