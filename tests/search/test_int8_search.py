"""A search over widths and precision, whose budget of bytes float32 cannot meet."""

from pathlib import Path

import optuna
import pytest
import torch
from deep_task import Deep

import autoprune
from autoprune._search.initial.seeding import recipe
from autoprune._search.preparing.context import make_context
from autoprune._search.preparing.prepare import Prepared, prepare
from autoprune._search.trials import worker
from autoprune._search.trials.trainable import Spec
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import FLOAT32, INT8
from autoprune.config import RunConfig
from autoprune.cost.precisions import int8_cost
from autoprune.errors import ConfigError, ExportError
from autoprune.report.read import read
from autoprune.store import RunFolder, pack, read_model, read_quantization

TASK = Path(__file__).parents[1] / "deep_task.py"
EXAMPLE = torch.zeros(1, 1, 8, 8)
SHORT = {
    "trials": 5,
    "epochs": 0.5,
    "rungs": 0,
    "concurrent": 1,
    "screen": 4,
    "calibration_samples": 64,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Result:
    return autoprune.search(
        f"{TASK}:Deep",
        budget={"weight_bytes": "60%"},
        space={"ratios": {"max": 0.5}, "precision": [FLOAT32, INT8]},
        objectives=["accuracy", "weight_bytes"],
        output=tmp_path_factory.mktemp("int8") / "run",
        **SHORT,
    )


def test_a_trained_model_is_recorded_in_both_precisions(found: autoprune.Result) -> None:
    complete = [record for record in found.records if record.state == "complete"]
    trained = {record.number: record for record in complete if not record.is_converted}
    counted = [record for record in trained.values() if record.is_counted]
    converted = [record for record in complete if record.is_converted]
    assert len(counted) == SHORT["trials"]
    assert converted
    for record in converted:
        source = trained[int(record.origin.split()[-1])]
        assert record.epochs == 0.0
        ours, theirs = record.candidate.architecture, source.candidate.architecture
        assert ours.precision != theirs.precision
        assert ours.widths == theirs.widths


def test_int8_models_have_a_file_of_the_metric_and_bytes_that_are_recorded(
    found: autoprune.Result,
) -> None:
    run = RunFolder.open(found.path)
    members = [
        r for r in found.records if r.candidate.architecture.precision == INT8 and r.artifact
    ]
    assert members
    for record in members:
        report = read_quantization(run.model_folder(record))
        assert report is not None
        assert report.int8.validation["accuracy"] == record.metrics["accuracy"]
        model = autoprune.load(found.path, pick=f"trial={record.number}")
        assert record.predicted is not None
        assert record.predicted.weight_bytes == int8_cost(model, EXAMPLE).weight_bytes


def test_the_front_is_measured_in_the_precision_of_its_members(found: autoprune.Result) -> None:
    members = found.front.members
    assert any(record.candidate.architecture.precision == INT8 for record in members)
    for record in members:
        assert record.measured is not None
        assert record.measured.device is not None
        assert record.measured.device.dtype == record.candidate.architecture.precision
        assert record.measured.weight_bytes == record.predicted.weight_bytes
    assert any(read(found.path).is_int8(record) for record in members)


def test_an_int8_member_is_retrained_and_tested_in_int8(found: autoprune.Result) -> None:
    number = next(
        r.number for r in found.front.members if r.candidate.architecture.precision == INT8
    )
    done = autoprune.retrain(
        found.path, pick=f"trial={number}", epochs=1, seeds=1, quantization_aware=True
    )
    report = read_quantization(done.path / "seed-0")
    assert report is not None
    assert done.summary.measured is not None
    assert done.summary.measured.device.dtype == INT8
    assert done.summary.validation["accuracy"].mean == report.int8.validation["accuracy"]


def test_a_float_model_is_not_trained_quantization_aware(found: autoprune.Result) -> None:
    number = next(
        r.number
        for r in found.records
        if r.artifact and r.candidate.architecture.precision == FLOAT32
    )
    with pytest.raises(autoprune.UsageError, match=f"trial {number} is float32"):
        autoprune.retrain(found.path, pick=f"trial={number}", epochs=1, quantization_aware=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"device": {"runtime": "torch"}}, "int8 models run in onnxruntime"),
        (
            {
                "budget": {"file_bytes": "50%"},
                "space": {"precision": INT8, "patterns": {"kinds": ["dense", "2:4"]}},
            },
            "zeros make no int8 file smaller",
        ),
    ],
)
def test_what_int8_cannot_do_is_refused_at_the_start(
    keys: dict[str, object], message: str, tmp_path: Path
) -> None:
    given = {"budget": {"weight_bytes": "60%"}, "space": {"precision": INT8}, **SHORT, **keys}
    with pytest.raises(ConfigError, match=message):
        autoprune.search(Deep(), output=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "space", [{"ratios": {"per": "global"}}, {"repair": False, "importance": "l2"}]
)
def test_variables_of_the_allocator_need_sensitivities(
    space: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="allocation needs the sensitivity of each group"):
        autoprune.search(
            Deep(),
            budget={"macs": "50%"},
            space=space,
            variables="allocation",
            output=tmp_path / "run",
            **SHORT,
        )


