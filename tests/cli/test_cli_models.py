"""retrain, export and quantize."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_run

from autoprune import api
from autoprune._export import Exported
from autoprune._retraining.seeds import OnEntry
from autoprune._search.trials.interrupts import Terminated
from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.candidate import Candidate, Recovery
from autoprune.store import (
    DenseReport,
    DenseTest,
    FrontQuantization,
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
    RateTrial,
    RetrainingSummary,
    RunFolder,
    SeedReport,
    Spread,
)


def test_export_names_both_files(command_line, monkeypatch, tmp_path: Path) -> None:
    asked = {}

    def export(path, **options):
        asked.update(options)
        return Exported(Path("m.xml"), "openvino", "by us", 1e-7, 1_500_000, None, Path("m.bin"))

    monkeypatch.setattr(api, "export", export)
    code, out, _ = command_line("export", tmp_path, "--format", "openvino", "--dynamic-batch")
    assert code == 0
    assert "wrote m.xml and m.bin (1.50 MB; exporter: by us)" in out
    assert (asked["format"], asked["dynamic_batch"]) == ("openvino", True)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            {"input": (1, 600, 6)},
            "input: input 1 x 600 x 6 · only batches of 1; --dynamic-batch leaves the batch free",
        ),
        ({"a": ("batch", 3), "b": ()}, "input: a batch x 3, b a number"),
    ],
)
def test_export_says_which_model_and_what_it_takes(
    command_line, monkeypatch, tmp_path: Path, inputs, said: str
) -> None:
    made = exported(inputs=inputs, model="trial 3")
    monkeypatch.setattr(api, "export", lambda path, **options: made)
    code, out, _ = command_line("export", tmp_path)
    assert code == 0
    assert out.splitlines()[1:3] == ["model: trial 3", said]


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (True, "reloaded: outputs differ by at most 1.0e-07 of the largest output"),
        (False, "not run here (Core ML runs on macOS and iOS only): the outputs of the program it"),
    ],
)
def test_export_says_whether_the_file_ran(
    command_line, monkeypatch, tmp_path: Path, ran, said
) -> None:
    made = Exported(Path("m.mlpackage"), "coreml", "by us", 1e-7, 1_500_000, ran=ran)
    monkeypatch.setattr(api, "export", lambda path, **options: made)
    code, out, _ = command_line("export", tmp_path, "--format", "coreml")
    assert code == 0
    assert said in " ".join(out.split())


def exported(**more: Any) -> Exported:
    return Exported(Path("m.onnx"), "onnx", "by us", 1e-7, 1500, **more)


@pytest.mark.parametrize(
    ("made", "last"),
    [
        (exported(), "reloaded: outputs differ by at most 1.0e-07 of the largest output"),
        (
            Exported(Path("m.packed"), "packed", "autoprune", 0.0, 900),
            "read again: every weight is the same, bit for bit",
        ),
    ],
)
def test_export_says_how_it_was_checked(
    command_line, monkeypatch, made: Exported, last: str
) -> None:
    monkeypatch.setattr(api, "export", lambda path, **options: made)
    code, out, _ = command_line("export", "model")
    assert (code, out.splitlines()[-1]) == (0, last)


@pytest.mark.parametrize(
    ("written", "settings", "test"),
    [
        ((), QuantizationSettings(), False),
        (("--split", "test"), QuantizationSettings(), True),
        (
            ("--calibration-samples", 20, "--calibration", "minmax", "--weight-bits", 8),
            QuantizationSettings("minmax", 20, weight_bits=8),
            False,
        ),
    ],
)
def test_options_of_int8_become_settings(
    command_line,
    monkeypatch,
    written: tuple[object, ...],
    settings: QuantizationSettings,
    test: bool,
) -> None:
    asked: dict[str, Any] = {}

    def export(path: Path, **options: Any) -> Exported:
        asked.update(options)
        return exported(quantization=INT8)

    monkeypatch.setattr(api, "export", export)
    code, out, _ = command_line("export", "model", "--precision", "int8", *written)
    assert code == 0
    assert (asked["precision"], asked["quantization"], asked["test"]) == ("int8", settings, test)
    assert "float32  val accuracy 90.00 %" in out
    assert "warning: accuracy is 11.1% worse as int8" in out
    assert "warning" not in command_line("export", "m", "--precision", "int8", "--max-drop", 0.2)[1]


def precision(accuracy: float) -> PrecisionReport:
    return PrecisionReport({"accuracy": accuracy}, 4000)


INT8 = QuantizationReport(
    "f", "0", "accuracy", "maximize", QuantizationSettings(), precision(0.9), precision(0.8)
)


def test_quantize_warns_of_every_model_that_lost_too_much(
    command_line, shown_run: Path, monkeypatch
) -> None:
    good = replace(INT8, int8=precision(0.9))
    found = FrontQuantization(INT8, {3: good, 4: INT8}, {5: "no saved model"}, {4: 0})
    monkeypatch.setattr(api, "quantize", lambda path, **options: found)
    code, out, _ = command_line("quantize", shown_run)
    assert code == 0
    starts = [line.partition(" is ")[0] for line in out.splitlines() if "warning" in line]
    assert starts == ["warning: dense: accuracy", "warning: trial 4, retrained seed 0: accuracy"]


def summary(measured: Cost | None, dense: Cost | None) -> RetrainingSummary:
    return RetrainingSummary(
        0,
        Candidate(Architecture(), recovery=Recovery(0.05, optimizer="sgd")),
        2.0,
        (0,),
        {"accuracy": Spread(0.9)},
        dense=DenseTest({"accuracy": 0.91}, dense),
        measured=measured,
    )


DEVICE = Device("a board", "torch")
FAST, SLOW = Cost(latency_ms=2.0, device=DEVICE), Cost(latency_ms=5.0, device=DEVICE)
SURE = replace(FAST, confidence=Confidence((1.9, 2.1), ratio=0.5, spread=0.3))


def on_two(phone: float, server: float) -> Cost:
    names = {"phone": phone, "server": server}
    return Cost(timings=tuple(Timing(name, ms, None, DEVICE) for name, ms in names.items()))


@pytest.mark.parametrize(
    ("measured", "dense", "lines"),
    [
        (FAST, SLOW, [f"measured 2 ms, dense 5 ms: 2.50 times the speed ({DEVICE})"]),
        (
            SURE,  # in turns it was twice as fast
            SLOW,
            [f"measured 2 ms, dense 5 ms: 2.00 times the speed ({DEVICE}) · noisy: spread 30%"],
        ),
        (None, None, ["latency not measured: the target devices are other machines"]),
        (FAST, None, ["latency not measured: the target devices are other machines"]),
        (
            on_two(2.0, 1.0),
            on_two(3.0, 1.5),
            [
                f"measured 2 ms on phone, dense 3 ms: 1.50 times the speed ({DEVICE})",
                f"measured 1 ms on server, dense 1.5 ms: 1.50 times the speed ({DEVICE})",
            ],
        ),
    ],
)
def test_retrain_prints_the_speed_on_each_device(
    command_line,
    shown_run: Path,
    monkeypatch,
    measured: Cost | None,
    dense: Cost | None,
    lines: list[str],
) -> None:
    found = summary(measured, dense)

    def retrain(path: Path, *, on_entry: OnEntry, **options: Any) -> api.RetrainResult:
        on_entry(1, {"epoch": 0.5, "lr": 0.1, "params": 3, "accuracy": 0.875, "loss": 0.25})
        return api.RetrainResult(path / "retrained" / "0", found)

    monkeypatch.setattr(api, "retrain", retrain)
    code, out, _ = command_line("retrain", shown_run)
    assert code == 0
    said = out.splitlines()
    assert said[0] == "seed 1 · epoch 0.5 · accuracy 87.50 %, loss 0.25"
    place = next(n for n, line in enumerate(said) if line.startswith("optimizer SGD, peak "))
    assert said[place + 1 : place + 1 + len(lines)] == lines
    assert said[-1] == f"next  autoprune export {shown_run}/retrained/0 --format onnx"


def test_retrain_prints_tenths_of_the_training_and_each_seeds_test(
    command_line, shown_run: Path, monkeypatch
) -> None:
    runs = (SeedReport(0, {"accuracy": 0.88}, 9.0), SeedReport(1, {"accuracy": 0.92}, 9.0))
    validation = {"accuracy": Spread(0.95, 0.01)}
    short = summary(None, None)
    longer = replace(short.candidate, recovery=replace(short.candidate.recovery, lr=0.1))
    found = replace(short, candidate=longer, runs=runs, validation=validation)

    def retrain(path: Path, *, on_entry: OnEntry, **options: Any) -> api.RetrainResult:
        for seed in (0, 1):
            for epoch in range(1, 41):
                on_entry(seed, {"epoch": float(epoch), "accuracy": 0.9})
        return api.RetrainResult(path / "retrained" / "0", found)

    monkeypatch.setattr(api, "retrain", retrain)
    _, out, _ = command_line("retrain", shown_run, "--epochs", 40)
    said = [line for line in out.splitlines() if "epoch " in line and line.startswith("seed 1")]
    # the first, then 4, 8, ... 40
    assert [line.split()[4] for line in said] == [str(n) for n in (1, *range(4, 41, 4))]
    lines = out.splitlines()
    place = lines.index("seed 0 · test accuracy 88.00 %")
    assert lines[place + 1] == "seed 1 · test accuracy 92.00 %"
    assert lines[place + 2] == "validation at the end: accuracy 95.00 ± 1.00 %"
    assert lines[place + 3] == (
        "the validation metric meets the limit of a recommended model: accuracy ≥ 89.10 % (dense "
        "less 1 % of it)"
    )
    assert lines[place + 4] == "optimizer SGD, peak learning rate 0.1 (in the search 0.05)"


def test_without_the_dense_metric_retrain_says_nothing_of_the_limit(
    command_line, shown_run: Path, monkeypatch
) -> None:
    RunFolder.open(shown_run).save_dense(DenseReport({}, Cost(macs=20)))
    made = api.RetrainResult(shown_run / "retrained" / "0", summary(None, None))
    monkeypatch.setattr(api, "retrain", lambda path, **options: made)
    _, out, _ = command_line("retrain", shown_run)
    assert "the limit of a recommended model" not in out


def test_a_retraining_that_is_stopped_says_how_it_is_resumed(
    command_line, shown_run: Path, monkeypatch
) -> None:
    def stopped(path: Path, **_: Any) -> None:
        raise Terminated(15)

    monkeypatch.setattr(api, "retrain", stopped)
    says = "error: stopped; checkpoints are saved · the same command resumes\n"
    assert command_line("retrain", shown_run) == (143, "", says)


def test_quiet_is_passed_on(command_line, shown_run: Path, monkeypatch) -> None:
    asked: dict[str, Any] = {}

    def retrain(path: Path, **options: Any) -> api.RetrainResult:
        asked.update(options)
        return api.RetrainResult(path, summary(FAST, SLOW))

    monkeypatch.setattr(api, "retrain", retrain)
    command_line("retrain", shown_run, "--quiet", "--seeds", 2, "--lr", 0.1, "--quantization-aware")
    assert asked["on_entry"] is None
    assert (asked["seeds"], asked["lr"], asked["quantization_aware"]) == (2, 0.1, True)
    assert (asked["epochs"], asked["distillation"], asked["trust"]) == (20.0, None, False)


def test_settings_of_the_training_are_passed_on(command_line, shown_run: Path, monkeypatch) -> None:
    asked: dict[str, Any] = {}

    def retrain(path: Path, **options: Any) -> api.RetrainResult:
        asked.update(options)
        asked["on_rate"](RateTrial(2.0, 0.01, 1.25, 0.875))
        asked["on_rate"](RateTrial(4.0, 0.02, 1.25, None))
        return api.RetrainResult(path, summary(FAST, SLOW))

    monkeypatch.setattr(api, "retrain", retrain)
    settings = ("--set", "recovery.ema=0.99", "--set", "recovery.rewarm=true")
    settings += ("--set", "schedule.kind=cubic")
    _, out, _ = command_line("retrain", shown_run, "--find-lr", *settings)
    assert asked["recovery"] == {"ema": 0.99, "rewarm": True}
    assert asked["schedule"] == {"kind": "cubic"}
    assert asked["find_lr"]
    assert out.splitlines()[:2] == [
        "learning rate x 2 · 1.25 epochs at 0.01 · validation 0.875",
        "learning rate x 4 · 1.25 epochs at 0.02 · diverged",
    ]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("search.trials=5", "--set.search is not a key"),
        ("lr=0.1", "--set lr: write --set recovery.lr=..."),
        ("recovery=5", "--set recovery must be a mapping"),
        ("recovery.emma=0.9", "recovery.emma is not a key · did you mean 'ema'?"),
        ("recovery.ema=1", "recovery.ema must lie in [0, 1), got 1"),
        ("recovery.ema", "--set recovery.ema must have the form key=value"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    command_line, tmp_path: Path, setting: str, says: str
) -> None:
    there = small_run.make(tmp_path).path
    code, _, err = command_line("retrain", there, "--set", setting, "--trust")
    assert code == 2
    assert says in " ".join(err.split())


def test_a_real_model_is_exported_beside_itself(command_line, tmp_path: Path) -> None:
    there = small_run.make(tmp_path).path
    code, out, _ = command_line("export", there, "--pick", "trial=1")
    assert code == 0
    assert (there / "models" / "1" / "model.onnx").stat().st_size > 100
    assert out.replace("\n", "").startswith(f"wrote {there / 'models' / '1' / 'model.onnx'} (")
