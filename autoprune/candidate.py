"""One point of the search: what is built, of which units, on which schedule, trained how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autoprune.architecture import Architecture, digest
from autoprune.patterns import partway
from autoprune.schedule import Schedule

IMPORTANCES: tuple[str, ...] = (
    *("l1", "l2", "group", "bn_scale", "fpgm", "wanda", "taylor", "movement", "obs"),
    "task",  # the task's own `importance`
)
OBS = "obs"
BY_ACTIVATIONS: frozenset[str] = frozenset({OBS, "wanda"})  # importances from a calibration
BY_GRADIENTS: frozenset[str] = frozenset({"taylor", "movement"})
OPTIMIZERS: tuple[str, ...] = ("sgd", "adamw", "task")
PENALTIES: tuple[str, ...] = ("group_lasso", "slimming", "task")  # the first is the default
AUTO = "auto"  # the task's own optimizer, or else the usual one for the kind of model
_LATER: Mapping[str, Any] = {  # without these, keys of candidates stay what they were
    **{"penalty": PENALTIES[0], "rewarm": False},
    **{"ema": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "features": 0.0},
}
BY_OPTIMIZER: Mapping[str, Mapping[str, float]] = {  # defaults that depend on the optimizer
    "lr": {"sgd": 0.01, "adamw": 0.0003, "task": 0.001},
    "weight_decay": {"sgd": 5e-4, "adamw": 0.01, "task": 0.01},
}


def warmup_steps(warmup: float, steps: int) -> int:
    """Over how many of the steps of a training the learning rate rises: one at least.

    >>> warmup_steps(0.05, 100), warmup_steps(0.05, 20), warmup_steps(0.0, 100)
    (5, 1, 1)
    """
    return max(1, round(warmup * steps))


def most_decay(updates: int) -> float:
    """The largest decay of a moving average after so many updates.

    >>> most_decay(890), most_decay(9)
    (0.99, 0.5263157894736842)
    """
    return (1.0 + updates) / (10.0 + updates)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the smaller model is trained.

    Attributes:
        lr: the peak learning rate; None for the optimizer's default (`BY_OPTIMIZER`).
        distillation: in [0, 1], the weight of the dense model's outputs against the task's loss.
        regularizer: the strength of the penalty before each removal: 0 turns it off.
        penalty: `group_lasso` grows on the units to be pruned next, and with strength 1 brings them
            to zero by then alone; `slimming` is an l1 penalty on all scales of batch
            normalizations (for the importance `bn_scale`), `task` the task's `regularize`.
        optimizer: `sgd` (Nesterov momentum 0.9), `adamw`, `task` (what the task configures) or
            `auto`: `task` where the task configures one, else `adamw` for a model with attention
            and `sgd` for any other.
        weight_decay: of weights with two or more dimensions; None for the optimizer's default.
        grad_clip: the largest l2 norm of all gradients together; 0 turns clipping off.
        warmup: share of the steps over which the learning rate rises.
        rewarm: whether it rises anew, over as many steps, after each removal during the training.
        ema: the decay, in [0, 1), of an exponential moving average of the weights since the last
            removal, which is then evaluated and kept; 0 turns it off. It is at most `most_decay`,
            (1 + n) / (10 + n) after n steps: 0.99 is reached after 890, 0.999 after 9,000.
        label_smoothing: in [0, 1), the weight of equal probabilities in the targets.
        mixup: alpha of the Beta distribution by which samples are blended; 0 turns it off.
        features: the weight of the distance of attention maps from the dense model's; 0 turns it
            off.
    """

    lr: float | None = None
    distillation: float = 0.5
    regularizer: float = 0.0
    optimizer: str = AUTO
    weight_decay: float | None = None
    grad_clip: float = 0.0
    warmup: float = 0.05
    penalty: str = PENALTIES[0]
    rewarm: bool = False
    ema: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    features: float = 0.0

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            known = ", ".join(PENALTIES)
            raise ValueError(f"recovery.penalty must be one of {known}, got {self.penalty!r}")
        if self.lr is not None and not 0.0 < self.lr < math.inf:
            raise ValueError(f"recovery.lr must be above 0 and finite, got {self.lr}")
        if not 0.0 <= self.distillation <= 1.0:
            raise ValueError(f"recovery.distillation must lie in [0, 1], got {self.distillation}")
        for name in ("warmup", "ema", "label_smoothing"):
            if not 0.0 <= (share := getattr(self, name)) < 1.0:
                raise ValueError(f"recovery.{name} must lie in [0, 1), got {share}")
        if self.optimizer not in (AUTO, *OPTIMIZERS):
            known = ", ".join((AUTO, *OPTIMIZERS))
            raise ValueError(f"recovery.optimizer must be one of {known}, got {self.optimizer!r}")
        for name in ("regularizer", "weight_decay", "grad_clip", "mixup", "features"):
            value = getattr(self, name)
            if value is None and name == "weight_decay":
                continue
            if value is None or not 0.0 <= value < math.inf:
                raise ValueError(f"recovery.{name} must be at least 0 and finite, got {value}")

    def resolved(self, auto: str) -> Recovery:
        """The same where `auto` names the optimizer, with its defaults for what is None.

        >>> recovery = Recovery(distillation=0.0).resolved("adamw")
        >>> recovery.optimizer, recovery.lr, recovery.weight_decay
        ('adamw', 0.0003, 0.01)
        """
        optimizer = auto if self.optimizer == AUTO else self.optimizer
        missing: dict[str, Any] = {
            name: defaults[optimizer]
            for name, defaults in BY_OPTIMIZER.items()
            if getattr(self, name) is None
        }
        return replace(self, optimizer=optimizer, **missing)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `Recovery(**d)` reads it back. What is off may be left out."""
        found = asdict(self)
        return {k: v for k, v in found.items() if k not in _LATER or v != _LATER[k]}

    @property
    def options(self) -> dict[str, Any]:
        """What is in use of `rewarm`, `ema`, `label_smoothing`, `mixup` and `features`."""
        return {k: v for k, v in self.to_dict().items() if k in _LATER and k != "penalty"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which units of a group are pruned first, and whether the remaining weights are repaired.

    `importance` names a score of `pruning.importance`, and of `pruning.weight_importance` for
    patterns where it is there (else the magnitude); `task` is the task's `importance`. `repair`
    turns on the least-squares correction of what reads the pruned units, or has a pattern.
    """

    importance: str = "l2"
    repair: bool = True

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCES:
            known = ", ".join(IMPORTANCES)
            raise ValueError(f"importance must be one of {known}, got {self.importance!r}")

    @property
    def needs_calibration(self) -> bool:
        """Whether the statistics of the layers' inputs are used."""
        return self.repair or self.importance in BY_ACTIVATIONS

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `Selection(**d)` reads it back."""
        return {"importance": self.importance, "repair": self.repair}


@dataclass(frozen=True, slots=True)
class Stage:
    """One removal of a gradual schedule: the structure from `progress` of the training on."""

    progress: float
    architecture: Architecture


Nearest = Callable[[str, float], int]  # (group, wanted width) -> a width that it can have


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is built (`architecture`), and how training gets there.

    A schedule of several removals needs their `stages`, which `planned` makes; the last one is the
    architecture itself. Equal candidates have equal keys and train alike.
    """

    architecture: Architecture
    selection: Selection = field(default_factory=Selection)
    schedule: Schedule = field(default_factory=Schedule)
    recovery: Recovery = field(default_factory=Recovery)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        steps = len(self.schedule.milestones())
        if len(self.stages) != (steps if steps > 1 else 0):
            raise ValueError(
                f"a schedule of {steps} removals needs {steps if steps > 1 else 'no'} stages, got "
                f"{len(self.stages)} · make the candidate with Candidate.planned"
            )
        if self.stages and self.stages[-1].architecture != self.architecture:
            raise ValueError("the last stage must be the candidate's architecture")

    @staticmethod
    def planned(
        architecture: Architecture,
        sizes: Mapping[str, int],
        *,
        selection: Selection | None = None,
        schedule: Schedule | None = None,
        recovery: Recovery | None = None,
        nearest: Nearest | None = None,
    ) -> Candidate:
        """A candidate with the widths of every removal between the dense model and `architecture`.

        `sizes` are the dense groups' units, `nearest` what rounds a width (default: to the next
        whole number, halves up). Blocks are dropped with the first removal; patterns have their
        share of zeros, N:M in whole elements of a group.
        """
        schedule = schedule or Schedule()
        milestones = schedule.milestones()
        stages = [
            Stage(progress, _between(architecture, sizes, share, nearest or _whole))
            for progress, share in milestones[:-1]
        ]
        if stages:
            stages.append(Stage(milestones[-1][0], architecture))
        return Candidate(
            architecture,
            selection or Selection(),
            schedule,
            recovery or Recovery(),
            tuple(stages),
        )

    def in_precision(self, precision: str) -> Candidate:
        """The same candidate whose finished model is float32 or int8."""

        def converted(architecture: Architecture) -> Architecture:
            return replace(architecture, precision=precision)

        stages = (Stage(it.progress, converted(it.architecture)) for it in self.stages)
        return replace(self, architecture=converted(self.architecture), stages=tuple(stages))

    @property
    def removals(self) -> tuple[Stage, ...]:
        """When the model gets smaller, and what it is from then on; at least one removal."""
        return self.stages or (Stage(self.schedule.milestones()[-1][0], self.architecture),)

    @property
    def last_removal(self) -> float:
        """The progress of the training from which on the model is as small as it gets."""
        last = self.architecture
        return next(it.progress for it in self.removals if are_same(it.architecture, last))

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            "architecture": self.architecture.to_dict(),
            "selection": self.selection.to_dict(),
            "schedule": self.schedule.to_dict(),
            "recovery": self.recovery.to_dict(),
            "stages": [[stage.progress, stage.architecture.to_dict()] for stage in self.stages],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Candidate:
        """Inverse of `to_dict`."""
        return Candidate(
            architecture=Architecture.from_dict(data["architecture"]),
            selection=Selection(**data["selection"]),
            schedule=Schedule(**data["schedule"]),
            recovery=Recovery(**data["recovery"]),
            stages=tuple(
                Stage(progress, Architecture.from_dict(there)) for progress, there in data["stages"]
            ),
        )


def are_same(stage: Architecture, later: Architecture) -> bool:
    """Whether nothing is removed from one stage of a candidate to a later one.

    A group that only one of them names has all its units, or went with a block.
    """
    common = stage.widths.keys() & later.widths.keys()
    return (
        all(stage.widths[name] == later.widths[name] for name in common)
        and set(stage.dropped) == set(later.dropped)
        and stage.patterns == later.patterns
    )


def _between(
    final: Architecture, sizes: Mapping[str, int], share: float, nearest: Nearest
) -> Architecture:
    """The architecture with `share` of the final removals done."""
    widths = final.complete(sizes)
    wanted = {name: sizes[name] - share * (sizes[name] - widths[name]) for name in widths}
    return Architecture(
        {name: max(widths[name], nearest(name, width)) for name, width in wanted.items()},
        final.dropped,
        {n: there for n, p in final.patterns.items() if (there := partway(p, share)) is not None},
        final.precision,
    )


def _whole(name: str, width: float) -> int:
    return max(1, math.floor(round(width, 9) + 0.5))
