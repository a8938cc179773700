"""Which forecast foresees trained accuracies best, from the first trials of a search.

    AUTOPRUNE_DATA=... python scripts/bench_forecast.py     # from the rows on disk, 5 minutes

For every search of the method `autoprune` in `results/bench/search/trials.csv` the forecast is
fitted to its first 6, 8, 10 and 12 trials, and asked for those trials of all other searches on that
task that were not seeds. By how much the scale bends: its floor lies so far below the best metric,
over the range that counts (a large one is the metric itself, with errors of equal size everywhere);
and by the prior weight of the ratios. CRPS: continuous ranked probability score, in accuracy;
accuracies below the reference count as the reference. Pairs: of about equal cost (15 %) and more
than one point apart, how many are put in the right order. Writes
`results/bench/search/forecast.md`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from bench_search.scored import Scored, scored
from scipy.special import ndtri

from autoprune.candidate import Candidate
from autoprune.search import surrogate
from autoprune.search.surrogate import Belief, Forecast, Known

RESULTS = Path(__file__).parents[1] / "results" / "bench" / "search"
OUT = RESULTS / "forecast.md"
FLOORS, RATIOS = (0.005, 0.02, 0.1, 100.0), (0.5, 1e-6)
FIRST = (6, 8, 10, 12)
QUANTILES = ndtri((np.arange(40) + 0.5) / 40)


def main() -> None:
    torch.set_num_threads(1)
    rows = pd.read_csv(RESULTS / "trials.csv")
    rows = rows[rows.method.str.startswith("autoprune") & rows.counted]
    found = [row for task, part in rows.groupby("task", sort=False) for row in _task(task, part)]
    table = pd.DataFrame(found).groupby(["floor", "ratios", "task"], sort=False).mean()
    wide = table.unstack("task")
    wide.columns = [f"{task}: {what}" for what, task in wide.columns]
    text = (
        f"# Forecasts\n\n`python scripts/bench_forecast.py`; the search uses floor "
        f"{surrogate._FLOOR:g} and ratios {surrogate._RATIOS:g}. torch {version('torch')}, "
        f"scikit-learn {version('scikit-learn')}; {date.today().isoformat()}.\n\n"
        f"{wide[sorted(wide.columns)].to_markdown(floatfmt='.4f')}\n"
    )
    OUT.write_text(text, encoding="utf-8")
    print(text)


def _task(task: str, rows: pd.DataFrame) -> Iterable[dict[str, object]]:
    ready = scored(task)
    score = ready.score()
    known: dict[str, Known] = {}
    runs: dict[tuple[str, int], list[tuple[Known, float, bool]]] = {}
    for row in rows.sort_values("trial").itertuples():
        candidate = Candidate.from_dict(json.loads(row.candidate))
        if candidate.key not in known:
            macs = ready.plan.cost(candidate).get("macs")
            known[candidate.key] = Known(candidate, score(candidate), (macs,))
        trial = (known[candidate.key], float(row.val_accuracy), row.origin.startswith("seed:"))
        runs.setdefault((row.method, row.seed), []).append(trial)
    for floor, ratios in itertools.product(FLOORS, RATIOS):
        with (
            mock.patch.object(surrogate, "_FLOOR", floor),
            mock.patch.object(surrogate, "_RATIOS", ratios),
        ):
            for (method, seed), run in runs.items():
                if method != "autoprune":
                    continue
                others = [r for key, r in runs.items() if key != (method, seed)]
                unseen = [t for r in others for t in r if not t[2]]
                for count in FIRST:
                    judged = _judge(ready, run[:count], unseen)
                    yield {"floor": floor, "ratios": round(ratios, 3), "task": task, **judged}


def _judge(
    ready: Scored,
    trained: Sequence[tuple[Known, float, bool]],
    unseen: Sequence[tuple[Known, float, bool]],
) -> dict[str, float]:
    worst = -ready.plan.reference[0]
    targets = [-accuracy for _, accuracy, _ in trained]
    beliefs = Forecast(ready.plan, [k for k, *_ in trained], targets, worst)(
        [k for k, *_ in unseen]
    )
    truth = np.minimum([-accuracy for _, accuracy, _ in unseen], worst)
    drawn = np.minimum([_draws(belief) for belief in beliefs], worst)
    middle = np.minimum([belief.median for belief in beliefs], worst)
    spread = np.abs(drawn[:, :, None] - drawn[:, None, :]).mean((1, 2))
    crps = np.abs(drawn - truth[:, None]).mean(1) - 0.5 * spread
    right = []
    for one, two in itertools.combinations(range(len(unseen)), 2):
        costs = (unseen[one][0].costs[0], unseen[two][0].costs[0])
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
