"""What a running search shows of itself."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune._search.plan import Limits
from autoprune._search.state.deadline import Deadline
from autoprune._search.state.pace import Pace
from autoprune._search.state.progress import Progress, Snapshot
from autoprune.pareto import CostSource, ParetoFront
from autoprune.record import State


class Display:
    """Passes on the state of a search to its progress display, with the front as it last was."""

    def __init__(self, progress: Progress, limits: Limits, deadline: Deadline, pace: Pace) -> None:
        """`deadline` and `pace` tell how long the search has gone on, and goes on."""
        self._progress, self._limits, self._deadline, self._pace = progress, limits, deadline, pace
        self._front: tuple[Mapping[str, float], ...] = ()
        self._source: CostSource = "predicted"
        self._hypervolume: float | None = None

    def take(self, front: ParetoFront) -> float:
        """Show this front from now on; returns its hypervolume."""
        names = [objective.name for objective in front.objectives]
        self._front = tuple(
            {"number": record.number, **dict(zip(names, row, strict=True))}
            for record, row in zip(front.members, front.values.tolist(), strict=True)
        )
        self._source = front.source
        volume = front.hypervolume
        self._hypervolume = volume if self._front else None
        return volume

    def show(
        self,
        phase: str,
        note: str,
        counts: Mapping[State, int],
        *,
        running: int,
        epochs: float,
    ) -> None:
        """Update the display; `counts` are trials that count towards the limits, by state."""
        done = sum(count for state, count in counts.items() if state != "infeasible")
        until = self._deadline.left_s
        self._progress.update(
            Snapshot(
                phase=phase,
                note=note,
                trials=self._limits.trials,
                running=running,
                complete=counts.get("complete", 0),
                stopped=counts.get("stopped", 0),
                infeasible=counts.get("infeasible", 0),
                failed=counts.get("failed", 0),
                epochs=epochs,
                front=self._front,
                source=self._source,
                hypervolume=self._hypervolume,
                elapsed_s=self._deadline.elapsed_s,
                left_s=self._pace.left_s(self._limits, done=done, epochs=epochs, deadline_s=until),
            )
        )
