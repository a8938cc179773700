"""What is known of one trial once it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autoprune.budget import Cost
from autoprune.candidate import Candidate

State = Literal["complete", "stopped", "infeasible", "failed"]
UNIFORM = "seed:uniform"  # how the origin of a uniform baseline begins
CONVERTED = "converted from trial"  # likewise of another trial's model in another precision


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One candidate and what became of it.

    `metrics` are validation metrics at the end of training (empty unless `complete` or `stopped`);
    `history` has one dictionary per evaluation: `epoch`, `loss`, metrics, `params`, `lr`; the last
    one of a finished model may have `file_bytes`, the size of its packed file.
    `predicted` is the cost before training, `measured` the cost of the finished model measured
    alone. `times` are seconds by name (`train_s`, `evaluate_s`, `build_s`, `wall_s`). `artifact` is
    the saved model's folder relative to the run folder. `origin` says where the candidate came
    from: `seed:<what>` or the sampler's name, with `projected` where it was moved into the budget,
    or `converted from trial <number>` where it is that trial's model in another precision.
    `optimizer` is the class of the optimizer that trained it.
    """

    number: int
    candidate: Candidate
    state: State
    seed: int
    epochs: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    predicted: Cost | None = None
    measured: Cost | None = None
    error: str | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    artifact: str | None = None
    origin: str = ""
    optimizer: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether this is a finished uniform baseline: one ratio everywhere, the same recovery."""
        return self.origin.startswith(UNIFORM) and self.state == "complete"

    @property
    def is_converted(self) -> bool:
        """Whether it is another trial's model in another precision, without training of its own."""
        return self.origin.startswith(CONVERTED)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "optimizer": self.optimizer,
            "candidate": self.candidate.to_dict(),
            "metrics": dict(self.metrics),
            "history": [dict(entry) for entry in self.history],
            "times": dict(self.times),
            "predicted": self.predicted.to_dict() if self.predicted else None,
            "measured": self.measured.to_dict() if self.measured else None,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> TrialRecord:
        """Inverse of `to_dict`."""
        return TrialRecord(
            **{name: data[name] for name in _PLAIN},
            candidate=Candidate.from_dict(data["candidate"]),
            optimizer=data.get("optimizer", ""),
            metrics=data["metrics"],
            history=tuple(data["history"]),
            times=data["times"],
            predicted=Cost.from_dict(data["predicted"]) if data["predicted"] else None,
            measured=Cost.from_dict(data["measured"]) if data["measured"] else None,
        )


_PLAIN = ("number", "state", "seed", "epochs", "error", "artifact", "origin")
