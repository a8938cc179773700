from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.errors import BudgetError
from autoprune.pareto import (
    Objective,
    ParetoFront,
    crowding,
    dominates,
    hypervolume,
    knee,
    non_dominated,
    non_dominated_rank,
)
from autoprune.record import State, TrialRecord

# Who dominates whom, both objectives minimised. d: the row dominates the column, .: it does not.
#
#              (0,0) (0,1) (0,2) (1,0) (1,1) (1,2) (2,0) (2,1) (2,2)
TABLE = {
    (0, 0): "  .     d     d     d     d     d     d     d     d",
    (0, 1): "  .     .     d     .     d     d     .     d     d",
    (0, 2): "  .     .     .     .     .     d     .     .     d",
    (1, 0): "  .     .     .     .     d     d     d     d     d",
    (1, 1): "  .     .     .     .     .     d     .     d     d",
    (1, 2): "  .     .     .     .     .     .     .     .     d",
    (2, 0): "  .     .     .     .     .     .     .     d     d",
    (2, 1): "  .     .     .     .     .     .     .     .     d",
    (2, 2): "  .     .     .     .     .     .     .     .     .",
}
ROWS = [row.split() for row in TABLE.values()]


def grids(k: int, top: int = 6, most: int = 7) -> st.SearchStrategy[list[tuple[int, ...]]]:
    return st.lists(st.tuples(*[st.integers(0, top)] * k), min_size=1, max_size=most)


@pytest.mark.parametrize(("i", "j"), list(itertools.product(range(9), repeat=2)))
def test_dominance_is_the_table(i: int, j: int) -> None:
    first, second = list(TABLE)[i], list(TABLE)[j]
    assert dominates(first, second) == (ROWS[i][j] == "d")


def test_non_dominated_agrees_with_the_table_on_every_triple() -> None:
    for picked in itertools.product(range(9), repeat=3):
        expected = [all(ROWS[j][i] != "d" for j in picked) for i in picked]
        assert non_dominated([list(TABLE)[i] for i in picked]).tolist() == expected


def test_equal_points_stay_together() -> None:
    assert non_dominated([[1, 1], [1, 1]]).tolist() == [True, True]
    assert non_dominated_rank([[1, 1], [1, 1], [2, 2], [2, 2]]).tolist() == [0, 0, 1, 1]


def test_no_points_give_empty_answers() -> None:
    assert non_dominated([]).shape == (0,)
    assert non_dominated_rank([]).shape == (0,)
    assert crowding([]).shape == (0,)
    assert hypervolume([], (1.0, 1.0)) == 0.0
    with pytest.raises(ValueError, match="at least one point"):
        knee([])


@pytest.mark.parametrize("function", [non_dominated, non_dominated_rank, crowding, knee])
def test_nan_is_refused(function) -> None:
    with pytest.raises(ValueError, match="NaN"):
        function([[1.0, float("nan")]])


def test_hypervolume_refuses_nan_and_a_reference_of_another_length() -> None:
    with pytest.raises(ValueError, match="NaN"):
        hypervolume([[1.0, 2.0]], (3.0, float("nan")))
    with pytest.raises(ValueError, match="each of 2 objectives, got 3"):
        hypervolume([[1.0, 2.0]], (3.0, 3.0, 3.0))


@given(grids(3), st.randoms(use_true_random=False))
def test_masks_ranks_and_crowding_follow_the_points_and_not_their_order(points, random) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = [points[i] for i in order]
    for function in (non_dominated, non_dominated_rank, crowding):
        assert np.array_equal(function(shuffled), function(points)[order])


@given(grids(2))
def test_rank_is_the_longest_chain_of_dominators(points) -> None:
    def depth(point) -> int:
        return max((1 + depth(q) for q in points if dominates(q, point)), default=0)

    assert non_dominated_rank(points).tolist() == [depth(point) for point in points]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_hypervolume_counts_the_cells_of_a_grid(k: int) -> None:
    @settings(max_examples=60, deadline=None)
    @given(grids(k, top=5))
    def check(points) -> None:
        cells = itertools.product(range(5), repeat=k)  # the reference (4, …, 4) cuts the cell at 4
        corner = (4,) * k
        counted = sum(
            any(all(c >= p for c, p in zip(cell, point, strict=True)) for point in points)
            for cell in cells
            if max(cell) < 4
        )
        assert hypervolume(points, corner) == counted
        assert hypervolume(points[::-1], corner) == counted

    check()


