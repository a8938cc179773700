"""What is computed once is computed once: the order of units is not found again in each trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deep_task import Wider

from autoprune._search.preparing.context import make_context, make_screening, relative_importance
from autoprune._search.preparing.prepare import Prepared, prepare
from autoprune._search.trials.trainable import Spec
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.config import RunConfig
from autoprune.pruning import importance, obs
from autoprune.training import Precision


def config(**space: object) -> RunConfig:
    return RunConfig.from_dict(
        {
            "task": "wider",
            "budget": {"macs": "60%"},
            "space": {"schedule": {"kind": "one_shot"}, **space},
            "search": {"calibration_samples": 64, "epochs": 0.5, "rungs": 0},
        }
    )


def made(**space: object) -> tuple[Prepared, WorkerContext]:
    given, task = config(**space), Wider()
    ready = prepare(given, task, lambda text: None)
    context = make_context(given, task, ready, ".", lambda text: None, Precision())
    context.prepare()
    return ready, context


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def candidate(ready: Prepared, selection: Selection) -> Candidate:
    widths = {name: size // 2 for name, size in ready.graph.sizes().items()}
    recovery = Recovery(lr=0.01, optimizer="sgd", distillation=0.0)
    return Candidate(Architecture(widths), selection, recovery=recovery)


def test_a_trial_takes_the_scores_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    ready, context = made()
    assert context.scores is not None
    wanted = importance.scores(ready.dense, ready.graph, "obs", calibration=context.calibration)
    for name, values in wanted.items():
        torch.testing.assert_close(context.scores[name], values)
    monkeypatch.setattr(obs, "obs_scores", None)  # nobody may ask again
    monkeypatch.setattr("autoprune.pruning.compensate.obs_scores", None)
    spec = Spec(0, candidate(ready, Selection("obs")), 0)
    trial = context.start(spec)
    trial._run.build()
    kept = trial._run.kept_indices
    best = importance.best_units(wanted, {n: len(units) for n, units in kept.items()})
    assert {name: tuple(units) for name, units in kept.items()} == dict(best)
    screening = make_screening(config(), context.task, ready, context, None)
    assert screening is not None
    assert list(relative_importance(context.scores)) == list(wanted)


def test_another_importance_is_not_taken_for_it() -> None:
    ready, context = made()
    trial = context.start(Spec(0, candidate(ready, Selection("l1")), 0))
    trial._run.build()
    own = importance.scores(ready.dense, ready.graph, "l1")
    kept = trial._run.kept_indices
    assert dict(kept) == importance.best_units(own, {n: len(u) for n, u in kept.items()})


def test_nothing_is_scored_where_nothing_needs_it(tmp_path: Path) -> None:
    _, context = made(importance="l2", repair=True, ratios={"per": "global"})
    assert context.calibration is not None
    assert context.scores is None


def test_the_arithmetic_of_the_configuration_is_what_workers_train_in() -> None:
    given, task = config().model_copy(update={"arithmetic": "bfloat16"}), Wider()
    ready = prepare(given, task, lambda text: None)
    context = make_context(given, task, ready, ".", lambda text: None)
    assert context.precision == Precision(bf16=True)
