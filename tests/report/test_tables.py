"""The tables of models on the page."""

from __future__ import annotations

import re
from dataclasses import replace

from synthetic_run import DEVICE
from views import config, measured, on_two, trial, view_of

from autoprune.budget import Confidence, Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import tables
from autoprune.store import (
    DenseReport,
    DenseTest,
    FoundRate,
    RateTrial,
    RetrainingSummary,
    Spread,
)


def test_every_member_and_baseline_has_a_row_with_its_verdict(view) -> None:
    source = tables.models(view)
    for record in (*view.members, *view.uniform):
        row = re.search(rf'<tr [^>]*id="trial-{record.number}">(.*?)</tr>', source).group(1)
        shown = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
        assert shown[7:10] == [
            f"{ms:.3f}" if ms < 1.0 else f"{ms:.2f}"
            for ms in (
                record.predicted.latency_ms,
                record.measured.latency_ms,
                record.measured.latency_p95_ms,
            )
        ]
        words = view.verdict(record).text.replace(" than dense", "")
        words = re.sub(r"^[\d.]+× ", "", words.replace("over the budget as measured: ", "over: "))
        assert shown[-1].replace("&gt;", ">") == words


def cells(row: str) -> list[str]:
    return [re.sub("(<[^>]*>)+", "|", c).strip("|") for c in re.findall(r"<td.*?</td>", row)]


def rows(page: str) -> list[list[str]]:
    body = page.partition("<tbody>")[2]
    return [cells(row) for row in re.findall(r"<tr.*?</tr>", body)]


COUNTS = {"params": 25, "macs": 100, "weight_bytes": 100}


def test_a_member_stands_beside_dense_with_its_share_and_verdict() -> None:
    predicted = Cost(**COUNTS, latency_ms=5.0, source="predicted", device=DEVICE)
    whole = Cost(params=100, macs=200, weight_bytes=400, latency_ms=9.0, device=DEVICE)
    record = trial(0, 0.89, 4.0, predicted=predicted)
    view = view_of(record, dense=DenseReport({"accuracy": 0.9}, whole, measured(10.0)))
    page = tables.models(view)
    assert rows(page) == [
        ["dense", "90.00 %", "", "100", "200", "400 B", "9.00", "10.0", "–", "1.00×", ""],
        [
            *("trial 0|recommended|knee", "89.00 %", "−1.00 pt", "25", "100", "100 B"),
            *("5.00", "4.00", "–", "2.50×", "faster, measured"),
        ],
    ]
    assert 'title="25 %">25<' in page
    assert 'title="50 %">100<' in page
    assert 'class="l full verdict good"' in page


def test_without_any_predicted_latency_there_is_no_column_of_it() -> None:
    record = trial(0, 0.89, 4.0, predicted=Cost(**COUNTS))
    dense = DenseReport({"accuracy": 0.9}, Cost(params=100, macs=200), measured(10.0))
    page = tables.models(view_of(record, dense=dense))
    assert "predicted" not in page
    assert rows(page)[1][6:] == ["4.00", "–", "2.50×", "faster, measured"]
    heads = [row.count("<th") for row in re.findall(r"<tr>.*?</tr>", page.partition("<tbody>")[0])]
    assert heads[1] == len(rows(page)[1])


