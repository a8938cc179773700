"""Which forecast foresees trained accuracies best, from the first trials of a search.

    AUTOPRUNE_DATA=... python scripts/bench_forecast.py     # from the rows on disk, 10 minutes

For every search of the method `autoprune` in `results/bench/search/trials.csv` and `earlier.csv`
the forecast is fitted to its first 6, 8, 10 and 12 trials, and asked for those trials of all other
searches on that task that were not seeds. Compared: how far below the best metric the floor of the
scale lies, over the range that counts ("the metric itself": so far that errors are of equal size
everywhere); without the prior's ratios; without the added damages of single groups. CRPS:
continuous ranked probability score, in accuracy; accuracies below the reference count as the
reference. Pairs: of about equal cost (15 %) and more than one point apart, how many are put in the
right order. Writes `results/bench/search/forecast.md`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from bench_search.scored import Scored, scored
from bench_search.text import frame
from scipy.special import ndtri

from autoprune._search import surrogate
from autoprune._search.allocator import total_sensitivity
from autoprune._search.score import NO_DAMAGE
from autoprune._search.surrogate import Belief, Forecast, Known
from autoprune.candidate import Candidate

RESULTS = Path(__file__).parents[1] / "results" / "bench" / "search"
OUT = RESULTS / "forecast.md"
WAYS = {
    "as in a search": (surrogate._FLOOR, surrogate._RATIOS, True),
    "floor 0.02": (0.02, surrogate._RATIOS, True),
    "floor 0.1": (0.1, surrogate._RATIOS, True),
    "the metric itself": (100.0, surrogate._RATIOS, True),
    "without ratios": (surrogate._FLOOR, 1e-6, True),
    "without damages": (surrogate._FLOOR, surrogate._RATIOS, False),
}
METHODS = ("autoprune", "autoprune (earlier)")
FIRST = (6, 8, 10, 12)
QUANTILES = ndtri((np.arange(40) + 0.5) / 40)


@dataclass(frozen=True)
class Trained:
    """A trial of a search."""

    known: Known
    accuracy: float
    is_seed: bool


def main() -> None:
    torch.set_num_threads(1)
    now, earlier = (pd.read_csv(RESULTS / name) for name in ("trials.csv", "earlier.csv"))
    rows = pd.concat([now, earlier.assign(method=earlier.method + " (earlier)")])
    rows = rows[rows.method.str.startswith("autoprune") & rows.counted]
    found = [row for task, part in rows.groupby("task", sort=False) for row in _task(task, part)]
    wide = pd.DataFrame(found).groupby(["way", "task"], sort=False).mean().unstack("task")
    wide.columns = [f"{task}: {what}" for what, task in wide.columns]
    text = (
        f"# Forecasts\n\n`python scripts/bench_forecast.py`: errors in accuracy, floor "
        f"{surrogate._FLOOR:g} where nothing else is said. torch {version('torch')}, "
        f"scikit-learn {version('scikit-learn')}; {date.today().isoformat()}.\n\n"
        f"{frame(wide[sorted(wide.columns)], 4)}\n"
    )
    OUT.write_text(text, encoding="utf-8")
    print(text)


def _task(task: str, rows: pd.DataFrame) -> Iterable[dict[str, object]]:
    ready = scored(task)
    score, damage = ready.score(), ready.sensitivity().at
    known: dict[str, Known] = {}
    runs: dict[tuple[str, int], list[Trained]] = {}
    for row in rows.sort_values("trial").itertuples():
        candidate = Candidate.from_dict(json.loads(row.candidate))
        if candidate.key not in known:
            macs = ready.plan.cost(candidate).get("macs")
            kept = ready.plan.space.kept(candidate, ready.plan.sizes)
            alone = math.log(max(NO_DAMAGE, total_sensitivity(damage, kept)))
            known[candidate.key] = Known(candidate, score(candidate), (macs,), alone)
        is_seed = row.origin.startswith("seed:")
        trial = Trained(known[candidate.key], float(row.val_accuracy), is_seed)
        runs.setdefault((row.method, row.seed), []).append(trial)
    for way, (floor, ratios, harmed) in WAYS.items():
        with (
            mock.patch.object(surrogate, "_FLOOR", floor),
            mock.patch.object(surrogate, "_RATIOS", ratios),
        ):
            for (method, seed), run in runs.items():
                if method not in METHODS or len(run) < FIRST[-1]:
                    continue
                others = [trial for key, r in runs.items() if key != (method, seed) for trial in r]
                unseen = [trial for trial in others if not trial.is_seed]
                for count in FIRST:
                    judged = _judge(ready, run[:count], unseen, harmed)
                    yield {"way": way, "task": task, **judged}


def _judge(
    ready: Scored,
    trained: Sequence[Trained],
    unseen: Sequence[Trained],
    harmed: bool,
) -> dict[str, float]:
    worst = -ready.plan.reference[0]
    known, wanted = (
        [t.known if harmed else replace(t.known, harm=0.0) for t in part]
        for part in (trained, unseen)
    )
    beliefs = Forecast(ready.plan, known, [-t.accuracy for t in trained], worst)(wanted)
    truth = np.minimum([-t.accuracy for t in unseen], worst)
    drawn = np.minimum([_draws(belief) for belief in beliefs], worst)
    middle = np.minimum([belief.median for belief in beliefs], worst)
    spread = np.abs(drawn[:, :, None] - drawn[:, None, :]).mean((1, 2))
    crps = np.abs(drawn - truth[:, None]).mean(1) - 0.5 * spread
    right = []
    for one, two in itertools.combinations(range(len(unseen)), 2):
        costs = (wanted[one].costs[0], wanted[two].costs[0])
        if abs(math.log(costs[0] / costs[1])) < 0.15 and abs(truth[one] - truth[two]) > 0.01:
            right.append((middle[one] < middle[two]) == (truth[one] < truth[two]))
    return {
        "error": float(np.abs(middle - truth).mean()),
        "CRPS": float(crps.mean()),
        "pairs": float(np.mean(right)),
    }


def _draws(belief: Belief) -> np.ndarray:
    return belief.floor + np.exp(belief.log_excess + belief.deviation * QUANTILES)


if __name__ == "__main__":
    main()
