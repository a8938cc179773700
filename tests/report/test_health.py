"""Doubts about a run: found where they are, and only there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import config, measured, trial, view_of

from autoprune.budget import Confidence, Cost, Timing
from autoprune.candidate import Recovery
from autoprune.pareto import Objective, ParetoFront
from autoprune.report.health import findings
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import (
    DenseReport,
    DenseTest,
    LayerCosts,
    LayerInfo,
    Network,
    RetrainingSummary,
    SearchPlan,
    Spread,
)

DENSE = DenseReport({"accuracy": 0.9}, Cost(macs=200), measured(10.0))


def words(view) -> list[str]:
    return [finding.text for finding in findings(view)]


def predicted(latency: float, macs: int = 100) -> Cost:
    return Cost(macs=macs, latency_ms=latency, source="predicted", device=DEVICE)


def test_a_good_run_has_none() -> None:
    view = view_of(trial(0, 0.899, 5.0), trial(1, 0.85, 4.9, predicted=predicted(4.9)))
    assert words(view) == []


@pytest.mark.parametrize(("constant", "count"), [(0.89, 1), (0.5, 0)])
def test_a_dense_model_that_has_learned_nothing_is_bad(constant: float, count: int) -> None:
    # of 100 samples the standard error of 0.89 is 3.1 pt
    dense = replace(DENSE, samples=100, constant={"accuracy": constant})
    found = [f for f in findings(view_of(trial(0, 0.899, 5.0), dense=dense)) if f.level == "bad"]
    assert [f.text for f in found] == [
        "The dense model is hardly better than a constant output: accuracy 90.00 % and 89.00 % on "
        "validation data."
    ] * count


def test_no_model_within_the_loss() -> None:
    (found,) = words(view_of(trial(0, 0.88, 5.0)))
    assert found == (
        "No model of the front has accuracy ≥ 89.10 % (dense less 1 % of it): the nearest, trial "
        "0, has accuracy 88.00 %."
    )


def retrained_to(accuracy: float) -> RetrainingSummary:
    reached = {"accuracy": Spread(accuracy, 0.01)}
    return RetrainingSummary(0, {}, 20.0, (0,), reached, validation=reached)


def test_after_a_retraining_its_metric_counts() -> None:
    view = view_of(trial(0, 0.88, 5.0))
    (short,) = findings(replace(view, retrained=(retrained_to(0.885),)))
    assert short.text.endswith(
        "has accuracy 88.00 %, and accuracy 88.50 % after 20 epochs of retraining."
    )
    assert short.remedy.startswith("a longer retraining")
    assert not findings(replace(view, retrained=(retrained_to(0.895),)))
    elsewhere = replace(retrained_to(0.895), number=7)  # over the budget: not on the front
    assert findings(replace(view, retrained=(elsewhere,)))


def test_a_good_model_just_over_the_budget_is_named() -> None:
    view = view_of(trial(0, 0.88, 5.0), trial(3, 0.9, 8.1), trial(4, 0.9, 9.0))  # allowed: 8 ms
    front = replace(view.front, records=view.records[:1])
    found = words(replace(view, front=front))[0]
    assert found.endswith(
        "Trial 3 has accuracy 90.00 %, but is over the budget as measured: 8.10 ms > 8.00 ms."
    )


def test_what_the_nearest_model_lacks_is_said_by_its_own_metric() -> None:
    records = [
        trial(0, 0.9, 5.0, metrics={"accuracy": 0.9, "recall": 0.4}),
        trial(1, 0.89, 4.9, metrics={"accuracy": 0.89, "recall": 0.68}),
    ]
    limits = config({"latency_ms": "80%"}, quality={"recall": ">= 0.7", "accuracy": ">= 0.8"})
    view = replace(view_of(*records), config=limits)
    assert words(view)[0] == (
        "No model of the front has recall ≥ 0.7 and accuracy ≥ 80.00 %: the nearest, trial 1, has "
        "recall 0.68."
    )


def test_an_unsure_predictor_says_how_to_measure_again() -> None:
    records = [trial(n, 0.9 + n / 1000, 4.0 + n, predicted=predicted(6.0)) for n in range(3)]
    found = findings(view_of(*records))
    # |6/4 - 1|, |6/5 - 1|, |6/6 - 1|: 0.5, 0.2 and 0
    assert "Predicted latencies are off by 23 %" in found[0].text
    assert "autoprune verify run" in found[0].remedy


@pytest.mark.parametrize(
    ("dense", "measured_ms", "said"),
    [
        # 8/4, 10/5 and 12/5 with dense 20/10: off by 1, 1 and 1.4; by a half of it 0, 0 and 0.2
        (20.0, (4.0, 5.0, 5.0), ("113 %", "100 %: the device was slower", "off by 7 %")),
        # 8/16, 10/20, 12/24 with dense 5/10
        (5.0, (16.0, 20.0, 24.0), ("50 %", "50 %: the device was faster", "off by 0 %")),
        (10.5, (4.0, 5.0, 5.0), None),  # dense is as predicted
        (5.0, (4.0, 5.0, 5.0), None),  # in the other direction
    ],
)
def test_another_speed_of_the_device_is_no_fault_of_the_predictor(dense, measured_ms, said) -> None:
    known = replace(DENSE, predicted=replace(DENSE.measured, latency_ms=dense, source="predicted"))
    records = [
        trial(n, 0.9 + n / 1000, ms, predicted=predicted(p))
        for n, (ms, p) in enumerate(zip(measured_ms, (8.0, 10.0, 12.0), strict=True))
    ]
    found = next(f for f in findings(view_of(*records, dense=known)) if "off by" in f.text)
    assert ("verify" in found.remedy) is (said is None)
    assert all(words in found.text for words in said or ())


def test_noise_is_told_where_it_is_frequent() -> None:
    noisy = Confidence((4.0, 6.0), spread=0.4)
    record = trial(0, 0.9, None, measured=measured(5.0, confidence=noisy))
    assert words(view_of(record)) == [
        "The model of the front was measured while the machine was busy."
    ]


def test_rungs_that_stop_nearly_all() -> None:
    stopped = [
        replace(trial(n, 0.5, None), state="stopped", history=({"epoch": 1.0},))
        for n in range(1, 10)
    ]
    assert words(view_of(trial(0, 0.9, 5.0), *stopped)) == [
        "9 of 10 trials were stopped at the first rung, so few were trained to their end."
    ]


def test_many_failures_come_first() -> None:
    failed = replace(trial(1, 0.5, None), state="failed", error="out of memory\nmore", metrics={})
    found = findings(view_of(trial(0, 0.88, 5.0), failed, replace(failed, number=2)))
    assert found[0].level == "bad"
    assert found[0].text == "2 of 3 trials failed: out of memory."
    assert len(found) == 2


def plan(space: dict) -> SearchPlan:
    fitted = FittedSpace.of(SearchSpace.parse(space), {"conv": 8})
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    return SearchPlan(objectives, (0.1, 10.0), {"latency_ms": 8.0}, (), fitted, Cost(macs=200))


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ((0.099, 0.1, 0.095), "3 of 3 models of the front have a learning rate at the upper end"),
        ((0.0101, 0.01, 0.05), "2 of 3 models of the front have a learning rate at the lower end"),
        ((0.03, 0.1, 0.05), None),
    ],
)
def test_learning_rates_at_an_end_of_their_range(rates, text: str | None) -> None:
    records = []
    for n, rate in enumerate(rates):
        found = trial(n, 0.9 + n / 10, 5.0 + n, predicted=predicted(5.0 + n))
        records.append(
            replace(found, candidate=replace(found.candidate, recovery=Recovery(lr=rate)))
        )
    space = {"recovery": {"lr": {"min": 0.01, "max": 0.1, "log": True}}}
    view = view_of(*records, plan=plan(space))
    assert [w.partition(" of its range")[0] for w in words(view)] == ([text] if text else [])


@pytest.mark.parametrize(
    ("choices", "rates", "text"),
    [
        ([0.01, 0.05, 0.1], (0.1, 0.1, 0.05), "2 of 3 .* at the upper end of its choices (0.1)."),
        (
            [0.1, 0.01, 0.05],
            (0.01, 0.01, 0.01),
            "3 of 3 .* at the lower end of its choices (0.01).",
        ),
        ([0.01, 0.05, 0.1], (0.05, 0.05, 0.1), None),
        ([0.05, 0.1], (0.1, 0.1, 0.05), None),  # of two, each is an end
        ([0.05, 0.1], (0.1, 0.1, 0.1), "3 of 3 .* at the upper end of its choices (0.1)."),
    ],
)
def test_learning_rates_at_an_end_of_their_choices(
    choices: list[float], rates: tuple[float, ...], text: str | None
) -> None:
    records = []
    for n, rate in enumerate(rates):
        found = trial(n, 0.9 + n / 10, 5.0 + n, predicted=predicted(5.0 + n))
        records.append(
            replace(found, candidate=replace(found.candidate, recovery=Recovery(lr=rate)))
        )
    view = view_of(*records, plan=plan({"recovery": {"lr": choices}}))
    wanted = [text.replace(".*", "models of the front have a learning rate")] if text else []
    assert words(view) == wanted


@pytest.mark.parametrize(
    ("values", "samples", "text"),
    [
        # sqrt((0.9777 * 0.0223 + 0.9805 * 0.0195) / 359) = 1.07 pt
        (
            (0.9777, 0.9805),
            359,
            "The validation split (359 samples) hardly tells the recommended trial 0 (accuracy "
            "97.77 %) and trial 1 (98.05 %) apart: they differ by 0.28 pt, as much as 1 sample, "
            "and the standard error of the difference is 1.1 pt.",
        ),
        ((0.9777, 0.9805), 10_000, None),  # 0.20 pt
        # of 0.899 and 0.9: 0.43 pt of 10,000 samples, 0.10 of 200,000; of 0.88 and 0.9: 0.44
        (
            (0.899, 0.9),
            10_000,
            "The validation split (10000 samples) hardly tells the recommended trial 0 (accuracy "
            "89.90 %) and trial 1 (90.00 %) apart: they differ by 0.1 pt, as much as 10 samples, "
            "and the standard error of the difference is 0.43 pt.",
        ),
        ((0.899, 0.9), 200_000, None),
        ((0.98, 1.0), 10_000, None),  # two points of difference: the error is 0.14
        ((0.88, 0.9), 10_000, None),
        ((0.95, 0.952, 0.99), 200, "trial 0 (accuracy 95.00 %) and trial 1 (95.20 %) apart"),
    ],
)
def test_a_validation_split_that_does_not_tell_neighbors_apart(
    values: tuple[float, ...], samples: int, text: str | None
) -> None:
    records = [trial(n, v, 5.0 + n, predicted=predicted(5.0 + n)) for n, v in enumerate(values)]
    dense = replace(DENSE, metrics={"accuracy": values[0]}, samples=samples)
    found = findings(view_of(*records, dense=dense))
    assert [text in f.text for f in found] == ([True] if text else [])
    for finding in found:
        assert finding.remedy.endswith("autoprune retrain run --pick trial=1 --seeds 3")


def test_neighbors_are_those_of_the_recommended_model() -> None:
    """0.5 and 0.501 are one sample of 1,000 apart; the recommended 0.9 is far from both."""
    values = (0.5, 0.501, 0.9)
    records = [trial(n, v, 4.0 + n, predicted=predicted(4.0 + n)) for n, v in enumerate(values)]
    assert words(view_of(*records, dense=replace(DENSE, samples=1000))) == []


@pytest.mark.parametrize(
    ("samples", "quality", "found"),
    [
        # the error is sqrt(2 * 0.09 / n): 4.0 pt of 114, 0.85 pt of 2500, 0.95 pt of 2000
        (114, {}, "lose 0.9 pt of accuracy, and the standard error of .* dense model is 4 pt."),
        (2000, {}, "lose 0.9 pt of accuracy, and the standard error of .* dense model is 0.95 pt."),
        (2500, {}, None),
        (114, {"accuracy": ">= 0.85"}, None),  # 5 pt
        (114, {"accuracy": ">= 0.91"}, None),  # says nothing of a loss
        (None, {}, None),
    ],
)
def test_a_split_that_does_not_tell_an_allowed_loss_from_chance(
    samples: int | None, quality: dict[str, str], found: str | None
) -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=replace(DENSE, samples=samples))
    view = replace(view, config=config({"latency_ms": "80%"}, quality=quality))
    said = [text for text in words(view) if "validation split" in text]
    assert len(said) == (found is not None)
    assert not found or re.search(found, said[0])


def test_metrics_that_are_no_shares_of_samples_have_no_standard_error() -> None:
    records = [trial(n, 0.0, 5.0 + n, metrics={"map": 0.5 + n / 1e3}) for n in range(2)]
    objectives = (Objective("map", "maximize"), Objective("latency_ms"))
    dense = replace(DENSE, metrics={"map": 0.5}, samples=100)
    front = ParetoFront(objectives, tuple(records), source="measured")
    view = replace(view_of(*records, dense=dense), front=front)
    assert [text for text in words(view) if "validation split" in text] == []


def retrained(test: float) -> RetrainingSummary:
    record = trial(0, 0.9, 5.0)
    return RetrainingSummary(
        0,
        record.candidate,
        1.0,
        (0,),
        {"accuracy": Spread(0.9)},
        dense=DenseTest({"accuracy": test}),
    )


@pytest.mark.parametrize(("test", "found"), [(0.80, True), (0.895, False)])
def test_a_dense_model_that_knows_the_validation_split(test: float, found: bool) -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=replace(DENSE, samples=5000))
    view = replace(view, retrained=(retrained(test),))
    assert bool(words(view)) is found
    if found:
        assert "90.00 % on validation and only 80.00 % on test data" in words(view)[0]


@pytest.mark.parametrize(
    ("metric", "direction", "validation", "test", "found"),
    [
        # four errors of a rate of 0.8 over a quarter of 5,000 samples: 0.045
        ("auc", "maximize", 0.9, 0.8, True),
        ("sensitivity", "maximize", 0.83, 0.8, False),
        ("map", "maximize", 0.8, 0.9, False),
        ("loss", "minimize", 0.9, 0.8, False),
        ("psnr", "maximize", 30.0, 20.0, False),  # in no unit that has an error
        ("reward", "maximize", 0.9, -0.2, False),
    ],
)
def test_another_metric_in_zero_to_one_tells_contamination(
    metric: str, direction: str, validation: float, test: float, found: bool
) -> None:
    record = trial(0, 0, 5.0, metrics={metric: validation})
    dense = replace(DENSE, metrics={metric: validation}, samples=5000)
    objectives = (Objective(metric, direction), Objective("latency_ms"))
    front = ParetoFront(objectives, (record,), source="measured")
    known = replace(retrained(0.9), dense=DenseTest({metric: test}))
    view = replace(view_of(record, dense=dense), front=front, retrained=(known,))
    says = [w for w in words(view) if "trained on validation data" in w]
    assert bool(says) is found


def test_a_part_of_a_search_from_several_models_has_no_quality_of_its_own() -> None:
    view = view_of(trial(0, 0.88, 5.0))
    assert findings(view, is_part=True) == []


def test_a_budget_that_is_nearly_out_of_reach_names_the_layer() -> None:
    layers = (LayerInfo("stem", "convolution"), LayerInfo("rest", "convolution"))
    costs = LayerCosts((8, 8), (82, 118), (4.1, 5.9))
    network = Network(layers, {"dense": costs, "smallest": costs}, "latency_ms")
    tight = replace(plan({}), smallest=predicted(7.8))  # the limit is 8 ms
    assert words(view_of(trial(0, 0.9, 5.0), plan=tight, network=network)) == [
        "The budget is nearly out of reach: the smallest model of this space uses 98 % of the "
        "limit on latency; rest alone takes 59 % of it."
    ]
    wide = replace(plan({}), smallest=predicted(4.0))
    assert words(view_of(trial(0, 0.9, 5.0), plan=wide, network=network)) == []


@pytest.mark.parametrize(
    ("limited", "estimated", "share"),
    [
        ("latency_ms", "latency_ms", "; rest alone takes 59 % of it"),  # 5.9 of 10 ms
        ("latency_p95_ms", "latency_ms", "; rest alone takes 59 % of it"),
        ("macs", "latency_ms", "; stem alone takes 75 % of it"),  # 60 of 80
        ("params", "latency_ms", ""),  # not known by layer
        ("weight_bytes", "latency_ms", ""),
        ("latency_ms@phone", "latency_ms@server", ""),
        ("latency_ms@phone", "latency_ms@phone", "; rest alone takes 59 % of it"),
        ("latency_ms", "", ""),
    ],
)
def test_the_share_of_a_layer_is_of_the_limited_cost(
    limited: str, estimated: str, share: str
) -> None:
    layers = (LayerInfo("stem", "convolution"), LayerInfo("rest", "convolution"))
    network = Network(layers, {"smallest": LayerCosts((8, 8), (60, 20), (4.1, 5.9))}, estimated)
    least = Cost(
        params=98, macs=98, weight_bytes=98, latency_ms=98.0, latency_p95_ms=98.0, device=DEVICE
    )
    if "@" in limited:
        least = Cost(timings=(Timing("phone", 98.0, None, DEVICE),))
    tight = replace(plan({}), smallest=least, limits={limited: 100.0})
    (text,) = words(view_of(trial(0, 0.9, 5.0), plan=tight, network=network))
    assert text.removesuffix(".").partition(";")[2] == share.removeprefix(";")


def test_a_time_limit_that_came_early() -> None:
    assert words(view_of(trial(0, 0.9, 5.0), ended_by="0.5 minutes")) == [
        "The time limit ended the search after 1 trial, hardly more than the first candidates."
    ]


def test_nothing_better_than_uniform() -> None:
    base = [
        trial(n, a, ms, origin=f"baseline:uniform-{n}", predicted=predicted(ms))
        for n, a, ms in ((0, 0.95, 8.0), (1, 0.91, 4.0))
    ]
    own = [
        trial(n, a, ms, predicted=predicted(ms)) for n, a, ms in ((2, 0.92, 6.0), (3, 0.911, 5.0))
    ]
    view = view_of(*base, *own)
    assert [r.number for r in view.members] == [1, 3, 2, 0]
    assert words(view) == ["No model of the front is better than uniform pruning at equal cost."]


@pytest.mark.parametrize(
    ("origin", "groups", "said"),
    [
        ("baseline:random-0", 1, ["random widths"]),
        ("seed:least-1 uniform", 2, ["uniform pruning"]),
        ("seed:uniform-0", 1, []),  # of one group there is nothing else
        ("tpe", 2, []),
    ],
)
def test_a_recommended_model_that_the_search_did_not_find(
    origin: str, groups: int, said: list[str]
) -> None:
    sizes = {f"conv{n}": 16 for n in range(groups)}
    space = FittedSpace.of(SearchSpace.parse({"ratios": {"max": 0.8}}), sizes)
    view = view_of(trial(4, 0.9, 5.0, origin=origin), plan=replace(plan({}), space=space))
    assert words(view) == [
        f"The recommended model, trial 4, is a baseline ({kind}), none that the search itself "
        "proposed."
        for kind in said
    ]
    assert words(replace(view, finished=False)) == []
