from __future__ import annotations

from dataclasses import replace

import numpy as np
import views
from synthetic_run import CONFIG, ENVIRONMENT, make_run, record
from views import line_of, text_of

from autoprune._search.state.progress import Snapshot
from autoprune.budget import Confidence
from autoprune.pareto import Objective
from autoprune.report import html, live, summary, terminal, trial
from autoprune.report.data import RunView
from autoprune.report.read import read
from autoprune.store import RunFolder, RunState


def test_front_table_keeps_predicted_and_measured_apart(view) -> None:
    text = text_of(terminal.front_table(view))
    member = view.members[0]
    row = line_of(text, f"{member.number} ")
    expected = [
        f"{member.predicted.latency_ms:.3f}",
        f"{member.measured.latency_ms:.3f}",
        f"{member.measured.latency_p95_ms:.3f}",
        f"{1.42 / member.measured.latency_ms:.2f}×",
    ]
    assert row[-4:] == expected
    assert line_of(text, "dense")[-4:] == ["1.40", "1.42", "1.55", "1.00×"]
    assert "onnxruntime, float32, batch 1, 1 thread" in text


def test_front_table_fits_eighty_columns(view) -> None:
    text = text_of(terminal.front_table(view), width=80)
    assert "…" not in text
    assert line_of(text, "dense")[-4:] == ["1.40", "1.42", "1.55", "1.00×"]


def with_confidence(run: RunFolder, number: int, sure: Confidence) -> RunView:
    """The run as it is read when that trial's measurement is known so well."""
    view = read(run)
    record = next(r for r in view.records if r.number == number)
    cost = replace(record.measured, confidence=sure)
    run.append(replace(record, measured=cost))
    return read(run)


def test_a_noisy_measurement_is_flagged_with_its_figures(tmp_path) -> None:
    run = make_run(tmp_path / "run")
    number = read(run).members[0].number
    assert "noisy" not in text_of(terminal.front_table(read(run)))
    sure = Confidence((0.9, 1.1), 0.5, (0.4, 0.6), 0.39, 0.8)
    view = with_confidence(run, number, sure)
    text = text_of(terminal.front_table(view), width=80)
    row = line_of(text, f"{number} ")
    assert row[-3].startswith("~")
    assert row[-1] == "2.00×"  # the ratio in turns, not the quotient of the medians
    assert "~ noisy measurement" in text
    detail = text_of(trial.trial(view, number))
    assert "±10 %" in detail
    assert "noisy: spread 39%, other programs on 80% of the cores" in detail
    page = html.page(view)
    assert page.count("±10 %") == 1  # once, not in every cell
    assert page.count("for example: spread 39%") == 1


def test_summary_counts_every_state(view) -> None:
    text = text_of(terminal.summary(view))
    for state, count in view.own_states.items():
        assert f"{count} {state}" in text
    assert f"{view.states['infeasible']} proposal" in text
    front = view.front
    assert f"{len(view.members)} models as measured, knee trial {front.knee.number}" in text
    assert f"hypervolume {front.hypervolume:.4g} (accuracy × latency_ms)" in " ".join(text.split())


def test_baselines_and_gaps_in_the_numbers_are_explained() -> None:
    mine, theirs = views.trial(0, 0.9, 5.0), views.trial(1, 0.9, 4.0, origin="baseline:uniform")
    text = text_of(terminal.show(views.view_of(mine, replace(theirs, epochs=2.5))), width=200)
    assert "trials  1: 1 complete  ·  baselines 1 (2.5 epochs)  ·  " in text
    assert "numbered by proposal" not in text
    text = text_of(terminal.show(views.view_of(mine, views.trial(115, 0.9, 4.0))), width=200)
    assert "baselines" not in text
    assert "trials are numbered by proposal, also by those not trained" in text


def test_models_over_budget_as_measured_are_counted_apart(view) -> None:
    text = text_of(terminal.summary(replace(view, over={1: {"macs": 0.1}})), width=200)
    assert f"{view.own_states['complete']} complete (1 over budget as measured), " in text
    assert "over budget as predicted, not trained" in text
    assert "budget as measured" not in text_of(terminal.summary(view))


def test_bytes_of_the_file_have_a_column_where_they_are_limited(tmp_path) -> None:
    run = make_run(tmp_path / "run", budget={"file_bytes": 200_000, "macs": "50%"})
    member = read(run).members[0]
    run.append(replace(member, measured=replace(member.measured, file_bytes=45_600)))
    text = text_of(terminal.front_table(read(run)), width=80)
    assert "…" not in text
    assert line_of(text, f"{member.number} ")[-6:-4] == ["45.6", "kB"]
    assert line_of(text, "dense")[-5] == "–"  # it has not been determined
    assert "File: compressed, as measured" in text
    assert "file" not in text_of(terminal.front_table(read(make_run(tmp_path / "other"))))


