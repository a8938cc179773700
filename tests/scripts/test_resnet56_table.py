"""The table of ResNet-56: our rows among the published ones."""

from __future__ import annotations

import pandas as pd
import pytest

from scripts.benchmarks.resnet56.table import PUBLISHED, summary


def test_our_rows_stand_among_the_published_ones_by_speed_up() -> None:
    shared = {
        **{"cost": "macs", "wanted": 2.5, "dense_epochs": 0, "epochs": 20.0, "trials": 16},
        **{"search_epochs": 1.0, "macs_speedup": 2.5, "latency_speedup": 2.0, "dropped": 3},
        "dense_test": 0.94,
    }
    rows = pd.DataFrame([{**shared, "seed": 0, "test": 0.93}, {**shared, "seed": 1, "test": 0.92}])
    found = summary(rows).reset_index(drop=True)
    assert len(found) == len(PUBLISHED) + 1
    place = int(found.index[found.method == "autoprune, 2.5 x macs wanted"][0])
    assert found.macs[place - 1] == 2.27
    assert found.macs[place + 1] == 2.57
    ours = found.loc[place]
    assert ours.test == "92.50 ± 0.71"
    assert ours.difference == pytest.approx(-1.5)
    assert ours.seeds == 2
