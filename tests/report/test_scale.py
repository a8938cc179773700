"""A run of ten thousand trials, a thousand of them on the front: shown, reported, gone on with."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from synthetic_run import SIZES, make_run, network_of

from autoprune.report import html, terminal
from autoprune.report.read import read
from autoprune.store import FrontReport, RunFolder

TRIALS, FRONT = 10_000, 1_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("large") / "run")
    known, found = run.records(), run.front()
    assert found is not None
    pattern = [record for record in known if record.state == "complete"]
    lines, members = [], []
    for number in range(TRIALS):
        made = replace(pattern[number % len(pattern)], number=number, artifact=None, origin="tpe")
        share = number / FRONT if number < FRONT else 1.5
        cost = replace(made.measured or made.predicted, latency_ms=0.3 + share, confidence=None)
        metrics = {**made.metrics, "accuracy": 0.5 + 0.3 * min(share, 0.9 * share)}
        made = replace(made, measured=cost, predicted=cost, metrics=metrics)
        lines.append(json.dumps(made.to_dict()))
        members += [made] if number < FRONT else []
    (run.path / "records.jsonl").write_text("\n".join(lines) + "\n")
    run.save_front(FrontReport(replace(found.front, records=tuple(members))))
    run.save_network(network_of(SIZES, members))
    return run


@pytest.mark.slow
def test_a_large_run_is_shown_and_its_report_stays_small(large: RunFolder) -> None:
    view = read(large)
    assert (len(view.records), len(view.members)) == (TRIALS, FRONT)
    text = io.StringIO()
    Console(file=text, width=140).print(terminal.show(view))
    assert text.getvalue().count("\n") > FRONT
    path = html.write(large)
    assert path.stat().st_size < 3_000_000
