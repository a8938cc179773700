"""Samplers compared in whole searches, as users run them: everything is trained.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.samplers.searches [--seeds 0]  # 6 min a search

The keyword net within 60 % of its bytes: widths by the allocator's variables (`ratios`: one ratio a
group instead), float32 or int8, and the recipe; 32 trials of one epoch. The first candidates are
the same in all variants; screening takes the best of each and its alternatives. `random` draws
without a sampler and without screening; with `rungs` trials may be stopped after a quarter and a
half of an epoch, and new ones are trained for what that saves. Rows, one for each variant and seed:
`results/samplers/searches.csv`; table: `searches.md`, with the hypervolume under the dense model's
bytes and an accuracy of 50 %, over the largest possible, on validation and test data; whose the
members of the front are that came after the first candidates; and the difference to `random` of
equal seeds. Rows `with moves` and `with local search` are of versions up to 3a6b4c7, in which
screening also scored moves around the front (24 beside eight of the sampler's) and improved the
first candidates by a local search.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

import autoprune
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune.api import run_config
from autoprune.config import RunConfig
from autoprune.pareto import hypervolume
from autoprune.record import BASELINE, CONVERTED, TrialRecord
from autoprune.store import write_text
from autoprune.tasks import Task, load_task
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, ROOT, Rows
from scripts.benchmarks.samplers.__main__ import SAMPLERS, interval

OUT = RESULTS / "samplers"
COST = "weight_bytes"
FLOOR = 0.5  # the accuracy from which on hypervolume counts
SCREENED, ALONE = 32, 0
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "screen": ALONE},
    "tpe": {"sampler": "tpe", "screen": ALONE},
    "gp": {"sampler": "gp", "screen": ALONE},
    "front": {"sampler": "front", "screen": ALONE},
    "tpe, screened": {"sampler": "tpe", "screen": SCREENED},
    "gp, screened": {"sampler": "gp", "screen": SCREENED},
    "tpe, screened, ratios": {"sampler": "tpe", "screen": SCREENED, "variables": "ratios"},
    "tpe, screened, rungs": {"screen": SCREENED, "rungs": 2, "trials": 96, "total_epochs": 32.0},
}
SPACE = {
    "precision": ["float32", "int8"],
    "ratios": {"max": 0.8},
    "round_to": 1,
    "importance": "obs",
    "schedule": {"kind": ["one_shot", "cubic"], "end": [0.3, 0.5], "steps": 4},
    "recovery": {
        "lr": {"min": 0.001, "max": 0.03, "log": True},
        "distillation": [0.0, 0.5, 0.9],
        "regularizer": [0.0, 1.0],
    },
}
SEARCH = {
    **{"variables": "allocation", "trials": 32, "epochs": 1.0, "rungs": 0, "patience": 0},
    **{"concurrent": 1, "baselines": {"uniform": 1, "random": 0}},
    "ray": {"resources_per_trial": {"cpu": 1}},
}
SHOWN = {
    "variant": ("variant", ""),
    "seeds": ("seeds", ""),
    "trials": ("trials", ".0f"),
    "first": ("after the first candidates", ""),
    "validation": ("validation", ""),
    "ahead": ("less random's", ""),
    "test": ("test", ""),
    "test_ahead": ("less random's", ""),
    "members": ("front", ".1f"),
    "firsts": ("first candidates", ".0%"),
    "sampled": ("sampler", ".0%"),
    "moved": ("moves", ".0%"),
    "proposing_s": ("s a proposal", ".2f"),
    "minutes": ("minutes", ".1f"),
}
MEANS = frozenset({"trials", "members", "firsts", "sampled", "moved", "proposing_s", "minutes"})


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = Rows(OUT / "searches.csv", ["variant", "seed"])
    task = load_task(str(ROOT / "examples/voice_commands.py:VoiceCommands"))
    for seed in given.seeds:
        for variant in given.variants:
            if file.find(variant=variant, seed=seed).empty:
                found = {"variant": variant, "seed": seed, **searched(task, variant, seed)}
                file.put({**found, **harness.circumstances()})
                print(found, flush=True)
                write_text(OUT / "searches.md", page(file.read()))


def searched(task: Task, variant: str, seed: int) -> dict[str, object]:
    """The row of one search."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "task": str(ROOT / "examples/voice_commands.py:VoiceCommands"),
            "output": str(Path(folder) / "run"),
            "budget": {COST: "60%"},
            "space": SPACE,
            "train_on": "cpu",
            "search": {**SEARCH, **VARIANTS[variant], "seed": seed},
        }
        started = time.monotonic()
        with timed(BudgetedOptunaSearch, "suggest") as proposing_s:
            result = run_config(RunConfig.from_dict(config))
        minutes = (time.monotonic() - started) / 60
        return {
            **described(result, sum(proposing_s)),
            **tested(result, task),
            "minutes": minutes,
        }


@contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """The seconds of each call of a method inside."""
    seconds: list[float] = []
    method = getattr(owner, name)

    def measured(*args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return method(*args, **options)
        finally:
            seconds.append(time.monotonic() - began)

    with patch.object(owner, name, measured):
        yield seconds


def described(result: autoprune.Result, proposing_s: float) -> dict[str, object]:
    """Hypervolumes on validation data, and by whom the members of the front were proposed.

    `proposing_s` is the time of all proposals together, screening included.
    """
    done = [each for each in result.records if each.state == "complete"]
    first = [each for each in done if whose(each, done) == "firsts"]
    kinds = [whose(each, done) for each in result.front.members]
    return {
        "trials": len(done),
        "first": volume([point(each, each.metrics["accuracy"], result) for each in first]),
        "validation": volume([point(each, each.metrics["accuracy"], result) for each in done]),
        "members": len(kinds),
        **{kind: kinds.count(kind) / len(kinds) for kind in ("firsts", "sampled", "moved")},
        "proposing_s": proposing_s / len(done),
    }


def tested(result: autoprune.Result, task: Task) -> dict[str, object]:
    """The hypervolume on test data of the members of the front."""
    points = []
    for record in result.front.members:
        metrics = task.evaluate(result.model(record, trust=True), "test")
        points.append(point(record, metrics["accuracy"], result))
    return {"test": volume(points)}


def point(record: TrialRecord, accuracy: float, result: autoprune.Result) -> tuple[float, float]:
    """The share of the dense model's bytes, and the accuracy."""
    assert record.predicted is not None
    assert result.plan is not None
    return record.predicted.get(COST) / result.plan.dense.get(COST), accuracy


def whose(record: TrialRecord, trials: Sequence[TrialRecord]) -> str:
    """`firsts`, `sampled` by Optuna, or `moved` around the front by screening.

    A model in another precision is that of the trial which it was converted from.
    """
    if record.origin.startswith(CONVERTED):
        number = int(record.origin.removeprefix(CONVERTED).split()[0])
        return whose(next(each for each in trials if each.number == number), trials)
    proposed = record.origin.removeprefix("screened:").split()[0]
    if proposed.startswith(("seed:", BASELINE)):
        return "firsts"
    return "sampled" if proposed in SAMPLERS else "moved"


def volume(points: Sequence[tuple[float, float]]) -> float:
    """Hypervolume of shares and accuracies under dense cost and `FLOOR`, over the largest possible.

    >>> volume([(0.5, 0.75)])
    0.25
    """
    turned = [(share, 1.0 - accuracy) for share, accuracy in points]
    return hypervolume(turned, (1.0, 1.0 - FLOOR)) / (1.0 - FLOOR)


def page(rows: pd.DataFrame) -> str:
    """The table, with what it was measured on."""
    lines = []
    for variant, found in rows.groupby("variant", sort=False):
        both = found.merge(rows[rows.variant == "random"], on="seed", suffixes=("", "_random"))
        means = found[
            ["trials", "members", "firsts", "sampled", "moved", "proposing_s", "minutes"]
        ].mean()
        lines.append(
            {
                "variant": variant,
                "seeds": len(found),
                **{name: interval(found[name]) for name in ("first", "validation", "test")},
                "ahead": interval(both.validation - both.validation_random),
                "test_ahead": interval(both.test - both.test_random),
                **means,
            }
        )
    return (
        "# Samplers compared in whole searches\n\n"
        f"The keyword net within 60 % of its bytes, {SEARCH['trials']} trials of one epoch. "
        "Hypervolumes are means ± half of the 95 % interval over seeds (Student's t). The last "
        "columns: members of the front, the shares of them that were first candidates, proposed "
        "by the sampler, or by the screening's moves. Rows `with moves` (24 beside eight proposals "
        "of the sampler's) and `with local search` (of the first candidates) are of versions up to "
        "3a6b4c7: neither brought anything beside the allocator's variables, where moves are now "
        "used only if the sampler proposes nothing new. A row without screening and of commit "
        "cde44b8 has no time of its proposals: screening alone was timed.\n\n"
        f"{harness.table(pd.DataFrame(lines), SHOWN)}\n\n{harness.stamp(rows)}\n"
    )


if __name__ == "__main__":
    main()