def test_bytes_of_the_file_have_a_column_where_they_are_a_limit_or_an_objective() -> None:
    predicted = Cost(**COUNTS, latency_ms=5.0, source="predicted", device=DEVICE, file_bytes=70)
    records = (
        trial(0, 0.89, 4.0, predicted=predicted),
        trial(1, 0.8, 3.0, predicted=predicted, origin="baseline:uniform-0"),
    )
    records = tuple(
        replace(r, measured=replace(r.measured, file_bytes=80 - 20 * r.number)) for r in records
    )
    whole = DenseReport({"accuracy": 0.9}, Cost(**COUNTS), measured(10.0, file_bytes=160))
    view = view_of(*records, dense=whole, budget={"file_bytes": "50%"})
    page = tables.models(view)
    # as measured, like the front, where the prediction is 70 for both
    assert {row[0].partition("|")[0]: row[6] for row in rows(page)} == {
        "dense": "160 B",
        "trial 1": "60 B",
        "trial 0": "80 B",
    }
    assert 'title="50 %">80 B' in page
    assert "File: compressed, as measured." in page
    both = config({"file_bytes": "50%"}, space={"precision": ["float32", "int8"]})
    page = tables.models(replace(view, config=both))
    assert "File: compressed, of int8 models ONNX, as measured." in page
    assert ">file</th>" not in tables.models(view_of(*records, dense=whole))
    objectives = (Objective("accuracy", "maximize"), Objective("file_bytes"))
    searched = replace(view, config=config({"latency_ms": "80%"}))
    assert ">file</th>" not in tables.models(searched)
    front = ParetoFront(objectives, records, source="predicted")
    page = tables.models(replace(searched, front=front))
    assert rows(page)[1][6] == "70 B"
    assert "File: compressed, as predicted." in page


def test_peak_memory_has_a_column_likewise() -> None:
    predicted = Cost(**COUNTS, latency_ms=5.0, source="predicted", device=DEVICE)
    predicted = replace(predicted, peak_memory_bytes=70)
    record = trial(0, 0.89, 4.0, predicted=predicted)
    record = replace(record, measured=replace(record.measured, peak_memory_bytes=80))
    whole = DenseReport({"accuracy": 0.9}, Cost(**COUNTS), measured(10.0))
    view = view_of(record, dense=whole, budget={"peak_memory_bytes": 100})
    page = tables.models(view)
    assert ">peak memory</th>" in page
    assert rows(page)[1][6] == "80 B"
    assert "Peak memory: as measured." in page
    assert ">peak memory</th>" not in tables.models(view_of(record, dense=whole))


def test_baselines_that_are_not_on_the_front_are_under_their_own_head() -> None:
    records = (
        trial(0, 0.9, 5.0),
        trial(1, 0.6, 6.0, origin="baseline:uniform-0"),
        trial(2, 0.5, 4.0, origin="baseline:random-0"),
    )
    page = tables.models(view_of(*records))
    # the random one is on the front: it is cheaper
    assert [row[0] for row in rows(page)][1:3] == ["trial 2|random", "trial 0|recommended|knee"]
    assert rows(page)[3][0].startswith("Baselines with the same recovery")
    assert [row[0] for row in rows(page)[4:]] == ["uniform, trial 1"]


def test_a_model_over_the_budget_says_so_in_few_words() -> None:
    """The limit is 80 % of 10 ms; the ratio that was measured in turns counts."""
    sure = Confidence((8.3, 8.5), ratio=0.84)
    slow = trial(0, 0.9, None, measured=measured(8.4, confidence=sure))
    page = tables.models(view_of(slow))
    assert rows(page)[1][-1] == "over: 84 % &gt; 80 %"
    assert 'title="over the budget as measured: 8.40 ms, 84 % of dense &gt; 80 %"' in page
    assert "Over: above a limit of the budget as measured." in page
    absolute = tables.models(view_of(slow, budget={"latency_ms": 8.0}))
    assert rows(absolute)[1][-1] == "over: 8.40 ms &gt; 8.00 ms"
    assert "Over:" not in tables.models(view_of(trial(0, 0.9, 4.0)))


def test_the_verdict_has_a_line_for_each_device() -> None:
    record = trial(0, 0.9, None, measured=on_two(5.0, 2.0, "measured"))
    dense = DenseReport({"accuracy": 0.9}, None, on_two(10.0, 3.0, "measured"))
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    front = ParetoFront(objectives, (record,), source="measured")
    view = replace(view_of(record, dense=dense), front=front)
    view = replace(view, devices={"phone": None, "server": None})
    assert rows(tables.models(view))[1][-1] == (
        "faster on phone, measured|faster on server, measured"
    )


