"""What is known of one trial once it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.cost_fields import cost_fields

State = Literal["complete", "stopped", "infeasible", "failed"]
UNIFORM = "seed:uniform"  # how the origin of a uniform seed begins: a baseline, too
RATE = "-rate-"  # in the origin of the first one at another learning rate
CONVERTED = "converted from trial"  # likewise of another trial's model in another precision
BASELINE = "baseline:"  # of a baseline that is trained on top of the search's own trials
SCRATCH = f"{BASELINE}scratch"  # one that begins from random weights
SMALLER = f"{BASELINE}smaller "  # then a smaller dense model's name in the configuration
REUSED = "from_run:"  # of a trial of an earlier run
_TWIN = " uniform"  # ends that of a trial with the very candidate of a uniform baseline
_KINDS = {
    UNIFORM: "uniform",
    f"{BASELINE}uniform": "uniform",
    f"{BASELINE}random": "random",
    SCRATCH: "scratch",
    SMALLER: "smaller",
}


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One candidate and what became of it.

    `metrics` are validation metrics at the end of training (empty unless `complete` or `stopped`);
    `history` has one dictionary per evaluation: `epoch`, metrics, `params`, `train_loss`, `lr`; the
    last one of a finished model may have `file_bytes`, the size of its file.
    `predicted` is the cost before training, `measured` the cost of the finished model measured
    alone. `times` are seconds by name (`train_s`, `evaluate_s`, `build_s`, `wall_s`). `artifact` is
    the saved model's folder relative to the run folder. `origin` says where the candidate came
    from: `seed:<what>`, `baseline:<what>` or the sampler's name, with `projected` where it was
    moved into the budget, or `converted from trial <number>` where it is that trial's model in
    another precision; after `from_run:<number>` where another run trained it, and before `uniform`
    where a uniform baseline has the same candidate. `optimizer` is the class of the optimizer that
    trained it. A smaller dense model, which is a baseline and no trial,
    has a number below 0 and a candidate that names no groups.
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

    def __repr__(self) -> str:
        """Number, state, origin, metrics and costs in one line; the fields hold the rest."""
        found = [f"trial {self.number}", self.state, self.origin, f"epochs {self.epochs:g}"]
        found += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        for source, cost in (("predicted", self.predicted), ("measured", self.measured)):
            names = dict.fromkeys((*cost_fields(), *cost_fields(cost.names))) if cost else ()
            values = ((name, cost.value(name)) for name in names) if cost else ()
            shown = [f"{name} {value:.4g}" for name, value in values if value is not None]
            found += [f"{source}: {', '.join(shown)}"] if shown else []
        return f"<{'; '.join(part for part in found if part)}>"

    @property
    def baseline(self) -> str:
        """The kind of a finished baseline; empty for others.

        `uniform` or `random` widths, `scratch`: an architecture with random weights, or `smaller`:
        another dense model.
        """
        return baseline_of(self.origin) if self.state == "complete" else ""

    @property
    def title(self) -> str:
        """What tables call it: `trial 7`, or a smaller dense model by its name."""
        is_smaller = self.origin.startswith(SMALLER)
        return self.origin.removeprefix(SMALLER) if is_smaller else f"trial {self.number}"

    @property
    def is_reused(self) -> bool:
        """Whether an earlier run trained it."""
        return self.origin.startswith(REUSED)

    @property
    def is_counted(self) -> bool:
        """Whether it counts towards the limits of the search that holds it."""
        return not self.is_reused and not self.origin.startswith((BASELINE, CONVERTED))

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


def baseline_of(origin: str) -> str:
    """The kind of baseline that a trial of this origin is once it is finished, or empty.

    >>> baseline_of("seed:least-1 uniform")
    'uniform'
    """
    own = origin.partition(" ")[2] if origin.startswith(REUSED) else origin
    kinds = (kind for start, kind in _KINDS.items() if own.startswith(start))
    return next(kinds, "uniform" if own.endswith(_TWIN) else "")


def as_uniform(origin: str) -> str:
    """The origin of a trial that has the candidate of a uniform baseline."""
    return origin if baseline_of(origin) else f"{origin}{_TWIN}"


def proposed_as(origin: str) -> str:
    """The origin as of before it was found to be a uniform baseline's, too."""
    return origin.removesuffix(_TWIN)


_PLAIN = ("number", "state", "seed", "epochs", "error", "artifact", "origin")


def at_best_rate(
    records: Iterable[TrialRecord], rank: Callable[[TrialRecord], float]
) -> tuple[TrialRecord, ...]:
    """The records without uniform baselines that another learning rate made better.

    Of the widths that were trained at several rates the one with the lowest `rank` stays, of equals
    the first.
    """
    every = tuple(records)
    uniform = [record for record in every if record.baseline == "uniform"]
    worse: set[int] = set()
    for widths in {r.candidate.architecture.key for r in uniform if RATE in r.origin}:
        same = [record for record in uniform if record.candidate.architecture.key == widths]
        best = min(same, key=rank)
        worse |= {record.number for record in same if record is not best}
    return tuple(record for record in every if record.number not in worse)
