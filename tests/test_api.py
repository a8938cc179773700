"""The verbs from Python and from the command line, on a real search of the README's task."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import readme_task
import torch
from safetensors.torch import save_file

import autoprune
from autoprune import api, cli, loading
from autoprune.config import RunConfig
from autoprune.cost import latency
from autoprune.errors import StoreError, UsageError
from autoprune.quantization import twins
from autoprune.store import QuantizationSettings, RunFolder, read_quantization

LR = 0.0625  # of the retraining


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> api.Result:
    """A finished search: four trials of the README's task at half the MACs."""
    folder = tmp_path_factory.mktemp("job")
    task = readme_task.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(folder / "cache"))
        return autoprune.search(
            f"{task}:Wine",
            budget={"macs": "50%"},
            space="quick",
            device={"runtime": "torch"},
            output=folder / "run",
            trials=4,
            epochs=1,
            rungs=0,
            concurrent=1,
        )


@pytest.fixture(autouse=True)
def _cache(found: api.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(found.path.parent / "cache"))


def dense_macs() -> int:
    return 13 * 64 + 64 * 3


def test_front_is_within_the_budget_and_really_smaller(found: api.Result) -> None:
    assert found.front.members
    for record in found.front:
        small = autoprune.load(found.path, pick=f"trial={record.number}")
        assert autoprune.count_cost(small, torch.zeros(1, 13)).macs <= dense_macs() / 2


def test_loaded_model_has_the_recorded_metric(found: api.Result) -> None:
    record = found.pick("best")
    model, task, _ = loading.load_with_task(found.path, pick="best")
    metrics = task.evaluate(model, "val")
    assert metrics["accuracy"] == pytest.approx(record.metrics["accuracy"], abs=1e-6)


def test_export_is_loaded_again_and_agrees(found: api.Result, tmp_path: Path) -> None:
    written = autoprune.export(found.path, format="onnx", output=tmp_path / "small.onnx")
    assert written.model.startswith("trial ")
    assert written.path == tmp_path / "small.onnx"
    assert written.path.stat().st_size > 0
    assert written.difference < 1e-4


