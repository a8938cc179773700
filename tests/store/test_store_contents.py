"""What a run has written so far, by kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device
from autoprune.candidate import Candidate
from autoprune.errors import BudgetError, StoreError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import (
    BlockInfo,
    DenseReport,
    FrontReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    LayerCosts,
    LayerInfo,
    Network,
    RunFolder,
    RunState,
    SearchPlan,
)

CONFIG = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"torch": "2"})


def test_profiles_are_found_by_the_names_of_their_devices(folder: RunFolder) -> None:
    folder.save_profile("", {"error": 1})
    folder.save_profile("phone", {"error": 2})
    assert folder.profiles([""], dict) == {"": {"error": 1}}
    assert folder.profiles(["phone", "server"], dict) == {"phone": {"error": 2}}


DEVICE = Device("arm", threads=2)
EMPTY = FittedSpace.of(SearchSpace.parse({}), {"conv": 16})
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))


@pytest.mark.parametrize(
    ("kind", "value", "file"),
    [
        (
            "plan",
            SearchPlan(OBJECTIVES, (0.1, 20.0), {"macs": 10.0}, (5.0,), EMPTY, Cost(macs=20)),
            "plan.json",
        ),
        ("state", RunState("verify", 2.5, {"proposals": 3.0}, "30 trials"), "state.json"),
        ("dense", DenseReport({"accuracy": 0.9}, Cost(macs=20), None, 500), "dense.json"),
        (
            "groups",
            Groups(
                (GroupInfo("conv", "channel", 16),),
                (FrozenInfo("out", 2, "why"),),
                (BlockInfo("body", "residual"),),
            ),
            "groups.json",
        ),
        ("arithmetic", {"bfloat16": True, "channels_last": False}, "arithmetic.json"),
        (
            "network",
            Network(
                (LayerInfo("stem", "convolution", "conv"),),
                {"dense": LayerCosts((16,), (100,), (1.5,))},
                "latency_ms",
            ),
            "layers.json",
        ),
        ("importances", {"accuracy": {"lr": 1.0}}, "importances.json"),
    ],
)
def test_each_part_has_a_file_and_comes_back_equal(
    folder: RunFolder, kind: str, value: object, file: str
) -> None:
    assert getattr(folder, kind)() is None
    before = set(folder.path.iterdir())
    getattr(folder, f"save_{kind}")(value)
    assert {path.name for path in set(folder.path.iterdir()) - before} == {file}
    assert getattr(RunFolder.open(folder.path), kind)() == value


def test_sizes_are_those_of_the_groups(folder: RunFolder) -> None:
    assert folder.sizes() == {}
    folder.save_groups(Groups((GroupInfo("b", "channel", 4), GroupInfo("a", "head", 2))))
    assert list(folder.sizes().items()) == [("b", 4), ("a", 2)]


def trial(number: int, accuracy: float, macs: int) -> TrialRecord:
    return TrialRecord(
        number,
        Candidate(Architecture({"conv": 8})),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=Cost(macs=macs),
    )


def test_the_front_is_stored_by_numbers(folder: RunFolder) -> None:
    records = (trial(0, 0.9, 20), trial(1, 0.5, 10), trial(2, 0.4, 15))
    for record in records:
        folder.append(record)
    front = ParetoFront(OBJECTIVES, records, (0.1, 30.0))
    folder.save_front(FrontReport(front, {2: {"macs": 0.5}}, "the board was lost"))
    found = folder.front()
    assert found is not None
    assert found.front.members == (records[1], records[0])
    assert (found.over_budget, found.not_measured) == ({2: {"macs": 0.5}}, "the board was lost")
    assert found.front.reference == (0.1, 30.0)
    with pytest.raises(StoreError) as caught:
        folder.front(records[:1])
    assert str(caught.value) == (
        f"{folder.path}/front.json names trial 1, which records.jsonl lacks"
    )


def test_a_front_whose_reference_does_not_fit_is_damage(folder: RunFolder) -> None:
    record = trial(0, 0.9, 20)
    content = ParetoFront(OBJECTIVES, (record,), (0.1, 30.0)).to_dict()
    (folder.path / "front.json").write_text(json.dumps({**content, "reference": [0.1]}))
    with pytest.raises(StoreError, match=r"front\.json is damaged: ") as caught:
        folder.front([record])
    assert "\n" not in str(caught.value)


def test_records_that_do_not_fit_the_groups_are_named(folder: RunFolder) -> None:
    folder.append(trial(3, 0.9, 20))
    assert folder.records() == (trial(3, 0.9, 20),)
    folder.save_groups(Groups((GroupInfo("conv", "channel", 4),)))
    with pytest.raises(StoreError) as caught:
        folder.records()
    assert str(caught.value) == (
        f"{folder.path}/records.jsonl: trial 3 does not fit groups.json: widths['conv'] must be "
        "at most 4, got 8"
    )


def test_profiles_have_a_file_for_each_device_and_precision(folder: RunFolder) -> None:
    there = {"device": {"name": "arm", "threads": 2}, "error": 0.05}
    folder.save_profile("phone", {**there, "coefficients": [1, 2]})
    folder.save_profile("phone", {"int8": True}, "int8")
    assert (folder.path / "device-phone.json").is_file()
    assert folder.profiles(["phone"], dict, "int8") == {"phone": {"int8": True}}
    assert folder.devices(["phone", "server"]) == {"phone": DEVICE}
    found = folder.profile_summaries(["phone"])["phone"]
    assert (found.error, found.facts) == (0.05, {"error": 0.05})  # neither lists nor mappings


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BudgetError("budget.macs is odd"), ": budget.macs is odd"),
        (KeyError("units"), " is damaged: units is missing"),
        (ValueError("a\nb"), " is damaged: a b"),
        (IndexError(), " is damaged: IndexError"),
    ],
)
def test_what_another_rooms_reader_stumbles_over_is_damage(
    folder: RunFolder, error: Exception, says: str
) -> None:
    def parse(content: Mapping[str, object]) -> None:
        raise error

    assert folder.sensitivity(parse) is None
    folder.save_sensitivity({"conv": [1.0]})
    assert folder.sensitivity(dict) == {"conv": [1.0]}
    with pytest.raises(StoreError) as caught:
        folder.sensitivity(parse)
    assert str(caught.value) == f"{folder.path}/sensitivity.json{says}"


def test_smaller_dense_models_have_a_file_of_their_own(folder: RunFolder) -> None:
    small = TrialRecord(
        -1, Candidate(Architecture()), "complete", seed=0, artifact="models/smaller-a"
    )
    assert folder.smaller() == ()
    folder.save_smaller([small, small])
    assert (folder.smaller(), folder.records()) == ((small, small), ())


def test_a_smaller_dense_model_has_no_number_of_a_trial(folder: RunFolder) -> None:
    folder.save_smaller([TrialRecord(3, Candidate(Architecture()), "complete", seed=0)])
    with pytest.raises(
        StoreError, match=r"smaller\.json is damaged: models\.0\.number: must be le"
    ):
        folder.smaller()
