import itertools
import random

from autoprune._search.scheduler import Rungs


def test_half_goes_on_by_rank_and_the_rest_waits() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    points = [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)]  # each dominates the next
    for number, point in enumerate(points):
        rungs.report(0, number, point)
    assert [rungs.may_go_on(0, n) for n in range(4)] == [True, True, False, False]


def test_more_trials_bring_a_waiting_one_among_the_best() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    rungs.report(0, 0, (0.1, 0.1))
    rungs.report(0, 1, (0.2, 0.2))
    assert not rungs.may_go_on(0, 1)
    rungs.report(0, 2, (0.3, 0.3))
    assert rungs.may_go_on(0, 1)


def test_the_first_at_a_rung_goes_on() -> None:
    rungs = Rungs(0.0, 1.0)
    rungs.report(1, 5, (0.9, 0.9))
    assert rungs.may_go_on(1, 5)


def test_rungs_are_apart() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    rungs.report(0, 0, (0.1, 0.1))
    rungs.report(0, 1, (0.2, 0.2))
    rungs.report(1, 1, (0.2, 0.2))
    assert (rungs.may_go_on(0, 1), rungs.may_go_on(1, 1)) == (False, True)


def test_the_only_trial_of_a_cost_range_always_goes_on() -> None:
    rungs = Rungs(0.0, 1.0, ranges=4)
    rungs.report(0, 0, (0.9, 0.95))  # dear, and worse than all the cheap ones
    for number in range(1, 8):
        rungs.report(0, number, (0.1 + number / 100, 0.1 + number / 1000))
    assert rungs.may_go_on(0, 0)
    assert not rungs.may_go_on(0, 7)


def test_within_a_rank_the_lonely_go_on() -> None:
    rungs = Rungs(0.0, 10.0, ranges=1)
    # one front; 2 sits close between its neighbors, 3 is far from them
    for number, point in enumerate([(0, 10), (10, 0), (1, 8.9), (5, 4), (0.9, 9), (1.1, 8.8)]):
        rungs.report(0, number, point)
    assert rungs.may_go_on(0, 3)
    assert not rungs.may_go_on(0, 2)


def test_decisions_do_not_depend_on_the_order_of_arrival() -> None:
    points = {n: (random.Random(n).random(), random.Random(-n - 1).random()) for n in range(9)}
    answers = set()
    for order in itertools.islice(itertools.permutations(points), 0, 4000, 501):
        rungs = Rungs(0.0, 1.0)
        for number in order:
            rungs.report(0, number, points[number])
        answers.add(tuple(rungs.may_go_on(0, n) for n in sorted(points)))
    assert len(answers) == 1
