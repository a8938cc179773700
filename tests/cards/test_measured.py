"""What a run knows of a model, for its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch

import autoprune
from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.cards.measured import Row, measured_in, measured_over_seeds
from autoprune.errors import UsageError
from autoprune.store import (
    DenseReport,
    DenseTest,
    RetrainingSummary,
    RunFolder,
    SeedReport,
    Spread,
    read_model,
    save_model,
)

DEVICE = Device("a CPU", "onnxruntime")
SURE, NOISY = Confidence((0.99, 1.01)), Confidence((0.8, 1.2), spread=0.3)


def timed(ms: float, sure: Confidence = SURE) -> Cost:
    return Cost(latency_ms=ms, source="measured", device=DEVICE, confidence=sure)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = small_run.make(tmp_path)
    made.save_dense(replace(made.dense() or DenseReport(), measured=timed(2.0)))
    (record, _) = made.records()
    made.append(replace(record, measured=timed(1.0)))
    return made


def model_of(run: RunFolder, pick: str = "trial=0") -> torch.nn.Module:
    return autoprune.load(run.path, pick=pick, task=small_run.Pair())


def test_a_trials_model_has_validation_metrics(run: RunFolder) -> None:
    found = measured_in(model_of(run), run.path, "trial=0")
    assert found.rows == (
        Row("parameters", "67", "51"),  # 8 and 6 of 8 units: 8 w + 3
        Row("MACs", "56", "42"),
        Row("weights", "268 B", "204 B"),
        Row("latency", "2.00 ms", "1.00 ms"),
        Row("accuracy", "81.00 %", "80.50 %"),
    )
    assert found.metrics == ("accuracy",)
    assert found.notes == (
        "Trial 0 of the search run, trained for 2 epochs. Metrics are of the validation split.",
        "Measured latency: a CPU, onnxruntime, float32, batch 1, 1 thread.",
    )


def test_a_retrained_model_has_the_test_metrics_of_its_seed(run: RunFolder) -> None:
    (record, _) = run.records()
    retraining = run.retraining(0)
    recipe, _ = read_model(run.model_folder(record))
    for seed in (3, 5):
        torch.manual_seed(seed)
        save_model(retraining.seed_folder(seed), small_run.model_of(0), recipe)
    retraining.save_summary(
        RetrainingSummary(
            0,
            record.candidate,
            20.0,
            (3, 5),
            {"accuracy": Spread(0.7, 0.1)},
            dense=DenseTest({"accuracy": 0.75}, timed(4.0)),
            measured=timed(1.5, NOISY),
            runs=(SeedReport(3, {"accuracy": 0.8}, 51), SeedReport(5, {"accuracy": 0.6}, 51)),
        )
    )
    found = measured_in(model_of(run), run.path, "trial=0")
    assert found.rows[3:] == (
        Row("latency", "4.00 ms", "1.50 ms"),
        Row("accuracy", "75.00 %", "80.00 %"),
    )
    words, device = found.notes
    assert words.endswith("retrained for 20 epochs with seed 3. Metrics are of the test split.")
    assert device.endswith("1 thread (noisy: spread 30%).")
    second = measured_in(model_of(run), retraining.seed_folder(5), "recommended")
    assert second.rows[-1] == Row("accuracy", "75.00 %", "60.00 %")


def test_each_named_device_has_a_row_and_what_is_missing_has_none(run: RunFolder) -> None:
    (record, _) = run.records()
    phone = Timing("phone", 3.0, None, DEVICE, SURE)
    both = Cost(timings=(phone, Timing("board", 9.0, None, DEVICE, SURE)), source="measured")
    run.append(replace(record, measured=both, metrics={"accuracy": 0.5, "f1": 0.25}))
    dense = replace(phone, latency_ms=6.0)
    run.save_dense(DenseReport({"accuracy": 0.81}, None, Cost(timings=(dense,), source="measured")))
    assert measured_in(model_of(run), run.path, "trial=0").rows == (
        Row("latency on phone", "6.00 ms", "3.00 ms"),
        Row("accuracy", "81.00 %", "50.00 %"),
        Row("f1", "–", "0.25"),
    )


def test_of_an_int8_model_only_counts_hold(run: RunFolder) -> None:
    (record, _) = run.records()
    model = model_of(run)
    architecture = replace(record.candidate.architecture, precision="int8")
    run.append(replace(record, candidate=replace(record.candidate, architecture=architecture)))
    found = measured_in(model, run.model_folder(record), "recommended")
    assert [row.label for row in found.rows] == ["parameters", "MACs"]
    assert found.metrics == ()
    assert "It was measured in int8" in found.notes[1]


def test_other_weights_are_refused(run: RunFolder) -> None:
    model: Any = model_of(run)
    with pytest.raises(UsageError, match=r"has other weights than .*models/1"):
        measured_in(model, run.path, "trial=1")
    torch.nn.init.zeros_(model[0].bias)
    with pytest.raises(UsageError, match="leave out run="):
        measured_in(model, run.path, "trial=0")


def test_a_model_outside_of_a_run_is_refused(run: RunFolder, tmp_path: Path) -> None:
    recipe, _ = read_model(run.model_folder(run.records()[0]))
    save_model(tmp_path / "apart", small_run.model_of(0), recipe)
    with pytest.raises(UsageError, match=r"run must be a run or a model in it, got .*apart"):
        measured_in(small_run.model_of(0), tmp_path / "apart", "recommended")


def summary(run: RunFolder, **more: Any) -> RetrainingSummary:
    (record, _) = run.records()
    values: dict[str, Any] = {
        "validation": {"accuracy": Spread(0.65, 0.05)},
        "dense": DenseTest({"accuracy": 0.75}, timed(4.0)),
        "measured": replace(timed(1.5, NOISY), file_bytes=100),
    }
    test = {"accuracy": Spread(0.7, 0.1)}
    return RetrainingSummary(0, record.candidate, 20.0, (3, 5), test, **{**values, **more})


def test_over_seeds_metrics_have_their_spread_and_costs_both_sources(run: RunFolder) -> None:
    (record, _) = run.records()
    known = run.dense() or DenseReport()
    predicted = replace(known.predicted or Cost(), latency_ms=3.0, device=DEVICE, file_bytes=400)
    run.save_dense(replace(known, predicted=predicted))
    assert record.predicted is not None
    expected = replace(record.predicted, latency_ms=1.25, device=DEVICE)
    record = replace(record, predicted=expected)
    found = measured_over_seeds(run, record, summary(run))
    assert found.rows == (
        Row("parameters", "67", "51"),
        Row("MACs", "56", "42"),
        Row("weights", "268 B", "204 B"),
        Row("file", "400 B", "100 B"),  # as measured; of dense it is only predicted
        Row("latency, predicted", "3.00 ms", "1.25 ms"),
        Row("latency, measured", "4.00 ms", "1.50 ms"),
        Row("accuracy, test", "75.00 %", "70.00 ± 10.00 %"),
        Row("accuracy, validation", "81.00 %", "65.00 ± 5.00 %"),
    )
    assert found.metrics == ("accuracy",)
    assert found.notes == (
        "Trial 0 of the search run, retrained for 20 epochs with seeds 3, 5. The test split was "
        "read once for each finished model; ± is the standard deviation over the seeds.",
        "Measured latency: a CPU, onnxruntime, float32, batch 1, 1 thread (noisy: spread 30%).",
    )
    away = measured_over_seeds(run, record, summary(run, measured=None, dense=DenseTest()))
    assert away.notes[1:] == ("Predicted latency: a CPU, onnxruntime, float32, batch 1, 1 thread.",)


def test_of_int8_models_over_seeds_it_is_said_whose_costs_these_are(run: RunFolder) -> None:
    (record, _) = run.records()
    int8 = replace(record, candidate=record.candidate.in_precision("int8"))
    found = measured_over_seeds(run, int8, summary(run))
    assert found.notes[-1] == (
        "Metrics and costs are those of `model.int8.onnx`, in the folder of each seed."
    )
