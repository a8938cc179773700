"""More trials or more time for a search that has ended or was interrupted."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from autoprune.config import RunConfig
from autoprune.config.sections import MOST_MINUTES, MOST_TRIALS
from autoprune.errors import UsageError
from autoprune.record import TrialRecord
from autoprune.store import DONE, RunFolder, RunState

Amount = int | float | str


def trials_of(run: RunFolder) -> list[TrialRecord]:
    """The trials of a run that took place and count."""
    return [r for r in run.records() if r.is_counted and r.state != "infeasible"]


def extend(
    run: RunFolder,
    trials: Amount | None,
    minutes: Amount | None,
    total_epochs: float | None = None,
) -> RunConfig:
    """Raise the limits of a run's search, write them into the run, and return its configuration.

    `20` is the new total, `"+20"` that many more than there were. What is not said is no limit any
    more, but for the number of trials: more minutes alone allow twice as many trials as took place
    in that time before; `total_epochs` is a new total, by default enough for all trials. A search
    that was interrupted ends with as many trials as it has where that is the new total. Raises
    UsageError where otherwise nothing is added, or more than a configuration holds.
    """
    config, state = run.config, run.state() or RunState()
    done = trials_of(run)
    search, spent = config.search, state.elapsed_s / 60.0
    until = None if minutes is None else raised(minutes, spent, "minutes", MOST_MINUTES)
    if trials is not None:
        least = len(done) if state.phase == DONE else len(done) - 1
        total = raised(trials, len(done), "trials", MOST_TRIALS, least)
        if total != int(total):
            raise UsageError(f"trials must be a whole number, got {trials!r}")
        wanted = int(total)
    else:
        pace = len(done) / spent if spent > 0.0 else 1.0
        more = math.ceil(2.0 * pace * ((until or spent) - spent))
        wanted = min(max(search.trials, len(done) + max(1, more)), MOST_TRIALS)
    epochs = search.total_epochs if total_epochs is None else total_epochs
    if epochs is not None and total_epochs is None:
        epochs = sum(r.epochs for r in done) + (wanted - len(done)) * search.epochs
    changed = search.model_copy(update={"trials": wanted, "minutes": until, "total_epochs": epochs})
    extended = config.model_copy(update={"search": changed})
    with run.writing():
        run.save_config(extended)
        run.save_state(replace(state, phase="search", ended_by=""))
    return extended


def raised(
    amount: Amount, before: float, what: str, most: int, least: float | None = None
) -> float:
    """The new total of a limit: more than `least`, by default more than `before`."""
    text = str(amount).strip()
    if re.fullmatch(r"\+?[0-9]*\.?[0-9]+", text) is None:
        raise UsageError(f"{what} must be a number such as 50, or +20 for more, got {amount!r}")
    total = before + float(text[1:]) if text.startswith("+") else float(text)
    if total <= (before if least is None else least):
        raise UsageError(
            f"{what} must be more than the {before:.4g} there were, got {amount!r} · write +20 for "
            "20 more"
        )
    if total > most:
        raise UsageError(f"{what} must be at most {most} in all, got {amount!r}")
    return total