def test_without_any_predicted_latency_there_is_no_column_of_it() -> None:
    record = views.trial(0, 0.9, 4.0, predicted=None)
    text = text_of(terminal.front_table(views.view_of(record)))
    assert "predicted" not in text.partition("Latency")[0]
    assert line_of(text, "0 ")[-3:] == ["4.00", "–", "2.50×"]
    assert "predicted" in text_of(terminal.front_table(views.view_of(views.trial(0, 0.9, 4.0))))


def test_a_baseline_over_the_budget_is_marked() -> None:
    # the limit is 80 % of 10 ms; the baseline has a worse metric than the model of the front
    model = views.trial(0, 0.9, 4.0)
    slow, fast = (
        views.trial(n, 0.8, ms, origin=f"baseline:uniform-{n}") for n, ms in ((1, 9.0), (2, 7.0))
    )
    text = text_of(terminal.front_table(views.view_of(model, slow, fast)))
    assert line_of(text, "1 ")[:3] == ["1", "▫", "✗"]
    assert line_of(text, "2 ")[:3] == ["2", "▫", "80.00"]
    assert "· ✗ over budget as measured" in text
    assert "✗" not in text_of(terminal.front_table(views.view_of(model, fast)))


def test_show_says_why_a_trial_failed_and_what_was_retrained(view) -> None:
    text = text_of(terminal.show(view))
    assert "trial 11 failed: TrainingError: loss became nan in epoch 1" in text
    assert "91.12 ± 0.11 %" in text
    assert line_of(text, "trial 43")[2:6] == ["20", "seeds", "0,", "1,"]


def test_runs_without_a_front_or_a_trial_can_be_shown(tmp_path) -> None:
    going_on = text_of(terminal.show(read(make_run(tmp_path / "a", finished=False))))
    assert "models so far" in going_on
    assert "not measured yet" in going_on
    empty = text_of(terminal.show(read(RunFolder.create(tmp_path / "b", CONFIG, ENVIRONMENT))))
    assert "no finished model yet" in empty
    assert "neither predicted nor measured" in empty


def test_task_name_with_markup_is_shown_as_it_is(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=6, task="jobs.py:[bold]Odd[/bold]")
    assert "jobs.py:[bold]Odd[/bold]" in text_of(terminal.summary(read(run)))


def test_metric_name_with_markup_is_shown_as_it_is(tmp_path) -> None:
    run, name = make_run(tmp_path / "run", trials=0, finished=False), "[/odd] f1"
    objectives = (Objective(name, "maximize"), Objective("latency_ms"))
    run.save_plan(replace(run.plan(), objectives=objectives, reference=(0.0, 10.0)))
    source = record(np.random.default_rng(0), 0)
    history = ({"epoch": 1.0, name: 0.5},)
    run.append(replace(source, metrics={name: 0.5}, history=history))
    view = read(run)
    assert name in text_of(terminal.show(view)).replace("\n", " ")
    assert name in text_of(trial.trial(view, 0))
    assert name in text_of(live.panel(Snapshot("search", front=({"trial": 0, name: 0.5},))))


def test_a_front_that_could_not_be_measured_says_why(tmp_path) -> None:
    run = make_run(tmp_path / "demo")
    why = "ssh://pi@cam was lost: <the> connection broke off"
    run.save_front(replace(run.front(), not_measured=why))
    run.save_state(RunState("verify", 1.0))
    text = text_of(terminal.show(read(run)))
    assert f"not measured: {why}" in text
    assert "measure it with: autoprune resume" in text
    page = summary.head(read(run))
    assert "could not be measured: ssh://pi@cam was lost: &lt;the&gt; connection" in page
    assert "in progress" not in page


def test_a_smaller_dense_model_stands_below_the_front_by_its_name() -> None:
    small = views.trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)
    failed = views.trial(-2, 0.0, None, state="failed", metrics={}, origin="baseline:smaller lost")
    failed = replace(failed, error="RuntimeError: no data")
    view = views.view_of(views.trial(0, 0.9, 5.0), smaller=(small, failed))
    text = text_of(terminal.show(view))
    assert line_of(text, "net-20 ◊")[:6] == ["net-20", "◊", "70.00", "%", "−20.00", "pt"]
    assert line_of(text, "net-20 ◊")[-1] == "3.33×"  # 10 ms of dense over 3 ms
    assert "◊ smaller dense model" in text
    assert "lost failed: RuntimeError: no data" in text
    assert "◊" not in text_of(terminal.front_table(views.view_of(views.trial(0, 0.9, 5.0))))