def test_a_model_that_cannot_be_converted_is_kept_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready, context = prepared(tmp_path)

    def refused(*_: object) -> None:
        raise ExportError("no")

    monkeypatch.setattr(worker, "twin_of", refused)
    context.prepare()
    trial = context.start(Spec(3, recipe(ready.plan.space), 0))
    while not trial.finished:
        trial.advance()
    report = trial.report()
    assert report.artifact == "models/3"
    assert report.conversion is None
    assert "trial 3 is not converted: no" in caplog.text


def prepared(folder: Path) -> tuple[Prepared, WorkerContext]:
    config = RunConfig.from_dict(
        {
            "task": f"{TASK}:Deep",
            "budget": {"weight_bytes": "60%"},
            "space": {"precision": [FLOAT32, INT8]},
            "search": {"epochs": 0.25, "rungs": 0, "calibration_samples": 64},
        }
    )
    ready = prepare(config, Deep(), lambda note: None)
    return ready, make_context(config, Deep(), ready, str(folder), lambda note: None)


def test_an_int8_latency_budget_is_met_and_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = autoprune.search(
        f"{TASK}:Deep",
        budget={"latency_ms": "250%"},
        space={"precision": INT8},
        output=tmp_path / "run",
        **{**SHORT, "trials": 2},
    )
    complete = [record for record in found.records if record.state == "complete"]
    assert {record.candidate.architecture.precision for record in complete} == {INT8}
    assert {record.predicted.device.dtype for record in complete} == {INT8}


def test_budgets_of_file_and_memory_are_met_by_the_files_and_as_measured(tmp_path: Path) -> None:
    found = autoprune.search(
        f"{TASK}:Deep",
        budget={"file_bytes": "60%", "peak_memory_bytes": "150%"},
        space={"ratios": {"max": 0.5}, "precision": [FLOAT32, INT8]},
        objectives=["accuracy", "file_bytes"],
        output=tmp_path / "run",
        **{**SHORT, "trials": 3},
    )
    run = RunFolder.open(found.path)
    complete = [record for record in found.records if record.state == "complete"]
    for record in (record for record in complete if record.artifact):
        folder = run.model_folder(record)
        report, size = read_quantization(folder), record.history[-1]["file_bytes"]
        if record.candidate.architecture.precision == INT8:
            assert report is not None
            assert size == report.int8.file_bytes == (folder / report.file).stat().st_size
        else:
            assert size == len(pack(*read_model(folder)))
        assert record.predicted.file_bytes == pytest.approx(size, rel=0.03)
    members = found.front.members
    assert {record.candidate.architecture.precision for record in complete} == {FLOAT32, INT8}
    assert members
    dense = run.dense().measured
    for record in members:
        assert record.measured.file_bytes == record.history[-1]["file_bytes"]
        assert record.measured.file_bytes <= 0.6 * dense.file_bytes
        assert record.measured.peak_memory_bytes <= 1.5 * dense.peak_memory_bytes
    member = members[0]
    done = autoprune.retrain(found.path, pick=f"trial={member.number}", epochs=0.5, seeds=1)
    assert done.summary.measured.file_bytes == pytest.approx(member.measured.file_bytes, rel=0.03)


def test_limits_on_quality_hold_for_converted_models(tmp_path: Path) -> None:
    found = autoprune.search(
        f"{TASK}:Deep",
        budget={"weight_bytes": "60%"},
        space={"ratios": {"max": 0.5}, "precision": [FLOAT32, INT8]},
        quality={"accuracy": ">= 0.99999"},
        output=tmp_path / "run",
        **{**SHORT, "trials": 2},
    )
    study = optuna.load_study(study_name="autoprune", storage=f"sqlite:///{tmp_path}/run/study.db")
    converted = {record.number: record for record in found.records if record.is_converted}
    assert converted
    for number, record in converted.items():
        told = study.trials[number].system_attrs
        (over,) = [told[key] for key in told if "accuracy" in key]
        assert (over > 0.0) == (record.metrics["accuracy"] < 0.99999)