def test_the_dense_model_is_exported_to_compare_with(found: api.Result, tmp_path: Path) -> None:
    written = autoprune.export(found.path, pick="dense", output=tmp_path / "dense.onnx")
    assert written.model == "the dense model"
    small = autoprune.export(found.path, output=tmp_path / "small.onnx")
    assert written.size_bytes > small.size_bytes
    with pytest.raises(UsageError, match=r"autoprune quantize RUN writes dense\.int8\.onnx"):
        autoprune.export(found.path, pick="dense", precision="int8")


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few repeats: what is measured does not matter here."""

    def measure(models, inputs, runtime, threads):
        return latency.measure_together(
            models, inputs, runtime, threads=threads, repeats=9, warmup_s=0.01
        )

    monkeypatch.setattr(twins, "measured_or_flagged", measure)


@pytest.mark.usefixtures("quick_timing")
def test_int8_export_says_how_it_compares_in_the_runtime(found: api.Result, tmp_path: Path) -> None:
    settings = QuantizationSettings("minmax", samples=64)
    written = autoprune.export(
        found.path,
        precision="int8",
        quantization=settings,
        output=tmp_path / "s.onnx",
        dynamic_batch=True,
    )
    report = written.quantization
    model, task, folder = loading.load_with_task(found.path)
    expected = task.evaluate(model, "val")["accuracy"]
    assert report.float32.validation["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert written.size_bytes == written.path.stat().st_size == report.int8.file_bytes
    assert report.sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()
    assert report.settings == replace(settings, dynamic_batch=True)
    assert 0.0 < written.difference < 0.05
    assert not report.int8.test
    assert report.int8.measured.device.dtype == "int8"
    assert report.int8.latency_ms > 0.0
    assert read_quantization(folder) == report

    session = onnxruntime.InferenceSession(written.path)
    batches = [(x.numpy(), y.numpy()) for x, y in task.val_loader()]
    right = sum(int((session.run(None, {"input": x})[0].argmax(1) == y).sum()) for x, y in batches)
    total = sum(len(y) for _, y in batches)
    assert report.int8.validation["accuracy"] == pytest.approx(right / total)


@pytest.mark.usefixtures("quick_timing")
def test_int8_commands(found: api.Result, capsys) -> None:
    def command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    number = found.pick("knee").number
    said = command(
        "export", found.path, "--precision", "int8", "--split", "test", "--calibration-samples", 50
    )
    assert "model.int8.onnx" in said.replace("\n", "")
    assert "float32  val accuracy" in said
    assert "test" in said
    shown = command("show", found.path, "--trial", number)
    assert "percentile of 50 samples, 7-bit weights" in shown

    table = command("quantize", found.path, "--calibration-samples", 60, "--max-drop", 10)
    lines = [line for line in table.splitlines() if not line.startswith("warning:")]
    rows = [line.split() for line in lines]  # a busy machine may find int8 slower, and say so
    assert [row[0] for row in rows if "float32" in row] == ["dense"] + ["trial"] * len(found.front)
    assert sum("int8" in row for row in rows if "%" in row) == len(found.front) + 1
    assert (found.path / "dense.int8.onnx").is_file()
    for record in found.front:
        folder = found.path / str(record.artifact)
        report = read_quantization(folder)
        content = (folder / report.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == report.sha256
        assert report.settings.samples == 60


def test_a_free_batch_may_be_said_in_the_settings_too(
    found: api.Result, tmp_path: Path, quick_timing
) -> None:
    settings = QuantizationSettings("minmax", samples=64, dynamic_batch=True)
    file = tmp_path / "s.onnx"
    written = autoprune.export(found.path, precision="int8", quantization=settings, output=file)
    assert written.quantization.settings == settings
    (given,) = onnxruntime.InferenceSession(file).get_inputs()
    assert isinstance(given.shape[0], str)


@pytest.mark.parametrize("options", [{"format": "packed"}, {"output": "small.packed"}])
def test_a_packed_file_has_no_batch_to_leave_free(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="dynamic_batch is for files that a runtime runs, got"):
        autoprune.export("run", dynamic_batch=True, **options)


def test_member_without_a_model_is_skipped(found: api.Result, tmp_path: Path, quick_timing) -> None:
    run = tmp_path / "run"
    shutil.copytree(found.path, run)
    lost = found.pick("knee").number
    shutil.rmtree(run / "models" / str(lost))
    done = autoprune.quantize(run, quantization=QuantizationSettings(samples=20))
    assert list(done.skipped) == [lost]
    assert "holds no saved model" in done.skipped[lost]
    assert set(done.members) == {record.number for record in found.front} - {lost}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of float32, int8, got 'int4'"),
        ({"test": True}, "need precision='int8'"),
        ({"precision": "int8", "format": "pt2"}, "an int8 model is written as onnx"),
        ({"precision": "int8", "output": "small.pt2"}, "an int8 model is written as .onnx"),
    ],
)
def test_int8_options_that_do_not_fit_are_refused(found: api.Result, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        autoprune.export(found.path, **options)


def test_folder_that_holds_a_run_is_not_written_again(found: api.Result, capsys) -> None:
    before = (found.path / "records.jsonl").read_bytes()
    with pytest.raises(SystemExit) as end:
        cli.main(["search", str(found.path / "config.yaml"), "--set", f"output={found.path}"])
    assert end.value.code == 2
    assert "holds another run" in capsys.readouterr().err
    assert (found.path / "records.jsonl").read_bytes() == before


def test_finished_run_is_resumed_without_new_trials(found: api.Result) -> None:
    assert autoprune.resume(found.path).records == found.records


@pytest.fixture(scope="module")
def retrained(found: api.Result) -> api.RetrainResult:
    """The knee trained for two epochs with two seeds, at another rate than the trial's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(found.path.parent / "cache"))
        return autoprune.retrain(found.path, pick="knee", epochs=2, seeds=2, lr=LR)


def test_retraining_writes_a_model_for_each_seed_and_their_mean(
    found: api.Result, retrained: api.RetrainResult
) -> None:
    knee = found.pick("knee")
    assert retrained.path == found.path / "retrained" / str(knee.number)
    assert (retrained.summary.number, retrained.summary.seeds) == (knee.number, (0, 1))
    tested = []
    for seed in (0, 1):
        model, task, _ = loading.load_with_task(retrained.path / f"seed-{seed}")
        tested.append(task.evaluate(model, "test")["accuracy"])
    mean, gap = sum(tested) / 2, abs(tested[0] - tested[1])
    assert retrained.summary.test["accuracy"].mean == pytest.approx(mean, abs=1e-6)
    assert retrained.summary.test["accuracy"].std == pytest.approx(gap / 2**0.5, abs=1e-6)
    assert not (retrained.path / "checkpoints").exists()
    assert retrained.summary.candidate.recovery == replace(knee.candidate.recovery, lr=LR)


def test_retrained_model_is_what_run_and_folder_load(
    found: api.Result, retrained: api.RetrainResult
) -> None:
    first = retrained.path / "seed-0"
    assert loading.model_folder(retrained.path) == first
    assert loading.model_folder(found.path, "knee") == first


