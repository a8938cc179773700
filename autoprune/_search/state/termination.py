"""When a search ends."""

from __future__ import annotations

from autoprune._search.plan import Limits
from autoprune._search.state.equal_failures import EqualFailures
from autoprune._search.state.stagnation import Stagnation
from autoprune.record import TrialRecord


class Termination:
    """Decides when a search ends: at a limit, on request, or since trials fail or bring nothing.

    Failures, progress and the request are those of this session; the rest is told with each
    question.
    """

    def __init__(self, limits: Limits, *, volume: float) -> None:
        """`volume` is the hypervolume of the front so far."""
        self._limits, self._closed = limits, False
        self._failures = EqualFailures(limits.equal_failures)
        self._stagnation = Stagnation(limits.patience, start=volume)

    def note(self, record: TrialRecord, *, started: float, ended: float, volume: float) -> None:
        """Take a trial that ended, and the hypervolume after it; the times are of one clock."""
        self._failures.note(record, started=started, ended=ended)
        if record.is_counted:
            self._stagnation.note(volume)

    def close(self) -> None:
        """Start no further trial: the search was asked to end."""
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether it was asked to end."""
        return self._closed

    @property
    def stuck(self) -> str | None:
        """The reason for which the last trials of this session failed; None where they did not."""
        return self._failures.reason

    def reached(self, *, trials: int, epochs: float, late: bool) -> str:
        """The limit because of which no trial may begin now, in words; empty while one may.

        `trials` are those that ended or run, `epochs` what all of them train with one more; `late`
        is whether there is no time for one more.
        """
        limits = self._limits
        if self._closed:
            return "an interrupt"
        if self.stuck is not None:
            return "equal failures"
        if trials >= limits.trials:
            return _times(limits.trials, "trial")
        if limits.total_epochs is not None and epochs > limits.total_epochs * (1 + 1e-9):
            return _times(limits.total_epochs, "epoch")
        if late:
            return _times(float(f"{(limits.seconds or 0.0) / 60.0:.3g}"), "minute")
        if self._stagnation.reached:
            return f"no progress in {_times(limits.patience, 'trial')}"
        return ""


def _times(count: float, word: str) -> str:
    """A number of something, in words.

    >>> _times(1, "trial"), _times(0.5, "minute")
    ('1 trial', '0.5 minutes')
    """
    return f"{count:.6g} {word}{'s' * (count != 1)}"
