"""What is known of a search, and whether another trial may begin."""

from __future__ import annotations

import toy

from autoprune._search.plan import Limits
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import Report
from autoprune.record import SCRATCH, TrialRecord
from autoprune.space import SearchSpace
from autoprune.store import RunFolder, RunState


def ledger(folder: RunFolder, **limits: float | None) -> Ledger:
    return Ledger(toy.make_plan(limits=Limits(trials=99, **limits)), folder)  # type: ignore[arg-type]


def begin(book: Ledger, origin: str = "tpe") -> int:
    number = len(book.records) + len(book.running)
    candidate = book.plan.space.candidate({"recovery.lr": 0.02 + number / 1000})
    book.start(number, candidate, book.plan.cost(candidate), origin)
    return number


def end(book: Ledger, error: str | None = None, train_s: float = 0.0) -> TrialRecord:
    number = begin(book)
    done = Report(4.0, {"accuracy": 0.5}, (), {"train_s": train_s}, error is None, None, error)
    book.report(number, done)
    return book.finish(number)


def test_what_a_session_has_recorded_the_next_one_knows(folder: RunFolder) -> None:
    book = ledger(folder)
    first = end(book)
    end(book, "E: a")
    again = ledger(folder)
    assert again.records == book.records
    assert dict(again.counts) == {"complete": 1, "failed": 1}
    assert (again.done, again.spent_epochs) == (2, 8.0)
    assert again.duplicate_of(first.candidate) == 0
    assert again.elapsed_s > 0.0


def test_epochs_of_running_trials_count_and_those_of_baselines_on_top_do_not(
    folder: RunFolder,
) -> None:
    book = ledger(folder)
    end(book)
    book.report(begin(book), Report(1.5))
    assert (book.done, book.spent_epochs) == (1, 5.5)
    book.finish(1)
    book.report(begin(book, SCRATCH), Report(4.0, finished=True))
    assert book.over() is False
    book.finish(2)
    assert (book.done, book.spent_epochs) == (2, 5.5)
    assert dict(book.counts) == {"complete": 1, "stopped": 1}


def test_an_updated_record_counts_once(folder: RunFolder) -> None:
    book = ledger(folder)
    book.update(end(book))
    assert dict(book.counts) == {"complete": 1}


def test_running_trials_take_their_share_of_the_limits(folder: RunFolder) -> None:
    book = ledger(folder, total_epochs=8.0)
    begin(book)
    assert book.may_start()
    end(book)
    assert (book.may_start(), book.over(), book.ended_by) == (False, False, "")
    book.report(0, Report(4.0, finished=True))
    book.finish(0)
    assert (book.over(), book.ended_by) == (True, "8 epochs")


def test_failures_in_a_row_for_one_reason_stop_the_search(folder: RunFolder) -> None:
    book = ledger(folder, equal_failures=2)
    end(book, "TrainingError: loss is nan at step 8")
    assert book.stuck is None
    assert book.may_start()
    end(book, "TrainingError: loss is nan at step 9")
    assert book.stuck == "TrainingError: loss is nan at step 9"
    assert not book.may_start()
    assert book.is_closed
    assert Ledger(book.plan, folder).stuck is None  # resumed: they count anew


def test_the_time_out_is_learned_also_from_earlier_sessions(folder: RunFolder) -> None:
    book = ledger(folder)
    assert book.trial_timeout_s == 3600.0
    end(book, train_s=50.0)
    assert book.trial_timeout_s == 500.0
    assert ledger(folder).trial_timeout_s == 500.0
    assert ledger(folder, trial_timeout_s=7.0).trial_timeout_s == 7.0


def test_overtime_counts_from_twice_the_limit_until_a_trial_is_complete(folder: RunFolder) -> None:
    assert ledger(folder).overtime_s < 0.0
    folder.save_state(RunState(elapsed_s=150.0))
    book = ledger(folder, seconds=100.0)
    assert -60.0 < book.overtime_s < 0.0
    assert not book.late
    end(book)
    assert book.overtime_s > 49.0
    assert book.late
    assert book.is_closed


def test_a_candidate_is_known_in_whatever_form_it_was_written(folder: RunFolder) -> None:
    """An earlier version kept the importance of a model from which nothing is pruned."""
    plan = toy.make_plan(space=SearchSpace.parse({"importance": ["l1", "l2"]}))
    book = Ledger(plan, folder)
    old, new = plan.space.draft({"importance": "l2"}), plan.space.candidate({"importance": "l1"})
    assert old.key != new.key
    book.start(0, old, plan.cost(old), "tpe")
    assert book.duplicate_of(new) == 0
    book.report(0, Report(4.0, {"accuracy": 0.5}, finished=True))
    book.finish(0)
    again = Ledger(plan, folder)
    assert again.records[0].candidate == old
    assert (again.duplicate_of(new), again.duplicate_of(old)) == (0, 0)