def test_retraining_is_done_once_and_never_overwritten(
    found: api.Result, retrained: api.RetrainResult
) -> None:
    before = {file: file.read_bytes() for file in retrained.path.rglob("*") if file.is_file()}
    assert autoprune.retrain(found.path, epochs=2, seeds=[0, 1], lr=LR) == retrained
    with pytest.raises(StoreError, match=r"holds another retraining \(epochs 2, seeds \[0, 1\]\)"):
        autoprune.retrain(found.path, epochs=3, seeds=2, lr=LR)
    with pytest.raises(StoreError, match="another recipe"):
        autoprune.retrain(found.path, epochs=2, seeds=2)
    with pytest.raises(UsageError, match=r"distillation must lie in \[0, 1\], got 2"):
        autoprune.retrain(found.path, epochs=2, seeds=2, distillation=2.0)
    after = {file: file.read_bytes() for file in retrained.path.rglob("*") if file.is_file()}
    assert after == before


def test_retrain_command_prints_the_test_metrics(
    found: api.Result, retrained: api.RetrainResult, capsys
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["retrain", str(found.path), "--epochs", "2", "--seeds", "2", "--lr", str(LR)])
    printed = capsys.readouterr().out
    assert not end.value.code
    assert f"wrote {retrained.path}" in printed
    assert "times the speed" in printed
    assert f"{100 * retrained.summary.test['accuracy'].mean:.2f}" in printed


def test_search_refuses_an_unknown_option_and_two_descriptions() -> None:
    with pytest.raises(UsageError, match="search: trails is not an option · nearest: trials"):
        autoprune.search("digits", budget={"macs": "50%"}, trails=3)
    config = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
    with pytest.raises(UsageError, match="a config or options, got both: trials"):
        autoprune.search("digits", config, trials=3)


def test_search_runs_the_given_configuration_for_the_given_task(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(api, "run_config", lambda config, **_: asked.append(config))
    spec = {"budget": {"macs": "50 %"}, "search": {"trials": 3, "levels": ["40%"]}}
    autoprune.search("digits", RunConfig.from_dict({"task": "other", **spec}))
    autoprune.search("digits", budget=spec["budget"], trials=3, levels=("40%",))
    assert asked[0] == asked[1] == RunConfig.from_dict({"task": "digits", **spec})
    assert asked[0].levels == asked[1].levels


def test_run_name_holds_task_and_time() -> None:
    now = datetime.datetime(2026, 3, 4, 5, 6, 7)
    assert api.run_name("digits", now) == "digits-20260304-050607"
    assert api.run_name("python:My Task", now) == "my-task-20260304-050607"


def test_the_ending_says_the_format(found: api.Result, tmp_path: Path) -> None:
    written = autoprune.export(found.path, output=tmp_path / "small.pt2")
    assert (written.format, written.path.name) == ("pt2", "small.pt2")
    assert autoprune.export(found.path, output=tmp_path / "a.onnx").format == "onnx"


JOB = """
import autoprune
from torch import nn, rand, zeros

class Job(autoprune.Task):
    checkpoint = "weights.safetensors"

    def __init__(self, data):
        self.data = data

    def build_model(self):
        return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))

    def train_loader(self, seed):
        assert str(self.data).endswith("images")
        return [(rand(8, 4), zeros(8).long())] * 2

    def val_loader(self):
        return self.train_loader(0)

    test_loader = val_loader
"""


def test_a_run_finds_data_and_weights_again_and_needs_no_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tasks", "conf", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks" / "job.py").write_text(JOB)
    layers = [torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)]
    save_file(torch.nn.Sequential(*layers).state_dict(), tmp_path / "conf" / "weights.safetensors")
    profile = tmp_path / "conf" / "device.json"
    autoprune.DeviceProfile.fit(
        torch.nn.Sequential(*layers), torch.zeros(1, 4), runtime="torch", samples=10
    ).save(profile)
    (tmp_path / "conf" / "budget.yaml").write_text(
        "task: ../tasks/job.py:Job\ndata: ../images\nbudget: {macs: 60%}\nspace: quick\n"
        "device: device.json\noutput: ../run\n"
        "search: {trials: 2, epochs: 1, rungs: 0, concurrent: 1, screen: 0}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    done = api.run_config(RunConfig.load(tmp_path / "conf" / "budget.yaml"))
    profile.unlink()
    config = RunFolder.open(done.path).config
    assert config.device.runtime == "torch"
    assert api.resume(done.path).front.members
    _, task, folder = loading.load_with_task(done.path)
    assert Path(task.data).name == "images"
    assert loading.load_with_task(folder)[1].data == task.data
    assert autoprune.export(done.path).path.is_file()
