"""The model card of a retrained trial: what was pruned, how, and what came out over the seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from autoprune.candidate import AUTO, Candidate
from autoprune.cards.card import Card, code, table
from autoprune.cards.measured import measured_over_seeds
from autoprune.printable import counted
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.store import Groups, RetrainingPlan, RetrainingSummary, RunFolder
from autoprune.tasks.load import OBJECT


def card_of_retraining(
    run: RunFolder, record: TrialRecord, plan: RetrainingPlan, summary: RetrainingSummary
) -> str:
    """The card of a finished retraining of a trial, for the folder that holds those of its seeds.

    It names no place on this machine.
    """
    reference, groups = run.config.task, run.groups()
    removed = _removed(summary.candidate, groups) if groups is not None else ()
    task = PurePath(reference.removeprefix(OBJECT)).name  # of a file without its folders
    return Card(
        title=f"{task.rpartition(':')[2]}, pruned",
        lead=f"A smaller version of the dense model of the task `{task}`, made with autoprune: "
        "units and blocks were removed, not masked.",
        measured=measured_over_seeds(run, record, summary),
        pruned=[*removed, _recipe(record, summary, plan)],
        usage=_usage(summary.seeds, task, is_object=reference.startswith(OBJECT)),
    ).text()


def _removed(candidate: Candidate, groups: Groups) -> Iterator[str]:
    """Blocks, groups and weights that lost something; a sentence where none did."""
    built, sizes = candidate.architecture, groups.sizes
    if built.dropped:
        yield f"Dropped blocks: {', '.join(f'`{name}`' for name in built.dropped)}."
    widths, gone = built.complete(sizes), built.removed(sizes)
    rows = [
        (f"`{name}`", str(size), "gone" if gone[name] == 1.0 else str(widths[name]))
        for name, size in sizes.items()
        if gone[name] > 0.0
    ]
    if rows:
        yield "Units (channels, neurons, heads) by group of layers that are pruned together:"
        yield table(("group", "dense", "pruned"), rows)
    if built.patterns:
        weights = [f"`{name}` ({pattern})" for name, pattern in built.patterns.items()]
        yield f"Zeros by pattern, which make the file smaller: {', '.join(weights)}."
    if not (rows or built.dropped or built.patterns):
        yield "Nothing: it has all units of the dense model."


def _recipe(record: TrialRecord, summary: RetrainingSummary, plan: RetrainingPlan) -> str:
    """How it was made, in words."""
    made = summary.candidate
    selection, recovery = made.selection, made.recovery
    repaired = "; the remaining weights were repaired by least squares" if selection.repair else ""
    optimizer = record.optimizer if recovery.optimizer == AUTO else ""
    parts = [
        f"Units were chosen by the importance `{selection.importance}` and removed {_when(made)}"
        f"{repaired}.",
        f"Each seed was trained for {counted(summary.epochs, 'epoch')} from the dense model's "
        f"weights: optimizer {optimizer or text.optimizer(recovery.optimizer)}, peak learning rate "
        f"{text.rate(recovery.lr)}, distillation {recovery.distillation:.2g}, regularizer "
        f"{recovery.regularizer:.2g}{text.options(recovery, start=', ')}.",
    ]
    if plan.quantization_aware:
        parts.append("The end of the training simulated int8.")
    return " ".join(parts)


def _when(made: Candidate) -> str:
    steps = [f"{100 * stage.progress:.3g}" for stage in made.removals]
    if len(steps) > 1:
        kind = made.schedule.kind
        return f"in {len(steps)} steps ({kind}), from {steps[0]} to {steps[-1]} % of the training"
    return "before the training" if steps == ["0"] else f"after {steps[0]} % of the training"


def _usage(seeds: tuple[int, ...], task: str, *, is_object: bool) -> str:
    """How the first seed's model is loaded, and where the others are."""
    others = ", ".join(f"`seed-{seed}`" for seed in seeds[1:])
    words = f"`folder` is that of this file, for the model of seed {seeds[0]}"
    words += f"; or one of the others, {others}." if others else "."
    dense = "model = autoprune.load(folder, model=dense)  # an object of the dense architecture"
    if is_object:
        return f"{words}\n\n{code('import autoprune', '', dense)}"
    named = f"model = autoprune.load(folder, trust=True)  # imports {task}; or, without it:"
    return f"{words}\n\n{code('import autoprune', '', named, dense)}"
