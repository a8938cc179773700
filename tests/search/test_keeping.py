"""Which models stay on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy

from autoprune._search.plan import Limits
from autoprune._search.state.keeping import dominated, over_quota
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import Report
from autoprune.record import TrialRecord
from autoprune.store import RunFolder

PLAN = toy.make_plan()


def record(number: int, accuracy: float, ratio: float, **changes: object) -> TrialRecord:
    candidate = toy.FITTED.resized(
        toy.FITTED.candidate({"recovery.lr": 0.05}),
        toy.FITTED.at_ratios(dict.fromkeys("abc", ratio)),
    )
    made = TrialRecord(
        number,
        candidate,
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=PLAN.cost(candidate),
        artifact=f"models/{number}",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_front_with_twice_as_many_of_the_next_best_stays() -> None:
    front = [record(0, 0.9, 0.5)]
    others = [record(n, 0.9 - n / 100, 0.5) for n in range(1, 6)]
    baseline = record(9, 0.1, 0.5, origin="seed:uniform-0")
    without = record(10, 0.1, 0.5, artifact=None)
    gone = dominated([*others, *front, baseline, without], PLAN)
    assert [r.number for r in gone] == [5, 4, 3]  # 1 and 2 are next, each dominated by one more


def test_a_model_over_the_budget_goes_first() -> None:
    assert PLAN.budget.fields == ("macs",)
    over = record(7, 0.99, 0.0)
    gone = dominated([over, *(record(n, 0.9 - n / 100, 0.5) for n in range(4))], PLAN)
    assert [r.number for r in gone] == [7, 3]


def test_a_quota_takes_the_worst_until_it_is_met_and_never_the_front() -> None:
    records = [record(n, 0.9 - n / 100, 0.5) for n in range(4)]
    sizes = dict.fromkeys(range(4), 10)
    assert [r.number for r in over_quota(records, PLAN, sizes, 25.0)[0]] == [3, 2]
    gone, too_much = over_quota(records, PLAN, sizes, 5.0)
    assert ([r.number for r in gone], too_much) == ([3, 2, 1], True)


@pytest.mark.parametrize(("limits", "kept"), [({}, 30), ({"keep_all": False}, 9)])
def test_a_long_search_leaves_few_models(
    folder: RunFolder, limits: dict[str, bool], kept: int
) -> None:
    book = Ledger(toy.make_plan(limits=Limits(trials=99, **limits)), folder)  # type: ignore[arg-type]
    for number in range(30):
        made = record(number, 0.5 + number / 100, 0.5 + 0.02 * (number % 10))
        artifact = folder.path / "models" / str(number)
        artifact.mkdir(parents=True)
        book.start(number, made.candidate, made.predicted, "tpe")  # type: ignore[arg-type]
        done = Report(4.0, made.metrics, finished=True, artifact=f"models/{number}")
        book.report(number, done)
        book.finish(number)
    there = {int(path.name) for path in (folder.path / "models").iterdir()}
    front = {member.number for member in book.front().members}
    assert front <= there
    assert len(there) <= max(kept, 3 * len(front))
    assert there == {r.number for r in folder.records() if r.artifact}


def test_a_quota_that_the_front_uses_up_ends_the_search(folder: RunFolder) -> None:
    book = Ledger(toy.make_plan(limits=Limits(trials=99, disk_bytes=50.0)), folder)
    made = record(0, 0.9, 0.5)
    artifact = folder.path / "models" / "0"
    artifact.mkdir(parents=True)
    (artifact / "weights.safetensors").write_bytes(bytes(100))
    book.start(0, made.candidate, made.predicted, "tpe")  # type: ignore[arg-type]
    book.report(0, Report(4.0, made.metrics, finished=True, artifact="models/0"))
    book.finish(0)
    assert artifact.is_dir()
    assert book.over()