def test_the_difference_to_uniform_is_named_with_its_cost() -> None:
    uniform = [
        trial(n, accuracy, ms, origin=f"baseline:uniform-{n}")
        for n, (accuracy, ms) in enumerate(((0.6, 2.0), (0.8, 6.0)))
    ]
    page = tables.models(view_of(*uniform, trial(2, 0.75, 4.0)))
    # halfway between 0.6 and 0.8
    row = next(row for row in rows(page) if row[0].startswith("trial 2"))
    assert row[3] == "+5.00 pt"
    assert "To uniform: the difference to uniform pruning at equal measured latency" in page
    assert "o uniform" not in tables.models(view_of(trial(2, 0.75, 4.0)))  # neither note nor column


def test_a_device_that_was_not_there_is_named_once() -> None:
    costs = {
        "predicted": on_two(4.0, 3.0, "predicted"),
        "measured": on_two(None, 2.0, "measured"),
    }
    record = trial(0, 0.9, None, **costs)
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    front = ParetoFront(objectives, (record,), source="measured", predicted_only=("phone",))
    view = replace(view_of(record), front=front, devices={"phone": None, "server": None})
    page = tables.models(view)
    assert " phone is another machine than the one of the search: latency predicted only." in page
    assert "phone|server" in [cell for row in rows(page) for cell in row]
    assert 'class="cards several"' in page


def test_a_retrained_model_has_its_spread_and_its_speed() -> None:
    record = trial(7, 0.9, 4.0)
    done = RetrainingSummary(
        7,
        record.candidate,
        20.0,
        (0, 2),
        {"accuracy": Spread(0.91, 0.002), "f<1": Spread(0.5)},
        dense=DenseTest({"accuracy": 0.92}, measured(10.0)),
        measured=measured(4.0, confidence=Confidence((3.9, 4.1), ratio=0.5)),
    )
    view = replace(view_of(record), retrained=(done,))
    assert rows(tables.retrained(view)) == [
        [
            *("trial 7", "20", "seeds 0, 2", "accuracy 91.00 ± 0.20 %|f&lt;1 0.5"),
            *("accuracy 92.00 %", "−1.00 pt", "4.00 ms (2.00×) |±2.5 %"),
        ]
    ]
    assert "are trained for these epochs on top; the dense model is as" in tables.retrained(view)
    unknown = replace(done, test={}, dense=DenseTest(), measured=None)
    assert rows(tables.retrained(replace(view, retrained=(unknown,)))) == [
        ["trial 7", "20", "seeds 0, 2", "–", "–", "–", "–"]
    ]
    alone = replace(unknown, seeds=(0,))
    assert rows(tables.retrained(replace(view, retrained=(alone,))))[0][2] == "seed 0"
    assert tables.retrained(view_of(record)) == ""


def test_rates_that_were_tried_are_said() -> None:
    record = trial(7, 0.9, 4.0)
    tried = (RateTrial(0.5, 0.01, 2.0, 0.85), RateTrial(2.0, 0.04, 2.0, None))
    done = RetrainingSummary(7, record.candidate, 20.0, (0,), {}, found_rate=FoundRate(0.01, tried))
    page = tables.retrained(replace(view_of(record), retrained=(done,)))
    assert (
        "Learning rates tried for trial 7, with accuracy on validation: 0.01 for 2 epochs: "
        "85.00 %, 0.04 for 2 epochs: diverged; taken was 0.01."
    ) in page
    assert "Learning rates tried" not in tables.retrained(
        replace(view_of(record), retrained=(replace(done, found_rate=None),))
    )


def test_a_smaller_dense_model_is_among_the_baselines() -> None:
    small = trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)
    found = rows(tables.models(view_of(trial(0, 0.9, 5.0), smaller=(small,))))
    assert "smaller dense models" in found[2][0]
    assert (found[3][0], found[3][1]) == ("smaller, net-20", "70.00 %")
