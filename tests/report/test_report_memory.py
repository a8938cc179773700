"""The table of peak memory."""

from __future__ import annotations

import re
from dataclasses import replace

from synthetic_run import DEVICE, make_run
from views import measured, on_two, trial, view_of

from autoprune.budget import Confidence, Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import html, memory
from autoprune.report.read import read
from autoprune.store import DenseReport


def test_peak_memory_of_several_devices_says_whose_it_is() -> None:
    sure = {"phone": Confidence((3.9, 4.1)), "server": Confidence((1.8, 2.2))}
    taken = replace(on_two(4.0, 2.0, "measured", sure), peak_memory_bytes=2_000_000)
    record = trial(0, 0.8, None, measured=taken)
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    view = replace(
        view_of(record),
        front=ParetoFront(objectives, (record,), source="measured"),
        devices={"phone": None, "server": None},
    )
    assert f"in {DEVICE.runtime} (of the one that takes most)" in memory.memory(view)
    assert "2.00 MB" in memory.memory(view)
    untold = replace(record, measured=replace(taken, peak_memory_bytes=None))
    front = ParetoFront(objectives, (untold,), source="measured")
    assert memory.memory(replace(view, front=front)) == ""


def test_measured_peak_memory_stands_beside_the_counted_one(tmp_path) -> None:
    run = make_run(tmp_path / "run")
    assert "Peak memory</h2>" not in html.page(read(run))  # nothing says that it was measured
    record = read(run).members[0]
    cost = replace(record.measured, peak_memory_bytes=2_000_000, confidence=Confidence((1.0, 1.0)))
    believed = replace(record.predicted, peak_memory_bytes=1_900_000)
    run.append(replace(record, predicted=believed, measured=cost))
    page = html.page(read(run))
    row = page[page.index("Peak memory</h2>") :].partition(f"trial {record.number}<")[2]
    assert re.findall(r">([^<]+)</td>", row)[1:4] == ["1.90 MB", "2.00 MB", "95 %"]


def test_a_row_for_dense_and_each_member() -> None:
    sure = Confidence((4.0, 4.0))
    record = trial(
        0,
        0.9,
        None,
        predicted=Cost(macs=1, weight_bytes=1000, peak_memory_bytes=3000),
        measured=measured(4.0, confidence=sure, peak_memory_bytes=4000),
    )
    dense = DenseReport({}, Cost(weight_bytes=8000), measured(9.0, confidence=sure))
    page = memory.memory(view_of(record, dense=dense))
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", page)]
    assert rows[1:] == [
        ["dense", "8.00 kB", "–", "–", "–"],
        ["trial 0", "1.00 kB", "3.00 kB", "4.00 kB", "75 %"],
    ]
    assert f" forward pass in {DEVICE.runtime}, at the batch" in page
    assert ">counted peak<" in page
    limited = memory.memory(view_of(record, dense=dense, budget={"peak_memory_bytes": "50%"}))
    assert ">predicted peak<" in limited
    assert "held against the limit" in limited
