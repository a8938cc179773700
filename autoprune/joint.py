"""The joint front of a search from several starting models: which run has which member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from autoprune.budget import Budget, Cost, Timing
from autoprune.cost_fields import field_at, is_cost
from autoprune.errors import StoreError, UsageError
from autoprune.pareto import CostSource, Objective, ParetoFront
from autoprune.pick import RECOMMENDED, trial_number, word_of
from autoprune.pick import pick as pick_record
from autoprune.printable import quoted
from autoprune.recommendation import Recommendation, recommend
from autoprune.record import TrialRecord, at_best_rate
from autoprune.store import DenseReport, RunFolder, StartingState

_APART = "latencies of the runs were measured at other times: compare them with care"


@dataclass(frozen=True)
class JointFront:
    """What a search from several starting models found.

    `run` is the folder of the whole search, `runs` those of the starting models that have a front,
    in the order of the configuration. `front` holds what no model of any run dominates. Numbers of
    trials are those of their own runs. `notes` say what is missing or doubtful, in words;
    `baselines` are those of each run that are not on `front`.
    """

    run: RunFolder
    runs: Mapping[str, RunFolder]
    fronts: Mapping[str, ParetoFront]
    state: StartingState
    front: ParetoFront
    notes: tuple[str, ...]
    baselines: Mapping[str, tuple[TrialRecord, ...]]
    _starts: Mapping[int, str] = field(repr=False, compare=False)

    @staticmethod
    def read(path: RunFolder | str | Path) -> JointFront:
        """Of the runs in a folder so far. Raises StoreError where the first has no front yet.

        Where the dense models were measured in turns, a measured latency is that of its run's dense
        model there, times the ratio to it in the run. What another run than the first has over the
        budget by that is no member, and among the `notes`.
        """
        run = path if isinstance(path, RunFolder) else RunFolder.open(path)
        names, state = list(run.config.starting_models), run.starting() or StartingState()
        if not names:
            raise StoreError(f"{run.path} has one starting model · read it as an autoprune.Result")
        runs: dict[str, RunFolder] = {}
        fronts: dict[str, ParetoFront] = {}
        notes = [f"{name} is left out: {reason}" for name, reason in state.left_out.items()]
        for name in names:
            folder = run.starting_model(name)
            found = folder.front() if RunFolder.is_run(folder.path) else None
            if found is None:
                continue
            limits = run.config.budget if name != names[0] else None
            runs[name], (fronts[name], over) = folder, _in_turns(found.front, state, name, limits)
            notes += over
            if found.not_measured:
                notes.append(f"the front of {name} could not be measured: {found.not_measured}")
        if names[0] not in fronts:
            raise StoreError(
                f"{run.path} has no front yet · resume it with: autoprune resume {quoted(run.path)}"
            )
        front = joined(fronts)
        if state.not_together and front.source == "measured":
            notes.append(f"{_APART} ({state.not_together})")
        starts = {id(record): name for name, it in fronts.items() for record in it.records}
        on_front = {(starts[id(record)], record.number) for record in front.members}
        metric = next(o for o in front.objectives if not is_cost(o.name))
        baselines = {
            name: tuple(
                _timed(record, state, name) if front.source == "measured" else record
                for record in (*at_best_rate(folder.records(), metric.rank), *folder.smaller())
                if record.baseline and (name, record.number) not in on_front
            )
            for name, folder in runs.items()
        }
        return JointFront(run, runs, fronts, state, front, tuple(notes), baselines, starts)

    @property
    def left_out(self) -> Mapping[str, str]:
        """Starting models without a model within the budget, and why."""
        return self.state.left_out

    def start_of(self, record: TrialRecord) -> str:
        """The starting model of a member, by its name in the configuration."""
        return self._starts[id(record)]

    def named(self, record: TrialRecord) -> str:
        """A member as tables name it: `large, trial 7`."""
        return f"{self.start_of(record)}, trial {record.number}"

    def dense(self, name: str) -> DenseReport:
        """The dense model of one of the `runs`, as measured in turns with the others' if it was."""
        found = self.runs[name].dense() or DenseReport()
        together = self.state.dense.get(name)
        return found if together is None else replace(found, measured=together)

    @property
    def reference(self) -> DenseReport:
        """The dense model to which limits in percent are relative: the first starting model."""
        return self.dense(next(iter(self.runs)))  # `read` has seen that it is there

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """The cheapest member whose quality is good enough beside the first dense model."""
        metric = next((o.name for o in self.front.objectives if not is_cost(o.name)), "")
        limits = self.run.config.recommended_within(metric)
        return recommend(self.front, self.reference.metrics, limits)

    def pick(self, text: str) -> tuple[RunFolder, TrialRecord]:
        """The run and the member that `recommended`, `knee`, `latency_ms<=3` ... names.

        Raises UsageError for `trial=7`, which is a number in one of the runs; StoreError where
        nothing fits.
        """
        if trial_number(text) is not None:
            places = ", ".join(str(run.path) for run in self.runs.values())
            raise UsageError(f"pick: trials are numbered in each run · name one of {places}")
        found = self.recommendation if word_of(text) == RECOMMENDED else None
        record = pick_record(self.front, text, (), found.record if found else None)
        return self.runs[self.start_of(record)], record

    def _repr_html_(self) -> str:
        """A table of the members with their starting models, for notebooks."""
        return self.front.table_html("model", [self.named(record) for record in self.front])

    def contributions(self) -> dict[str, float]:
        """The hypervolume of the joint front that would be lost without each run."""
        whole = self.front.hypervolume
        found = {}
        for name in self.fronts:
            others = {other: front for other, front in self.fronts.items() if other != name}
            left = joined(others, self.front.reference).hypervolume if others else 0.0
            found[name] = max(0.0, whole - left)
        return found


