"""A Ray cluster that is there already: two nodes on this machine, and models that are delivered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import toy
from torch import nn

from autoprune._search.trials import tuning
from autoprune._search.trials.cluster import Delivery, address_of, check_rungs
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.config.sections import RayConfig
from autoprune.errors import StoreError, UsageError
from autoprune.store import RunFolder, read_model, recipe_of
from autoprune.store.models import receive_model

ray.cloudpickle.register_pickle_by_value(toy)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

RECIPE = recipe_of(Candidate(Architecture({"conv": 2})), {"conv": (0, 1)}, task="digits")


@pytest.mark.usefixtures("ray_session")
def test_a_model_from_a_node_that_does_not_see_the_folder_is_delivered(folder: RunFolder) -> None:
    near = Delivery.open(folder.path)
    far = Delivery(str(folder.path), "another folder at this place", near._receiver)
    model = nn.Linear(2, 2)
    for number, delivery in ((3, near), (4, far)):
        remote = ray.remote(lambda way, n: way.save(str(n), model, RECIPE))
        assert ray.get(remote.remote(delivery, number)) == f"models/{number}"
        recipe, state = read_model(folder.path / "models" / str(number))
        assert recipe.kept_indices == {"conv": (0, 1)}
        assert state["weight"].equal(model.weight)
    assert near.blind_nodes() == []
    assert len(far.blind_nodes()) == 1


@pytest.mark.usefixtures("ray_session")
def test_rungs_need_a_place_that_every_node_sees(folder: RunFolder) -> None:
    near = Delivery.open(folder.path)
    far = Delivery(str(folder.path), "another", near._receiver)
    check_rungs(near, 2, None)
    check_rungs(far, 0, None)
    check_rungs(far, 2, "/shared")
    with pytest.raises(UsageError, match=r"set search\.ray\.storage to a shared folder"):
        check_rungs(far, 2, None)


def test_only_the_two_files_of_a_model_are_received(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a model holds .*, got \.\./x"):
        receive_model(tmp_path / "models" / "3", {"../x": b""})
    assert list(tmp_path.iterdir()) == []


def test_the_address_is_the_configuration_s_or_the_environment_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(RayConfig()) is None
    monkeypatch.setenv("RAY_ADDRESS", "one:1")
    assert address_of(RayConfig()) == "one:1"
    assert address_of(RayConfig(address="two:2")) == "two:2"


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_does_not_answer_is_one_line_with_the_remedies(
    monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    def silent(**_: object) -> None:
        raise ConnectionError("Failed to connect\nmore")

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(ray, "init", silent)
    with pytest.raises(UsageError) as error:
        tuning._join("one:1", RayConfig())
    assert str(error.value) == (
        "no Ray cluster answers at one:1: Failed to connect · start one with ray start --head, or "
        "leave search.ray.address and RAY_ADDRESS out"
        + ("" if mode else " · one with a token: RAY_AUTH_MODE=token")
    )


def test_a_closed_port_is_refused_before_anything_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for each in (address, f"ray://{address}", "auto"):
            tuning.check_session(RayConfig(address=each))
    with pytest.raises(UsageError, match=rf"no Ray cluster answers at {address}: .*refused · "):
        tuning.check_session(RayConfig(address=address))


def test_resources_of_a_trial_are_those_asked_for() -> None:
    assert tuning._resources(RayConfig(), 0.5) == {"cpu": 1, "gpu": 0.5}
    own = RayConfig(resources_per_trial={"cpu": 4, "board": 1})
    assert tuning._resources(own, 0.0) == {"cpu": 4, "gpu": 0.0, "board": 1}


TWO_NODES = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
import ray, toy
from ray.cluster_utils import Cluster
from autoprune._search.plan import Limits
from autoprune._search.trials.tuning import run_trials
from autoprune.config.sections import RayConfig
from autoprune.store import RunFolder
ray.cloudpickle.register_pickle_by_value(toy)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
folder = RunFolder(sys.argv[1])

def kill_second():
    while len(folder.records()) < 4:
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)

threading.Thread(target=kill_second, daemon=True).start()
plan = toy.make_plan(limits=Limits(trials=12), concurrent=2, rungs=1)
ledger = toy.run_toy(folder, plan, sleep_s=0.5, cluster=RayConfig(address=cluster.address))
keys = [record.candidate.key for record in folder.records()]
print("done", ledger.done, len(set(keys)) == len(keys))
"""


@pytest.mark.slow
def test_a_search_ends_when_a_node_is_killed(folder: RunFolder) -> None:
    """In a process of its own: the other tests have a Ray session."""
    command = [sys.executable, "-c", TWO_NODES, str(folder.path), str(Path(__file__).parent)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "RAY_worker_niceness": "0"},
    )
    assert done.stdout.splitlines()[-1:] == ["done 12 True"], done.stderr[-2000:]
    records = folder.records()
    assert sum(record.state in ("complete", "stopped") for record in records) >= 10
    for record in records:
        if record.state == "failed":
            assert (record.error or "").splitlines()[0] == "the worker process died"
