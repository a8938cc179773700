"""A search space applied to a model: sampled values become candidates, and candidates values."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from autoprune.architecture import BLOCK, FLOAT32, IN_FLOAT, INT8, Architecture, digest
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.patterns import WeightCurve
from autoprune.space.fitted_patterns import FittedPatterns
from autoprune.space.fitted_schedule import schedule_of, values_of
from autoprune.space.normal_form import normal_form, unused
from autoprune.space.search_space import RATIO, SearchSpace, kept_units
from autoprune.space.settings import Parameter, Value, without_optimizer

DROP = "drop"
PRECISION = "precision"
Range = tuple[float, float]  # the smallest and the largest ratio
_UNKNOWN_STEP = 4
_HALF = 0.5
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class FittedSpace:
    """The candidates of a search: a `space`, the `widths` of groups, the `blocks` and `weights`.

    Widths are ascending and end with the whole group, which therefore says its size. `blocks` maps
    those that can be dropped to the groups that go with each, `weights` names those that can have a
    pattern. Groups and blocks (called
    `block:<name>`) together are the items of an architecture, each with its choices: widths, or 0
    and 1. Where models may be int8, `precision:float32` is one more, 0 for those. `ranges` are the
    ratios of groups that have others than the space. `steps` are those of a candidate's training,
    None where they are not known. All rounding takes place here.

    >>> space = FittedSpace.of(SearchSpace.parse({"ratios": {"max": 0.5}}), {"conv1": 4})
    >>> space.choices("conv1"), [parameter.name for parameter in space.parameters]
    ((2, 3, 4), ['ratio.conv1'])
    """

    space: SearchSpace
    widths: Mapping[str, tuple[int, ...]]
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, WeightCurve] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    steps: int | None = None
    _choices: Mapping[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, widths in self.widths.items():
            if not widths or list(widths) != sorted(set(widths)) or widths[0] < 1:
                raise ValueError(f"widths[{name!r}] must be ascending counts, got {widths}")
        object.__setattr__(self, "widths", MappingProxyType(dict(self.widths)))
        object.__setattr__(self, "blocks", MappingProxyType(dict(self.blocks)))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))
        choices = {name: self._between(name) for name in self.widths}
        choices |= {f"{BLOCK}{name}": (0, 1) if self.most_dropped else (1,) for name in self.blocks}
        if INT8 in self.space.precisions:
            choices[IN_FLOAT] = (0, 1) if FLOAT32 in self.space.precisions else (0,)
        object.__setattr__(self, "_choices", choices)

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot be pickled by itself
        return FittedSpace, (
            self.space,
            dict(self.widths),
            dict(self.blocks),
            dict(self.weights),
            dict(self.ranges),
            self.steps,
        )

    @staticmethod
    def of(
        space: SearchSpace,
        sizes: Mapping[str, int],
        step: int | None = None,
        blocks: Mapping[str, tuple[str, ...]] | None = None,
        weights: Mapping[str, WeightCurve] | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> FittedSpace:
        """The space for groups of these `sizes`, these blocks, weights, and groups with `ranges`.

        `step` is, for `round_to: auto`, what widths are multiples of where the target device is
        efficient; 4 where that is not known.
        """
        multiple = (step or _UNKNOWN_STEP) if space.auto else space.round_to
        own = ranges or {}
        most = {name: own[name][1] if name in own else space.max_ratio for name in sizes}
        return FittedSpace(
            space,
            {name: _multiples(size, multiple, most[name]) for name, size in sizes.items()},
            blocks or {},
            weights or {},
            own,
        )

    @property
    def items(self) -> tuple[str, ...]:
        """All groups, all blocks as `block:<name>`, and `precision:float32` where int8 may be."""
        return tuple(self._choices)

    @property
    def most_dropped(self) -> int:
        """How many blocks a candidate may drop; none where all groups share one ratio."""
        return int(self.space.max_depth * len(self.blocks) + 1e-9) if self.per_group else 0

    @property
    def sizes(self) -> dict[str, int]:
        """The units of every group of the dense model."""
        return {name: widths[-1] for name, widths in self.widths.items()}

    @property
    def per_group(self) -> bool:
        """Whether every group has its own ratio."""
        return self.space.per == "group"

    @property
    def patterns(self) -> FittedPatterns:
        """The patterns that weights may have."""
        return FittedPatterns(self.space.patterns, self.weights)

    @property
    def varied(self) -> tuple[Parameter, ...]:
        """The distributions besides ratios and blocks: of patterns, schedule and recovery."""
        return (*self.patterns.parameters, *self.space.varied)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The distributions to sample from: first the ratios, then what else varies.

        Groups that can have one width only have none.
        """
        space = self.space
        free = [name for name in self.widths if len(self.choices(name)) > 1]
        names = [f"{RATIO}.{name}" for name in free] if self.per_group else [RATIO] * bool(free)
        ratios = (Parameter(name, *self.ratio_range(name.partition(".")[2])) for name in names)
        dropping = self.blocks if self.most_dropped else ()
        drops = (Parameter(f"{DROP}.{name}", choices=(False, True)) for name in dropping)
        several = len(space.precisions) > 1
        precision = (Parameter(PRECISION, choices=space.precisions),) if several else ()
        return (*ratios, *drops, *precision, *self.varied)

    def choices(self, item: str) -> tuple[int, ...]:
        """What a candidate can have of an item, ascending: a group's widths, 0 and 1 of a block."""
        return self._choices[item]

    def ratio_range(self, group: str) -> Range:
        """The smallest and the largest ratio of a group; of `""`, the one ratio of all groups."""
        return self.ranges.get(group, (self.space.min_ratio, self.space.max_ratio))

    def nearest(self, name: str, width: float) -> int:
        """The choice of a group that is nearest to a width; ties keep more."""
        return _nearest(self._choices[name], width)

    def counts(self, architecture: Architecture) -> dict[str, int]:
        """What an architecture has of every item."""
        dropped = set(architecture.dropped)
        blocks = {f"{BLOCK}{name}": int(name not in dropped) for name in self.blocks}
        precision = {IN_FLOAT: int(architecture.precision == FLOAT32)}
        return {
            **architecture.complete(self.sizes),
            **blocks,
            **(precision if IN_FLOAT in self._choices else {}),
        }

    def architecture(self, counts: Mapping[str, float]) -> Architecture:
        """The architecture of the nearest choices; items that are not named stay unpruned.

        Where more blocks would be dropped than may be, those with the least count are; of equal
        counts some that depend on all the names alone, wherever they are in the model. Groups that
        go with a dropped block have no width.
        """
        dropped = self._dropped(counts)
        lost = {group for name in dropped for group in self.blocks[name]}
        return Architecture(
            {
                name: _nearest(self._choices[name], counts.get(name, widths[-1]))
                for name, widths in self.widths.items()
                if name not in lost
            },
            dropped,
            precision=self._precision(counts.get(IN_FLOAT, 1.0)),
        )

    def at_ratios(
        self,
        ratios: Mapping[str, float],
        dropped: Iterable[str] = (),
        precision: str = FLOAT32,
    ) -> Architecture:
        """The architecture at these removed fractions, those that are not named being 0."""
        sizes = self.sizes
        counts = {name: sizes[name] * (1.0 - ratio) for name, ratio in ratios.items()}
        gone = {f"{BLOCK}{name}": 0.0 for name in dropped}
        return self.architecture({**counts, **gone, IN_FLOAT: float(precision == FLOAT32)})

    def resized(
        self,
        candidate: Candidate,
        architecture: Architecture,
        patterns: Mapping[str, Value] | None = None,
    ) -> Candidate:
        """The candidate with another architecture, and stages that lead to it, in `normal` form.

        Its kind of pattern and sparsity stay; or they are those of the values in `patterns`.
        """
        params = patterns or self.patterns.params(candidate.architecture)
        return self.normal(
            Candidate.planned(
                self._with_patterns(architecture, params),
                self.sizes,
                selection=candidate.selection,
                schedule=candidate.schedule,
                recovery=candidate.recovery,
                nearest=self._nearest,
            )
        )

    def candidate(self, params: Mapping[str, Value]) -> Candidate:
        """The candidate of sampled values; values that build and train alike give equal keys.

        See `normal_form`. With `optimizer: auto`, what depends on the optimizer is left to its
        default (`SearchSpace.for_optimizer` says what it is).
        """
        return self.normal(self.draft(params))

    def normal(self, candidate: Candidate) -> Candidate:
        """The candidate that stands for all that are built and trained as this one."""
        return normal_form(
            candidate, self.space, narrower=self._is_narrower(candidate), steps=self.steps
        )

    def draft(self, params: Mapping[str, Value]) -> Candidate:
        """As `candidate`, with what changes nothing as the values say, to be made smaller.

        Of a model that is not pruned, importance and schedule say nothing; of those that `resized`
        makes of it they do.
        """
        values = {
            **self.space.fixed,
            **{p.name: p.clip(params[p.name]) for p in self.space.varied},
        }
        ratios = {name: self._ratio_of(name, params) for name in self.widths}
        dropped = [name for name in self.blocks if params.get(f"{DROP}.{name}", False)]
        architecture = self._with_patterns(
            self.at_ratios(ratios, dropped, str(params.get(PRECISION, FLOAT32))), params
        )
        return Candidate.planned(
            architecture,
            self.sizes,
            selection=Selection(str(values["importance"]), bool(values["repair"])),
            schedule=schedule_of(self.space, values),
            recovery=_recovery(values),
            nearest=self._nearest,
        )

    def _is_narrower(self, candidate: Candidate) -> bool:
        return any(candidate.architecture.ratios(self.sizes).values())

    def params(self, candidate: Candidate) -> dict[str, Value]:
        """Values that `candidate` turns into this candidate.

        Numbers outside a range are moved to its nearest end (they do not count, or rounding took
        them there). Raises ValueError where a choice does not hold the candidate's value, or where
        no single ratio gives the candidate's widths (`per="global"`).
        """
        ratios = candidate.architecture.ratios(self.sizes)
        params: dict[str, Value] = {}
        for parameter in self.parameters[: -len(self.varied) or None]:
            kind, _, name = parameter.name.partition(".")
            if kind == DROP:
                params[parameter.name] = name in candidate.architecture.dropped
            elif kind == PRECISION:
                params[PRECISION] = candidate.architecture.precision
            else:
                ratio = ratios[name] if name else self.common_ratio(candidate)
                params[parameter.name] = parameter.clip(ratio)
        return {**params, **self.settings(candidate)}

    def settings(self, candidate: Candidate) -> dict[str, Value]:
        """The part of `params` that are no ratios: what the space's `varied` names."""
        candidate = self.normal(candidate)
        no_use = unused(candidate, narrower=self._is_narrower(candidate), steps=self.steps)
        written = {
            **candidate.selection.to_dict(),
            **values_of(self.space, candidate.schedule),
            **{f"recovery.{key}": value for key, value in asdict(candidate.recovery).items()},
        }
        found = self.patterns.params(candidate.architecture)
        for parameter in self.space.varied:
            value = written.get(without_optimizer(parameter.name))
            is_unused = parameter.name.removeprefix("recovery.") in no_use
            if value is None or is_unused or not _has(candidate.recovery.optimizer, parameter.name):
                found[parameter.name] = parameter.choices[0] if parameter.choices else parameter.low
            else:
                found[parameter.name] = parameter.clip(value)
        return found

    def _with_patterns(
        self, architecture: Architecture, params: Mapping[str, Value]
    ) -> Architecture:
        patterns = self.patterns.patterns(params, architecture.dropped)
        return replace(architecture, patterns=patterns)

    def common_ratio(self, candidate: Candidate) -> float:
        """The single ratio that gives the candidate's widths; ValueError where there is none."""
        wanted = candidate.architecture.complete(self.sizes)
        total = sum(wanted.values())

        def widths(ratio: float) -> Mapping[str, int]:
            return self.at_ratios(dict.fromkeys(self.widths, ratio)).widths

        low, high = self.space.min_ratio, self.space.max_ratio
        for ratio in (low, high):
            if widths(ratio) == wanted:
                return ratio
        for _ in range(_HALVINGS):  # widths fall with the ratio: equal sums are equal widths
            middle = (low + high) / 2.0
            now = widths(middle)
            if now == wanted:
                return middle
            low, high = (middle, high) if sum(now.values()) > total else (low, middle)
        raise ValueError("no single ratio of this space gives the candidate's widths")

    def _dropped(self, counts: Mapping[str, float]) -> list[str]:
        left = {name: counts.get(f"{BLOCK}{name}", 1.0) for name in self.blocks}
        gone = [name for name, count in left.items() if count < _HALF]
        if len(gone) <= self.most_dropped:
            return gone
        drawn = {name: digest([name, *gone]) for name in gone}
        return sorted(gone, key=lambda name: (left[name], drawn[name]))[: self.most_dropped]

    def _precision(self, in_float: float) -> str:
        """The nearest precision of the space; of equally near ones float32."""
        choices = self._choices.get(IN_FLOAT, (1,))
        return FLOAT32 if _nearest(choices, in_float) else INT8

    def _between(self, name: str) -> tuple[int, ...]:
        """The widths between the smallest and the largest ratio."""
        widths = self.widths[name]
        low, high = self.ratio_range(name)
        most = _nearest(widths, widths[-1] * (1.0 - low))
        least = _nearest(widths, widths[-1] * (1.0 - high))
        return tuple(width for width in widths if least <= width <= most)

    def _ratio_of(self, name: str, params: Mapping[str, Value]) -> float:
        low, high = self.ratio_range(name)
        given = params.get(f"{RATIO}.{name}" if self.per_group else RATIO, low)
        return min(max(float(given), low), high)

    def _nearest(self, name: str, width: float) -> int:
        """Also of widths that a candidate passes through only: any up to the whole group."""
        return _nearest(self.widths[name], width)


