"""What the files of a run hold, as frozen values; their fields are the keys of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf

from autoprune.budget import Budget, Cost, Device
from autoprune.candidate import Candidate
from autoprune.pareto import CostSource, Objective, ParetoFront
from autoprune.space import FittedSpace


def _candidate(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    try:
        return Candidate.from_dict(value)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


_ROUNDING = 1e-9
DONE = "done"  # the phase of a search that has ended
CandidateValue = Annotated[InstanceOf[Candidate], BeforeValidator(_candidate)]


@dataclass(frozen=True)
class DenseReport:
    """The model before pruning: validation metrics, exact and predicted cost, measured cost.

    `samples` is how many the validation split has, None where that is not known; `constant` are the
    metrics of a model with the same output for every sample, empty where they are not known.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    predicted: Cost | None = None
    measured: Cost | None = None
    samples: int | None = None
    constant: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupInfo:
    """A group of coupled units that can be pruned."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class FrozenInfo:
    """Units that cannot be pruned, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class BlockInfo:
    """A residual block that can be dropped."""

    name: str
    kind: str


@dataclass(frozen=True)
class Groups:
    """The pruning graph as far as a reader needs it."""

    groups: tuple[GroupInfo, ...] = ()
    frozen: tuple[FrozenInfo, ...] = ()
    blocks: tuple[BlockInfo, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """The number of units of each group."""
        return {group.name: group.size for group in self.groups}


@dataclass(frozen=True)
class LayerInfo:
    """A contraction (convolution, matrix product) of the dense model.

    `kind` is what computes it; `group` has its outputs, `block` is the innermost residual block
    that it is in: both are empty where there is none.
    """

    name: str
    kind: str
    group: str = ""
    block: str = ""


@dataclass(frozen=True)
class LayerCosts:
    """Of each layer of a model: output channels, multiply-accumulates, estimated and measured ms.

    A width is 0 where the layer is gone; `ms` is empty where no latency is predicted, `measured`
    where no layers were timed. Of several layers of one module, the first has the measured time.
    """

    widths: tuple[int, ...]
    macs: tuple[int, ...]
    ms: tuple[float, ...] = ()
    measured: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Network:
    """The layers in the order of execution, and their costs by model.

    Models are `dense`, the `smallest` of the space, and trials by their number. `latency` is the
    name of the cost that `ms` is a part of. `halves` is, by group, the share of the dense model's
    `latency` that pruning half of the group alone saves; of its multiply-accumulates where no
    latency is predicted. Raises ValueError where a model has other layers.
    """

    layers: tuple[LayerInfo, ...] = ()
    models: Mapping[str, LayerCosts] = field(default_factory=dict)
    latency: str = ""
    halves: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.layers)
        for name, costs in self.models.items():
            for what in ("widths", "macs", "ms", "measured"):
                values = getattr(costs, what)
                if len(values) != count and (what in ("widths", "macs") or values):
                    raise ValueError(
                        f"{what} of {name} must have one value for each of {count} layers, "
                        f"got {len(values)}"
                    )


@dataclass(frozen=True)
class SearchPlan:
    """What a search decided before its first trial.

    `limits` are those of the budget in each cost's own unit, shares taken of the predicted `dense`
    cost; `levels` the lower ones of the first limited cost. `reference` is the worst point that
    counts for the hypervolume, in the order of `objectives`. `space` is fitted to the device;
    `smallest` is what its smallest model is predicted to cost. A prediction is above a limit where
    it is above the limit less the `margins` of its cost.
    """

    objectives: tuple[Objective, ...]
    reference: tuple[float, ...]
    limits: Mapping[str, float]
    levels: tuple[float, ...]
    space: FittedSpace
    dense: Cost
    smallest: Cost | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(
        objectives: tuple[Objective, ...],
        reference: tuple[float, ...],
        budgets: tuple[Budget, ...],
        space: FittedSpace,
        dense: Cost,
        smallest: Cost | None = None,
    ) -> SearchPlan:
        """With limits in absolute units; `budgets` are the budget and then its levels."""
        budget, *levels = budgets
        return SearchPlan(
            objectives,
            reference,
            {limit.field: limit.resolve(dense) for limit in budget.limits},
            tuple(level.limits[0].resolve(dense) for level in levels),
            space,
            dense,
            smallest,
        )

    def allows(self, predicted: Cost) -> bool:
        """Whether a prediction is within all limits, as far as it has their costs."""
        loads = (
            value * (1.0 + self.margins.get(name, 0.0)) / most
            for name, most in self.limits.items()
            if (value := predicted.value(name)) is not None
        )
        return all(load <= 1.0 + _ROUNDING for load in loads)


