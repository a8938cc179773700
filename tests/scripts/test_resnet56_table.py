"""ResNet-56: our rows among the published ones, and the folders of its runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest

from scripts.benchmarks.resnet56 import __main__ as resnet56
from scripts.benchmarks.resnet56.__main__ import run_folder
from scripts.benchmarks.resnet56.table import PUBLISHED, summary


def test_our_rows_stand_among_the_published_ones_by_speed_up() -> None:
    shared = {
        **{"cost": "macs", "wanted": 2.5, "dense_epochs": 0, "epochs": 20.0, "trials": 16},
        **{"search_epochs": 1.0, "macs_speedup": 2.5, "latency_speedup": 2.0, "dropped": 3},
        **{"dense_test": 0.94, "reused": 12},
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
    assert (ours.seeds, ours.trials, ours.reused) == (2, 16, 12)


def arguments(**other: object) -> Namespace:
    usual: dict[str, object] = {
        **{"cost": "macs", "dense_epochs": None, "trials": 16, "search_epochs": 1.0},
        **{"epochs": 20.0, "device": "cpu"},
    }
    return Namespace(**usual | other)


def test_runs_with_other_arguments_have_other_folders() -> None:
    others = [
        *(arguments(cost="latency_ms"), arguments(dense_epochs=40), arguments(trials=40)),
        *(arguments(search_epochs=2.0), arguments(epochs=60.0), arguments(device="cuda")),
    ]
    folders = [run_folder(given, 2.5) for given in (arguments(), *others)]
    folders += [run_folder(arguments(), 3.0), run_folder(arguments(), 3.0, 2.5)]
    assert len(set(folders)) == len(folders) == 9
    assert run_folder(arguments(), 2.5) == folders[0]


def test_later_searches_reuse_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[tuple[Path, Path | None]] = []
    monkeypatch.setattr(
        resnet56, "search", lambda run, earlier, *_: searches.append((run, earlier))
    )
    monkeypatch.setattr(resnet56, "retrained", lambda *_: [])
    monkeypatch.setattr(resnet56.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("sys.argv", [str(resnet56.__file__), "--speedups", "2", "3", "4"])
    resnet56.main()
    first = searches[0][0]
    assert [earlier for _, earlier in searches] == [None, first, first]
    assert [run.name.endswith("-after-2") for run, _ in searches] == [False, True, True]
