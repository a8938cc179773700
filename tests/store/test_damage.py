"""Whatever is wrong with a file of a run is one StoreError line with its name and key."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report import html, terminal
from autoprune.report.read import read
from autoprune.space import FittedSpace
from autoprune.store import (
    DenseReport,
    FrontReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    LayerCosts,
    LayerInfo,
    Network,
    Recipe,
    RunFolder,
    RunState,
    SearchPlan,
    read_model,
    recipe_of,
)

RECORD = TrialRecord(
    3,
    Candidate(Architecture({"conv": 2})),
    "complete",
    seed=0,
    metrics={"wer": 0.1},
    predicted=Cost(macs=10),
    artifact="models/3",
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run with every file that can be damaged."""
    config = {"task": "digits", "budget": {"macs": "50%"}}
    folder = RunFolder.create(tmp_path / "run", config, {"torch": "2"})
    objectives = (Objective("wer"), Objective("macs"))
    budgets = (folder.config.budget,)
    space = FittedSpace.of(folder.config.space, {"conv": 16})
    folder.save_plan(SearchPlan.of(objectives, (1.0, 20.0), budgets, space, Cost(macs=20)))
    folder.save_dense(DenseReport({"wer": 0.1}, Cost(macs=20)))
    folder.save_groups(Groups((GroupInfo("conv", "channel", 16),), (FrozenInfo("out", 2, "why"),)))
    folder.save_state(RunState("done", 1.5, {"proposals": 3}))
    folder.save_importances({"wer": {"lr": 1.0}})
    device = {"name": "cpu", "runtime": "torch", "dtype": "float32", "batch": 1, "threads": 1}
    folder.save_profile("", {"device": device, "error": 0.05, "held_out": [[1.0, 1.1]]})
    folder.append(RECORD)
    folder.save_front(FrontReport(ParetoFront(objectives, (RECORD,), (1.0, 20.0))))
    return folder


def test_what_was_written_is_read_back_equal(run: RunFolder) -> None:
    plan = run.plan()
    assert plan is not None
    assert plan.objectives == (Objective("wer"), Objective("macs"))
    assert (plan.limits, plan.dense) == ({"macs": 10}, Cost(macs=20))
    assert plan.space == FittedSpace.of(run.config.space, {"conv": 16})
    assert run.dense() == DenseReport({"wer": 0.1}, Cost(macs=20))
    assert run.groups() == Groups(
        (GroupInfo("conv", "channel", 16),), (FrozenInfo("out", 2, "why"),)
    )
    assert run.state() == RunState("done", 1.5, {"proposals": 3})
    assert run.importances() == {"wer": {"lr": 1.0}}
    assert run.profile_summaries([""])[""].held_out == ((1.0, 1.1),)
    assert run.records() == (RECORD,)
    found = run.front()
    assert found is not None
    with pytest.raises(StoreError, match=r"front\.json names trial 3, which records\.jsonl lacks"):
        run.front(())
    assert (found.front.members, found.over_budget, found.not_measured) == ((RECORD,), {}, None)


def test_the_published_run_is_read_whole() -> None:
    published = RunFolder.open(Path(__file__).parents[2] / "results" / "cifar10-resnet20")
    view = read(published)
    assert view.finished
    assert len(view.members) == 9
    again = published.retraining(1)
    assert again.plan().candidate == again.summary().candidate.key == recipe_key(again.first_model)


def recipe_key(model: Path) -> str:
    return read_model(model)[0].candidate.key


def test_what_a_run_does_not_have_yet_is_none(tmp_path: Path) -> None:
    config = {"task": "digits", "budget": {"macs": "50%"}}
    run = RunFolder.create(tmp_path / "run", config, {})
    assert (run.plan(), run.dense(), run.groups(), run.state()) == (None,) * 4
    assert (run.importances(), run.front(), run.sensitivity(dict)) == (None,) * 3
    assert (run.profile_summaries([""]), run.retrainings()) == ({}, ())


FILES = (
    "config.yaml",
    "environment.json",
    "plan.json",
    "dense.json",
    "groups.json",
    "state.json",
    "importances.json",
    "device.json",
    "front.json",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=["empty", "cut", "list", "number", "bytes", "nan", "inf", "deep", "deep-keys"],
)
def test_a_damaged_file_is_one_line_with_its_name(
    run: RunFolder, file: str, content: bytes
) -> None:
    (run.path / file).write_bytes(content)
    refusal = refused(run)
    assert refusal is not None
    assert file in refusal
    assert "\n" not in refusal


def refused(run: RunFolder) -> str | None:
    """What is said of a run that cannot be shown; None where table and page can be made."""
    try:
        view = read(run)
    except StoreError as error:
        return str(error)
    page = "".join(html._body(view, html._figures(view)))
    assert "<script" not in page
    assert "<" not in html.packed(html._figures(view))
    Console(file=io.StringIO()).print(terminal.show(view))
    return None