def _in_turns(
    front: ParetoFront, state: StartingState, name: str, budget: Budget | None
) -> tuple[ParetoFront, list[str]]:
    """A run's front with latencies that can be compared, and what is over the budget by them."""
    if front.source != "measured" or name not in state.dense:
        return front, []
    first = next(iter(state.dense.values()))
    records, over = [], []
    for record in front.members:
        timed = _timed(record, state, name)
        cost = timed.measured
        broken = {} if cost is None or budget is None else _broken(budget, cost, first)
        if not broken:
            records.append(timed)
        for field_name, share in broken.items():
            more = f"{100 * share:.2g} % over the limit on {field_name}"
            over.append(f"{name}, trial {record.number} is {more} beside the first dense model")
    return replace(front, records=tuple(records)), over


def _timed(record: TrialRecord, state: StartingState, name: str) -> TrialRecord:
    """A run's record with measured latencies that can be compared with other runs'."""
    if record.measured is None or name not in state.dense:
        return record
    return replace(record, measured=beside(record.measured, state.dense[name]))


def _broken(budget: Budget, cost: Cost, dense: Cost) -> dict[str, float]:
    found = budget.known_of(cost, dense).violations(cost, dense)
    return {name: value for name, value in found.items() if value > 0.0}


def beside(cost: Cost, dense: Cost) -> Cost:
    """A cost with the latencies that it would have had beside this measurement of its dense model.

    A latency keeps its ratio to the dense model, with which it was measured in turns.
    """
    for name in cost.names or ("",):
        before, after = (c.value(field_at("latency_ms", name)) for c in (cost, dense))
        sure, device = cost.confidence_of(name), cost.device_of(name)
        if not before or not after or sure is None or device is None:
            continue
        factor = sure.ratio * after / before
        low, high = sure.ci_ms
        p95 = cost.value(field_at("latency_p95_ms", name))
        known = replace(sure, ci_ms=(low * factor, high * factor))
        scaled = None if p95 is None else p95 * factor
        cost = cost.timed(Timing(name, before * factor, scaled, device, known), "measured")
    return cost


def joined(
    fronts: Mapping[str, ParetoFront], reference: tuple[float, ...] | None = None
) -> ParetoFront:
    """The front of several fronts' members, up to the worst of their reference points.

    Latencies are measured where they are in all of them. Raises StoreError for other objectives.
    """
    first = next(iter(fronts.values()))
    for front in fronts.values():
        if front.objectives != first.objectives:
            raise StoreError("runs of one search must have the same objectives")
    source: CostSource = "measured"
    if any(front.source != "measured" for front in fronts.values()):
        source = "predicted"
    unmeasured = tuple({name: None for f in fronts.values() for name in f.predicted_only})
    members = tuple(record for front in fronts.values() for record in front.members)
    return ParetoFront(
        first.objectives,
        members,
        reference or _worst(first.objectives, [f.reference for f in fronts.values()]),
        source,
        unmeasured,
    )


def _worst(
    objectives: tuple[Objective, ...], references: list[tuple[float, ...] | None]
) -> tuple[float, ...] | None:
    known = [reference for reference in references if reference is not None]
    if len(known) < len(references):
        return None
    return tuple(
        objective.sign * max(objective.sign * value for value in values)
        for objective, values in zip(objectives, zip(*known, strict=True), strict=True)
    )
