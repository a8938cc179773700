import signal
import threading

import pytest

from autoprune._search.trials.interrupts import (
    GRACE_S,
    SIGNALS,
    Interrupts,
    Terminated,
    handlers_kept,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_running_trials_get_the_grace_time_and_no_more() -> None:
    clock = Clock()
    interrupts = Interrupts(clock)
    interrupts.check(idle=True)  # nobody asked
    assert not interrupts.asked
    interrupts.ask(signal.SIGTERM)
    assert interrupts.asked
    clock.now += GRACE_S
    interrupts.check(idle=False)
    clock.now += 0.1
    with pytest.raises(Terminated) as caught:
        interrupts.check(idle=False)
    assert (str(caught.value), caught.value.signum) == ("SIGTERM", signal.SIGTERM)


def test_it_ends_at_once_where_nothing_runs() -> None:
    interrupts = Interrupts(Clock())
    interrupts.ask(signal.SIGTERM)
    with pytest.raises(Terminated):
        interrupts.check(idle=True)


def test_a_second_signal_ends_it_at_once() -> None:
    interrupts = Interrupts(Clock())
    interrupts.ask(signal.SIGTERM)
    with pytest.raises(Terminated, match=r"^SIGINT$"):
        interrupts.ask(signal.SIGINT)


def test_it_ends_as_by_ctrl_c() -> None:
    assert issubclass(Terminated, KeyboardInterrupt)


@pytest.mark.parametrize("which", SIGNALS)
def test_a_signal_is_taken_inside_and_handlers_return(which: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    interrupts = Interrupts()
    with interrupts.listening():
        signal.raise_signal(which)
        assert interrupts.asked
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_handlers_return_after_an_exception_too() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def changed() -> None:
        with handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        changed()
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_handlers_alone() -> None:
    seen: list[object] = []

    def listen() -> None:
        with Interrupts().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
