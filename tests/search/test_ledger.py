"""When a search ends early, and how long a trial may take."""

from __future__ import annotations

import toy

from autoprune._search.ledger import Ledger, Report
from autoprune._search.plan import Limits
from autoprune.store import RunFolder


def ledger(folder: RunFolder, **limits: float | None) -> Ledger:
    return Ledger(toy.make_plan(limits=Limits(trials=99, **limits)), folder)  # type: ignore[arg-type]


def end(book: Ledger, error: str | None = None, train_s: float = 0.0) -> None:
    number = len(book.records)
    candidate = book.plan.space.candidate({"ratio.a": number / 100, "recovery.lr": 0.05})
    book.start(number, candidate, book.plan.cost(candidate), "tpe")
    done = Report(4.0, {"accuracy": 0.5}, (), {"train_s": train_s}, error is None, None, error)
    book.report(number, done)
    book.finish(number)


def test_failures_in_a_row_for_one_reason_stop_the_search(folder: RunFolder) -> None:
    book = ledger(folder, equal_failures=3)
    end(book, "KeyError: 'x'")
    for step in (7, 8):
        end(book, f"TrainingError: loss is nan at step {step} of 0x7f{step}\nTraceback")
    assert book.stuck is None
    assert book.may_start()
    end(book, "TrainingError: loss is nan at step 9 of 0x7f9")
    assert book.stuck == "TrainingError: loss is nan at step 9 of 0x7f9"
    assert not book.may_start()
    assert Ledger(book.plan, folder).stuck is None  # resumed: they count anew


def test_a_success_between_failures_starts_the_count_anew(folder: RunFolder) -> None:
    book = ledger(folder, equal_failures=2)
    for error in ("E: a", None, "E: a", None, "E: a"):
        end(book, error)
    assert book.stuck is None


def test_no_number_of_failures_stops_where_it_is_turned_off(folder: RunFolder) -> None:
    book = ledger(folder, equal_failures=0)
    for _ in range(20):
        end(book, "E: a")
    assert book.stuck is None


def test_the_time_out_is_learned_from_the_slowest_trial(folder: RunFolder) -> None:
    book = ledger(folder)
    assert book.trial_timeout_s == 3600.0
    end(book, "E: a", train_s=99.0)
    assert book.trial_timeout_s == 3600.0
    end(book, train_s=1.0)
    assert book.trial_timeout_s == 120.0
    end(book, train_s=50.0)
    end(book, train_s=20.0)
    assert book.trial_timeout_s == 500.0
    assert ledger(folder, trial_timeout_s=7.0).trial_timeout_s == 7.0


def test_overtime_counts_from_twice_the_limit_until_a_trial_is_complete(folder: RunFolder) -> None:
    assert ledger(folder).overtime_s < 0.0
    book = ledger(folder, seconds=100.0)
    book._before_s = 150.0
    assert -60.0 < book.overtime_s < 0.0
    end(book)
    assert book.overtime_s > 49.0
