"""Predictions that are fitted anew in the breaks of a search."""

from __future__ import annotations

import pytest
import toy
from stripes import Stripes

from autoprune._search import relearning
from autoprune._search.ledger import Ledger
from autoprune._search.prepare import Prepared, prepare
from autoprune._search.relearning import Relearning
from autoprune.budget import Device
from autoprune.config import RunConfig
from autoprune.cost import sampling
from autoprune.cost.latency import Latency
from autoprune.cost.targets import device_name
from autoprune.errors import DeviceError
from autoprune.store import RunFolder


class Untrained(Stripes):
    """Its weights do not matter here."""

    dense_epochs = 0


class Due:
    """Is due once, after three completed trials."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def is_due(self, ledger: Ledger) -> bool:
        return ledger.counts["complete"] >= 3 and not self.calls

    def __call__(self, ledger: Ledger) -> None:
        self.calls.append(len(ledger.running))


def test_no_trial_runs_while_latencies_are_learned(folder: RunFolder) -> None:
    due = Due()
    hand = toy.Hand(folder, toy.make_plan(concurrent=2), relearning=due)
    hand.play(2)
    first, second = hand.suggest(), hand.suggest()
    assert first is not None
    assert second is not None
    hand.complete(first[0], 0.5)
    assert hand.suggest() is None  # due, but the other one still trains
    assert due.calls == []
    hand.complete(second[0], 0.6)
    assert hand.suggest() is not None
    assert due.calls == [0]
    hand.close()


def clock(law):
    """A device whose latency is a law of the model's parameters."""

    def read(models, example_inputs, runtime, **_):
        times = [float(law(sum(p.numel() for p in m.parameters()))) for m in models]
        device = Device(device_name(), runtime)
        return [Latency(t, 2 * t, (t, t), device, t / times[0]) for t in times]

    return read


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A search by latency whose clock has since become another one."""
    config = RunConfig.from_dict(
        {
            "task": "stripes",
            "budget": {"latency_ms": "90%"},
            "space": {"ratios": {"max": 0.8}},
            "device": {"runtime": "torch"},
        }
    )
    measure_by(monkeypatch, lambda params: params)
    return prepare(config, Untrained(), lambda note: None)


def measure_by(monkeypatch: pytest.MonkeyPatch, law) -> None:
    read = clock(law)
    monkeypatch.setattr(sampling, "measure_together", read)
    monkeypatch.setattr(sampling, "measure_latency", lambda m, *a, **k: read([m], *a, **k)[0])


def played(folder: RunFolder, ready: Prepared, trials: int) -> toy.Hand:
    hand = toy.Hand(folder, ready.plan)
    hand.play(trials)
    return hand


def test_the_front_is_measured_once_and_prices_follow(
    folder: RunFolder, ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Relearning(ready, folder)
    hand = played(folder, ready, relearning.EVERY - 1)
    assert not learn.is_due(hand.ledger)
    hand.play(1)
    assert learn.is_due(hand.ledger)
    measure_by(monkeypatch, lambda params: 3 * params if params < 10**9 else params)
    before = samples_of(ready)
    member = hand.ledger.front().members[0]
    kept = ready.plan.space.kept(member.candidate, ready.plan.sizes)
    learn(hand.ledger)
    added = samples_of(ready)[len(before) :]
    assert kept in [dict(sample.kept) for sample in added]
    written = folder.read_json("device.json")
    assert len(written["samples"]) == len(before) + len(added)
    assert ready.plan.price(kept).latency_ms == ready.predictors[""].predict(kept)
    assert ready.plan.margins["latency_ms"] == ready.predictors[""].upper_factor - 1.0
    assert not learn.is_due(hand.ledger)  # nothing new on the front
    hand.close()


def test_a_device_that_fails_is_not_asked_again(
    folder: RunFolder, ready: Prepared, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    learn = Relearning(ready, folder)
    hand = played(folder, ready, relearning.EVERY)

    def gone(*args, **options):
        raise DeviceError("it is gone")

    monkeypatch.setattr(sampling, "measure_latency", gone)
    before = samples_of(ready)
    learn(hand.ledger)
    assert samples_of(ready) == before
    assert "goes on with the profile made so far: it is gone" in caplog.text
    hand.play(2 * relearning.EVERY)
    assert not learn.is_due(hand.ledger)
    hand.close()


def samples_of(ready: Prepared) -> list[sampling.Sample]:
    return list(ready.predictors[""].samples)


def test_without_a_predicted_latency_there_is_nothing_to_learn(folder: RunFolder) -> None:
    config = RunConfig.from_dict({"task": "stripes", "budget": {"macs": "90%"}})
    ready = prepare(config, Untrained(), lambda note: None)
    hand = played(folder, ready, relearning.EVERY)
    assert not Relearning(ready, folder).is_due(hand.ledger)
    hand.close()
