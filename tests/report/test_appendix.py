"""The end of the page: what the search cost, why trials failed, how to repeat it."""

from __future__ import annotations

import re
from dataclasses import replace

from synthetic_run import DEVICE
from views import measured, trial, view_of

from autoprune.report import appendix
from autoprune.store import ProfileSummary


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def test_the_cost_of_a_search_counts_what_it_trained_itself() -> None:
    records = (
        trial(0, 0.9, 5.0, epochs=2.0, times={"train_s": 90.0}),
        trial(1, 0.8, 4.0, epochs=1.0, origin="baseline:uniform-0", times={"train_s": 30.0}),
        trial(2, 0.7, None, epochs=5.0, origin="from_run:3 tpe", times={"train_s": 7.0}),
        trial(3, 0.0, None, state="failed", metrics={}, error="out of memory"),
    )
    view = replace(view_of(*records, ended_by="4 trials"), wall_s=75.0)
    found = facts(appendix.search(view, {}))
    assert found == {
        "trials": "2: 1 complete, 1 failed",
        "baselines": "1 (1 epochs)",
        "of an earlier run": "1",
        "training epochs": "3",
        "wall time": "1 min 15 s",
        "ended by": "4 trials",
        "train, all trials": "2 min 0 s",
    }


def test_the_bar_has_a_part_for_each_state() -> None:
    failed = [trial(n, 0.0, None, state="failed", metrics={}) for n in (1, 2)]
    page = appendix.search(view_of(trial(0, 0.9, 5.0), *failed), {"hypervolume": {}})
    assert re.findall(r'class="s-(\w+)" style="flex:(\d)"', page) == [
        ("complete", "1"),
        ("failed", "2"),
    ]
    assert 'data-figure="hypervolume"' in page


def test_without_a_trial_nothing_is_counted() -> None:
    found = facts(appendix.search(view_of(), {}))
    assert found == {"trials": "none yet", "training epochs": "0", "wall time": "–"}


def test_the_hypervolume_is_said_with_its_reference() -> None:
    view = view_of(trial(0, 0.5, 6.0))
    view = replace(view, front=replace(view.front, reference=(0.0, 10.0)))
    assert facts(appendix.search(view, {}))["hypervolume"] == "2 (reference 0, 10)"  # 0.5 x 4


def test_reasons_of_failures_are_open_and_those_of_the_budget_folded() -> None:
    failed = trial(
        1, 0, None, state="failed", metrics={}, error="Traceback (most recent\nOOM: <no> memory"
    )
    unfit = trial(2, 0, None, state="infeasible", metrics={}, error="macs 9 over 5")
    slow = trial(3, 0.9, 9.0)  # 8 ms are allowed
    page = appendix.search(view_of(trial(0, 0.9, 5.0), failed, unfit, slow), {})
    blocks = re.findall(r"<details( open)?><summary>(.*?)</summary>(.*?)</details>", page)
    assert [(state, title) for state, title, _ in blocks] == [
        (" open", "Failed trials (1)"),
        ("", "Within the budget as predicted, over it as measured (1)"),
        ("", "Over budget as predicted, never trained (1)"),
    ]
    rows = [re.findall(r'<td class="l(?: wrap)?">(.*?)</td>', block) for *_, block in blocks]
    assert rows == [
        ["trial 1", "OOM: &lt;no&gt; memory"],
        ["trial 3", "9.00 ms &gt; 8.00 ms · accuracy 90.00 %"],
        ["trial 2", "macs 9 over 5"],
    ]
    assert "<details" not in appendix.search(view_of(trial(0, 0.9, 5.0)), {})


def test_everything_needed_to_repeat_a_run_is_there() -> None:
    view = replace(
        view_of(trial(0, 0.9, 5.0, measured=measured(5.0))),
        environment={"torch": "2.9", "cpu": {"name": "<x>", "cores": 2}},
        devices={"phone": ProfileSummary(DEVICE, 0.05, facts={"error": 0.05}), "lost": None},
    )
    page = appendix.details(view)
    assert re.findall(r"<summary>(.*?)</summary>", page) == [
        "Configuration",
        "Environment and versions",
        "Device profile: phone",
    ]
    assert "budget:\n  latency_ms: 80%" in page
    found = facts(page)
    assert found["cpu.name"] == "&lt;x&gt;"
    assert (found["name"], found["threads"], found["error"]) == (DEVICE.name, "1", "0.05")


def test_the_foot_names_the_version() -> None:
    foot = appendix.foot(replace(view_of(), environment={"autoprune": "1.2<3"}))
    assert foot.startswith("<footer>Written by autoprune 1.2&lt;3. ")
    assert "<noscript>" in foot


def test_smaller_dense_models_are_counted_apart() -> None:
    small = trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)
    failed = trial(-2, 0.0, None, state="failed", metrics={}, origin="baseline:smaller lost")
    view = view_of(trial(0, 0.9, 5.0, epochs=1.0), smaller=(small, replace(failed, error="why")))
    page = appendix.search(view, {})
    assert facts(page)["training epochs"] == "1"
    assert facts(page)["smaller dense models"] == "2 (2 epochs on top)"
    assert "Failed trials (1)" in page
    assert '<td class="l">lost</td>' in page