def test_hypervolume_of_random_reals_agrees_with_inclusion_and_exclusion() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((6, 4))
    corner = np.ones(4)
    expected = 0.0
    for size in range(1, 7):
        for subset in itertools.combinations(points, size):
            expected += (-1) ** (size + 1) * np.prod(corner - np.max(subset, axis=0))
    assert hypervolume(points, (1.0,) * 4) == pytest.approx(expected, rel=1e-12)


def test_points_on_or_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.0, 4.0], [5.0, 1.0]], (4.0, 4.0)) == 0.0


def test_crowding_of_a_worked_example() -> None:
    # Ranges 10 and 8. Inner points: (6-0)/10 + (8-2)/8 = 1.35 and (10-1)/10 + (7-0)/8 = 1.775.
    points = [[0, 8], [1, 7], [6, 2], [10, 0]]
    assert crowding(points).tolist() == pytest.approx([np.inf, 1.35, 1.775, np.inf])
    assert np.isinf(crowding([[3, 3], [3, 3]])).all()


def test_knee_lies_farthest_from_the_chord() -> None:
    front = np.array([[0.0, 100.0], [1.0, 60.0], [2.0, 20.0], [6.0, 10.0], [10.0, 0.0]])
    start, end = front[0] / [10, 100], front[-1] / [10, 100]
    chord = (end - start) / np.linalg.norm(end - start)
    offsets = front / [10, 100] - start
    distance = np.abs(chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0])
    assert knee(front) == int(distance.argmax()) == 2


def test_knee_ties_go_to_the_better_first_objective() -> None:
    assert knee([[2.0, 0.0], [0.0, 2.0]]) == 1
    assert knee([[5.0, 1.0]]) == 0


# --- the front of a run ---------------------------------------------------------------------------

CPU = Device("a cpu")
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def record(
    number: int, accuracy: float, latency: float | None, *, state: State = "complete", **more
) -> TrialRecord:
    cost = Cost(params=100, macs=1000 - number, latency_ms=latency, device=CPU, source="predicted")
    values = {"metrics": {"accuracy": accuracy}, "predicted": cost, **more}
    return TrialRecord(number, Candidate(Architecture()), state, seed=0, **values)


RECORDS = (
    record(0, 0.90, 4.0),
    record(1, 0.95, 8.0),
    record(2, 0.80, 6.0),  # dominated by 0
    record(3, 0.70, 1.0),
    record(4, 0.99, 0.5, state="stopped"),
    record(5, 0.90, 4.0),  # equal to 0
    record(6, 0.99, None),
)


def numbers(front: ParetoFront) -> list[int]:
    return [member.number for member in front]


def test_front_holds_complete_undominated_records_by_rising_cost() -> None:
    front = ParetoFront(OBJECTIVES, RECORDS, (0.5, 10.0))
    assert numbers(front) == [3, 0, 1]
    assert front.values.tolist() == [[0.70, 1.0], [0.90, 4.0], [0.95, 8.0]]
    assert len(front) == 3


def test_front_does_not_depend_on_the_order_of_records() -> None:
    for shuffled in itertools.permutations(RECORDS[:4] + RECORDS[5:6]):
        assert numbers(ParetoFront(OBJECTIVES, shuffled)) == [3, 0, 1]


def test_hypervolume_knee_and_best_of_a_worked_front() -> None:
    front = ParetoFront(OBJECTIVES, RECORDS, (0.5, 10.0))
    # strips of latency [1, 4), [4, 8), [8, 10) at accuracies above 0.5
    assert front.hypervolume == pytest.approx(3 * 0.20 + 4 * 0.40 + 2 * 0.45)
    assert front.knee is not None
    assert front.knee.number == 0
    assert [front.best().number, front.best("latency_ms").number] == [1, 3]