@dataclass(frozen=True)
class RunState:
    """How far a search is: `phase` is `search`, `verify` or `done`.

    `screening` is what screening has cost so far; `ended_by` the limit that ended the search, in
    words; `lines` how many lines the records had when it ended.
    """

    phase: str = ""
    elapsed_s: float = 0.0
    screening: Mapping[str, float] = field(default_factory=dict)
    ended_by: str = ""
    lines: int = 0


@dataclass(frozen=True)
class StartingState:
    """How a search from several starting models has divided its trials.

    `rounds` gives each starting model's trials in each round, `targets` how many its run is to have
    in all after the last one. `left_out` says which ones have no model within the budget, and why.
    `dense` are the costs of the dense models measured in turns, `not_together` is why they could
    not be.
    """

    rounds: tuple[Mapping[str, int], ...] = ()
    targets: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    dense: Mapping[str, Cost] = field(default_factory=dict)
    not_together: str = ""

    def trials(self, name: str) -> int:
        """All trials of a starting model so far."""
        return sum(found.get(name, 0) for found in self.rounds)


@dataclass(frozen=True)
class FrontReport:
    """The front at the end of a search.

    `over_budget` says by how much finished models are over each limit as measured;
    `not_measured` why the front could not be measured.
    """

    front: ParetoFront
    over_budget: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    not_measured: str | None = None


@dataclass(frozen=True)
class FrontMember:
    """A trial of the front and its objectives."""

    number: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class FrontFile:
    """`front.json`: the front by the numbers of its trials, which the records hold."""

    objectives: tuple[Objective, ...]
    members: tuple[FrontMember, ...]
    reference: tuple[float, ...] | None = None
    source: CostSource = "predicted"
    predicted_only: tuple[str, ...] = ()
    over_budget_when_measured: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    not_measured: str | None = None


@dataclass(frozen=True)
class ProfileSummary:
    """What a report says of a device profile: where it holds, and how well it predicts.

    `held_out` are (measured, predicted) latencies of prunings that the fit had not seen, as
    fractions of `dense_ms`, the dense model's milliseconds in the same measurements; `facts` the
    plain entries of the file.
    """

    device: Device
    error: float | None = None
    held_out: tuple[tuple[float, float], ...] = ()
    dense_ms: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrainingPlan:
    """What a retraining does: `candidate` is the candidate's key, before a rate is found.

    `quantization_aware` says whether the end of the training simulates int8; older plans do not
    say it (None).
    """

    candidate: str
    epochs: float
    seeds: tuple[int, ...]
    find_lr: bool = False
    quantization_aware: bool | None = None


@dataclass(frozen=True)
class RateTrial:
    """A short training by which the rate of the long one is chosen.

    `factor` multiplies the rate that the length suggests, `lr` is the rate of this training, and
    `score` the task's metric on validation, more being better; None where it diverged.
    """

    factor: float
    lr: float
    epochs: float
    score: float | None


@dataclass(frozen=True)
class FoundRate:
    """The peak learning rate of a long training, and the short ones by which it was chosen."""

    lr: float
    tried: tuple[RateTrial, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a metric over seeds; the latter is None for one."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class DenseTest:
    """The dense model beside a retrained one: its test metrics and its measured cost."""

    test: Mapping[str, float] = field(default_factory=dict)
    measured: Cost | None = None


@dataclass(frozen=True)
class SeedReport:
    """One seed of a retraining."""

    seed: int
    test: Mapping[str, float]
    params: float
    history: tuple[Mapping[str, float], ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrainingSummary:
    """A trial retrained with its whole schedule: metrics over the seeds, costs beside dense.

    `validation` are the metrics at the end of training; `measured` is the cost of the first seed's
    model; `found_rate` is None where no rate was looked for.
    """

    number: int
    candidate: CandidateValue
    epochs: float
    seeds: tuple[int, ...]
    test: Mapping[str, Spread]
    validation: Mapping[str, Spread] = field(default_factory=dict)
    dense: DenseTest = field(default_factory=DenseTest)
    measured: Cost | None = None
    runs: tuple[SeedReport, ...] = ()
    found_rate: FoundRate | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which it was measured, by name."""
        return (self.measured.names if self.measured else ()) or ("",)