def keys_of(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in nested lists and mappings."""
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    found = []
    for key, item in items:
        found.append((*path, key))
        found += keys_of(item, (*path, key)) if isinstance(item, dict | list) else []
    return found


@pytest.mark.parametrize("file", [*FILES[1:], "records.jsonl"])
@pytest.mark.parametrize("junk", [{"x": []}, [["y"]], "</script>", -1.5, None], ids=str)
def test_a_value_of_another_type_is_refused_or_harmless(
    run: RunFolder, file: str, junk: object
) -> None:
    """Each key in turn holds junk: the run is read, or refused in one line; nothing else."""
    path = run.path / file
    whole = json.loads(path.read_text())
    del whole["crc32"]  # as whoever makes such a file would
    refusals = 0
    for place in keys_of(whole):
        content = json.loads(json.dumps(whole))
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = junk
        path.write_text(json.dumps(content) + "\n")
        refusal = refused(run)
        if refusal is not None:
            refusals += 1
            assert file in refusal
            assert "\n" not in refusal
    if junk is not None and file != "environment.json":
        assert refusals


@pytest.mark.parametrize("file", [*FILES[1:], "records.jsonl"])
def test_a_digit_that_changed_is_found(run: RunFolder, file: str) -> None:
    """Whatever is still of its type, and would show another result."""
    path = run.path / file
    whole = path.read_text()
    content = whole[: whole.index('"crc32"')]
    digits = [place for place, sign in enumerate(content) if sign.isdigit()]
    for place in digits[::3]:
        changed = str((int(whole[place]) + 1) % 10)
        path.write_text(whole[:place] + changed + whole[place + 1 :])
        refusal = refused(run)
        assert refusal is not None
        assert file in refusal


@pytest.mark.parametrize("name", ["plan.json", "state.json", "dense.json", "groups.json"])
def test_what_is_gone_from_a_finished_run_is_missed(run: RunFolder, name: str) -> None:
    (run.path / name).unlink()
    with pytest.raises(StoreError) as error:
        read(run)
    assert str(error.value) == (
        f"{run.path / name} is missing beside front.json · go on with what is there: "
        f"autoprune resume {run.path}"
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["plan.json", "dense.json", "importances.json", "device.json"])
def test_what_is_no_file_is_refused(
    run: RunFolder, name: str, make: Callable[[Path], None]
) -> None:
    (run.path / name).unlink()
    make(run.path / name)
    with pytest.raises(StoreError, match=rf"{name} must be a regular file"):
        read(run)


def test_records_that_lack_a_line_are_missed(run: RunFolder) -> None:
    for number in (4, 5):
        run.append(replace(RECORD, number=number, artifact=None))
    run.save_state(RunState("done"))
    assert len(read(run).records) == 3
    whole = (run.path / "records.jsonl").read_text().splitlines(keepends=True)
    (run.path / "records.jsonl").write_text("".join(whole[:2]))
    assert run.lost_lines() == 1
    with pytest.raises(StoreError, match=r"records\.jsonl lacks 1 of its lines · go on with what"):
        read(run)


@pytest.mark.parametrize(
    ("costs", "what"),
    [
        (LayerCosts((1,), (1, 2)), "widths of dense must have one value for each of 2 layers"),
        (LayerCosts((1, 2), ()), "macs of dense must have"),
        (LayerCosts((1, 2), (1, 2), (0.1,)), "ms of dense must have"),
    ],
)
def test_layers_and_their_costs_are_as_many(costs: LayerCosts, what: str) -> None:
    layers = (LayerInfo("a", "conv"), LayerInfo("b", "linear"))
    Network(layers, {"dense": LayerCosts((1, 2), (3, 4))})
    with pytest.raises(ValueError, match=what):
        Network(layers, {"dense": costs})


@pytest.mark.parametrize("key", ["number", "seed"])
@pytest.mark.parametrize("value", ["<script>alert(1)</script>", "3", 3.5, None, True, [3]])
def test_number_and_seed_of_a_record_are_integers(run: RunFolder, key: str, value: object) -> None:
    line = json.dumps({**RECORD.to_dict(), key: value})
    (run.path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(
        StoreError, match=rf"records\.jsonl:1 is damaged: {key}: .*remove that line"
    ):
        run.records()


@pytest.mark.parametrize(
    "artifact",
    [
        "../../secret",
        "/etc",
        "models/../../x",
        "models",
        "",
        "elsewhere/3",
        "models\\..\\x",
        "C:/x",
    ],
)
def test_an_artifact_outside_the_models_of_the_run_is_refused(
    run: RunFolder, artifact: str
) -> None:
    line = json.dumps({**RECORD.to_dict(), "artifact": artifact})
    (run.path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError, match=r"records\.jsonl:1 .*artifact: must lie inside models/"):
        run.records()


def test_an_artifact_that_is_a_link_to_elsewhere_is_not_followed(
    run: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (run.path / "models").mkdir()
    (run.path / "models" / "3").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="lies outside"):
        run.drop_model(RECORD)
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("name", [".lock", "records.jsonl", "study.db", "models", "retrained"])
def test_a_link_in_a_run_is_not_written_through(run: RunFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="must not be a link"), run.writing():
        pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["records.jsonl", "retrained/3/summary.json", "front.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(run: RunFolder, name: str) -> None:
    file = run.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    try:
        read(run)
    except StoreError as error:
        assert name in str(error)  # noqa: PT017 - a pipe is refused, or counts as no file
    folder = run.path / run.save_model(4, nn.Linear(2, 2), recipe())
    (folder / "weights.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")
    with pytest.raises(StoreError, match=r"weights\.safetensors must be a regular file"):
        read_model(folder)


def recipe() -> Recipe:
    return recipe_of(RECORD.candidate, {"conv": (0, 1)}, task="digits")


def test_text_that_is_read_cannot_steer_a_terminal(run: RunFolder) -> None:
    evil = "red \x1b[31m\x9b2J\x07\u202e text\nsecond line"
    run.append(replace(RECORD, state="failed", error=evil, origin=evil))
    record = run.records()[0]
    assert record.error == record.origin == "red [31m2J text\nsecond line"
    (run.path / "config.yaml").write_text('task: "a\\e[2Jb"\nbudget: {macs: 50%}\n')
    assert run.config.task == "a[2Jb"


def test_records_of_another_model_than_the_groups_are_refused(run: RunFolder) -> None:
    run.save_groups(Groups((GroupInfo("conv", "channel", 1),)))
    says = r"trial 3 does not fit groups\.json: widths\['conv'\] must"
    with pytest.raises(StoreError, match=says):
        run.records()
