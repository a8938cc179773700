"""What a search found, for Python users and notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.budget import Value
from autoprune.loading import front_of, load, recommended
from autoprune.pareto import ParetoFront
from autoprune.pick import RECOMMENDED, best_within, word_of
from autoprune.pick import pick as pick_record
from autoprune.recommendation import Recommendation
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, SearchPlan, table_rows
from autoprune.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class Result:
    """What a search found: its front, every trial's record, and the run folder.

    `task` is the Task object that the search was given, None where it was named.
    """

    front: ParetoFront
    records: tuple[TrialRecord, ...]
    path: Path
    task: Task | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def read(path: str | Path, task: Task | None = None) -> Result:
        """The result that a run folder holds. Raises StoreError where it has no front yet."""
        folder = RunFolder.open(path)
        records = folder.records()
        return Result(front_of(folder, records), records, folder.path, task)

    def __repr__(self) -> str:
        """The run, how many trials it has, and the front with a line for each member."""
        head = f"Result of {self.path}: {len(self.records)} trials, front of {len(self.front)}"
        return "\n".join([head, *(f"  {member}" for member in self.front.members)])

    @property
    def plan(self) -> SearchPlan | None:
        """What was decided before the first trial: objectives, absolute limits, space, dense cost.

        None for a run that was made before plans were written.
        """
        return RunFolder.open(self.path).plan()

    @property
    def smaller(self) -> tuple[TrialRecord, ...]:
        """The smaller dense models of `search.baselines`: no trials, with numbers below 0."""
        return RunFolder.open(self.path).smaller()

    def pick(self, text: str) -> TrialRecord:
        """The trial that `recommended`, `knee`, `fastest`, `trial=7` ... names (see `pick`).

        Also limits and a goal: `latency_ms<=3`, or `accuracy>=0.9, min latency_ms`.
        """
        found = self.recommendation if word_of(text) == RECOMMENDED else None
        return pick_record(self.front, text, self.records, found.record if found else None)

    @property
    def recommendation(self) -> Recommendation | None:
        """The cheapest model whose quality is within what the configuration allows; with why."""
        return recommended(RunFolder.open(self.path), self.front)

    def best(self, **limits: Value) -> TrialRecord:
        """The front's best trial in the task's metric, its costs within `limits` if any are given.

        Limits are costs: `best(latency_ms=8, weight_bytes="2 MB")`; on a named device
        `best(**{"latency_ms@phone": 8})`. Raises StoreError where no model is within them.
        """
        return best_within(self.front, limits) if limits else self.pick("best")

    def model(self, trial: int | TrialRecord, *, trust: bool = False) -> nn.Module:
        """A trial's small model in eval mode on the CPU, retrained where it was (see `load`)."""
        number = trial.number if isinstance(trial, TrialRecord) else trial
        return load(self.path, pick=f"trial={number}", task=self.task, trust=trust)

    def report(
        self,
        path: str | Path | None = None,
        format: str | None = None,  # noqa: A002 - the word of the command line
    ) -> Path:
        """Write the run's report: `html` (one page), `md`, `csv` or `png`; returns its path.

        Without a format it is that of the path's ending. The default is a file in the run. Raises
        UsageError for another format, and where a picture has no browser that draws it.
        """
        from autoprune.report.formats import write

        return write(RunFolder.open(self.path), format, None if path is None else Path(path))

    def trials_dataframe(self) -> pd.DataFrame:
        """One row a trial; metrics, costs, settings and ratios in columns, as in `trials.csv`."""
        import pandas as pd

        sizes = RunFolder.open(self.path).sizes()
        return pd.DataFrame(list(table_rows(self.records, sizes)))

    def _repr_html_(self) -> str:
        """The front as a picture and a small table, for notebooks."""
        from autoprune.report.notebook import front_html

        found = self.recommendation
        return front_html(self.front, found.record.number if found else None)