def _nearest(widths: tuple[int, ...], wanted: float) -> int:
    wanted = round(wanted, 9)
    place = bisect.bisect_left(widths, wanted)
    near = widths[max(0, place - 1) : place + 1]
    return min(near, key=lambda width: (abs(width - wanted), -width))


def _multiples(size: int, step: int, max_ratio: float) -> tuple[int, ...]:
    least = kept_units(size, max_ratio, step)
    found = {kept_units(size, 1.0 - units / size, step) for units in range(least, size + 1)}
    return tuple(sorted({units for units in found if units >= least} | {size}))


def _recovery(values: Mapping[str, Value]) -> Recovery:
    """The recovery of settings, with those of its optimizer where they depend on it."""
    optimizer = str(values["recovery.optimizer"])
    found: dict[str, Any] = {}
    for name in Recovery.__dataclass_fields__:
        value = values.get(f"recovery.{name}", values.get(f"recovery.{name}.{optimizer}"))
        found[name] = value if value is None or isinstance(value, str | bool) else float(value)
    return Recovery(**found)


def _has(optimizer: str, name: str) -> bool:
    """Whether an optimizer has a setting: `recovery.lr.sgd` is that of sgd alone."""
    return name == without_optimizer(name) or name.endswith(f".{optimizer}")