def test_at_most_limits_costs_inclusively_and_lets_dominated_records_in_again() -> None:
    front = ParetoFront(OBJECTIVES, RECORDS, (0.5, 10.0))
    assert numbers(front.at_most(latency_ms=4.0)) == [3, 0]
    assert numbers(front.at_most(macs=998)) == [3, 5]  # 0 has 1000 macs, its twin 5 has 995
    assert numbers(front.at_most(latency_ms=0.1)) == []
    with pytest.raises(BudgetError, match="did you mean latency_ms"):
        front.at_most(latency=3.0)


def test_predicted_and_measured_latency_never_mix() -> None:
    measured = Cost(params=100, latency_ms=2.0, device=CPU, source="measured")
    records = (record(0, 0.9, 4.0), record(1, 0.8, 3.0, measured=measured))
    assert numbers(ParetoFront(OBJECTIVES, records)) == [1, 0]
    by_measurement = ParetoFront(OBJECTIVES, records, source="measured")
    assert by_measurement.values.tolist() == [[0.8, 2.0]]
    assert by_measurement.at_most(macs=999).members[0].number == 1  # exact counts need no source


def test_front_is_plain_json() -> None:
    front = ParetoFront(OBJECTIVES, RECORDS, (0.5, 10.0))
    data = json.loads(json.dumps(front.to_dict()))
    assert [member["number"] for member in data["members"]] == numbers(front)
    assert data["knee"] == 0


def test_empty_front_has_no_knee_and_no_volume() -> None:
    front = ParetoFront(OBJECTIVES, (), (0.5, 10.0))
    assert (front.knee, front.best(), front.hypervolume, len(front)) == (None, None, 0.0, 0)


def test_what_a_front_needs_is_said() -> None:
    with pytest.raises(ValueError, match="at least one objective"):
        ParetoFront((), RECORDS)
    with pytest.raises(ValueError, match=r"2 values \(accuracy, latency_ms\), got 1"):
        ParetoFront(OBJECTIVES, RECORDS, (1.0,))
    with pytest.raises(ValueError, match="this front has none"):
        _ = ParetoFront(OBJECTIVES, RECORDS).hypervolume
    with pytest.raises(ValueError, match="maximize or minimize"):
        Objective("accuracy", "up")
    with pytest.raises(ValueError, match="NaN"):
        ParetoFront(OBJECTIVES, (record(0, float("nan"), 1.0),))


def on_two(number: int, accuracy: float, phone: float, server: float) -> TrialRecord:
    """Predicted on both devices, measured (at half of that) on the server only."""
    timings = [Timing("phone", phone, None, Device("arm")), Timing("server", server, None, PC)]
    measured = Timing("server", server / 2, None, PC)
    return TrialRecord(
        number,
        Candidate(Architecture({"g": number + 1})),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=Cost(source="predicted", timings=tuple(timings)),
        measured=Cost(source="measured", timings=(measured,)),
    )


PC = Device("pc")
ON_TWO = (
    Objective("accuracy", "maximize"),
    Objective("latency_ms@phone"),
    Objective("latency_ms@server"),
)


def test_devices_that_cannot_be_measured_are_in_the_front_by_their_prediction() -> None:
    records = (on_two(1, 0.9, 8.0, 4.0), on_two(2, 0.8, 4.0, 2.0), on_two(3, 0.7, 5.0, 6.0))
    front = ParetoFront(ON_TWO, records, source="measured", predicted_only=("phone",))
    assert numbers(front) == [2, 1]
    assert front.values.tolist() == [[0.8, 4.0, 1.0], [0.9, 8.0, 2.0]]
    assert (front.source_of("latency_ms@phone"), front.source_of("macs")) == (
        "predicted",
        "measured",
    )
    assert front.devices == ("phone", "server")
    assert front.to_dict()["predicted_only"] == ["phone"]
    assert numbers(front.at_most(**{"latency_ms@phone": 4.0})) == [2]
    assert numbers(front.at_most(**{"latency_ms@server": 2.0, "latency_ms@phone": 9})) == [2, 1]
    with pytest.raises(BudgetError, match="must say on which device, one of phone, server"):
        front.at_most(latency_ms=3)
    assert "predicted_only" not in ParetoFront(ON_TWO, records).to_dict()


def test_a_measured_front_without_the_unmeasured_device_would_be_empty() -> None:
    assert numbers(ParetoFront(ON_TWO, (on_two(1, 0.9, 8.0, 4.0),), source="measured")) == []
