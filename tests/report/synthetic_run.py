"""A run folder such as a search leaves, from a seed: for the tests of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.schedule import Schedule
from autoprune.space import FittedSpace
from autoprune.store import (
    DenseReport,
    DenseTest,
    FrontReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    LayerCosts,
    LayerInfo,
    Network,
    RetrainingSummary,
    RunFolder,
    RunState,
    SearchPlan,
    Spread,
)

DEVICE = Device("Intel Xeon 8488C", "onnxruntime", threads=1)
SIZES = {
    f"layer{stage}.{block}.conv{1}": 8 * 2**stage for stage in (1, 2, 3) for block in range(3)
} | {"conv1": 16, "layer2.residual": 32, "layer3.residual": 64}
DENSE_MACS, DENSE_PARAMS, DENSE_MS = 40_550_000, 272_474, 1.42
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))
DENSE = DenseReport(
    {"accuracy": 0.9174, "loss": 0.28},
    Cost(DENSE_PARAMS, DENSE_MACS, DENSE_PARAMS * 4, 1_900_000, 1.40, None, "predicted", DEVICE),
    Cost(DENSE_PARAMS, DENSE_MACS, DENSE_PARAMS * 4, None, DENSE_MS, 1.55, "measured", DEVICE),
)
CONFIG = {
    "task": "digits",
    "task_args": {"depth": 20},
    "budget": {"latency_ms": "60%", "macs": "50%"},
    "device": {"runtime": "onnxruntime", "threads": 1, "batch": 1},
    "search": {"sampler": "tpe", "objectives": None, "trials": 48, "epochs": 4.0, "seed": 0},
}
ENVIRONMENT = {
    "autoprune": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0",
    "ray": "2.60.0",
    "optuna": "5.0.0",
    "onnxruntime": "1.23.0",
    "cpu": "Intel Xeon 8488C",
    "cores": 2,
    "seed": 0,
}


def _candidate(
    rng: np.random.Generator, level: float, uniform: bool, sizes: Mapping[str, int]
) -> Candidate:
    spread = 0.0 if uniform else 0.22
    ratios = {n: float(np.clip(rng.normal(level, spread), 0.0, 0.85)) for n in sizes}
    kind = str(rng.choice(["one_shot", "linear", "cubic", "exponential"]))
    end = 0.0 if kind == "one_shot" else float(rng.choice([0.3, 0.5, 0.7]))
    schedule = Schedule(kind, 0.0, end, 1 if kind == "one_shot" else int(rng.integers(2, 6)))
    recovery = Recovery(float(10 ** rng.uniform(-2.3, -0.9)), float(rng.uniform(0, 1)))
    importance = str(rng.choice(["l1", "l2", "obs", "taylor"]))
    widths = {name: max(1, round(sizes[name] * (1.0 - ratio))) for name, ratio in ratios.items()}
    return Candidate.planned(
        Architecture(widths),
        sizes,
        selection=Selection(importance),
        schedule=schedule,
        recovery=recovery,
    )


def _history(rng: np.random.Generator, final: float, points: int) -> tuple[dict[str, float], ...]:
    return tuple(
        {
            "epoch": float(4 * (k + 1) / 4),
            "train_loss": float(0.35 + 0.9 * np.exp(-1.2 * k) + rng.normal(0, 0.02)),
            "accuracy": float(final - 0.09 * np.exp(-1.1 * k) * (points > 1) + rng.normal(0, 0.002))
            if k < points - 1
            else final,
            "lr": float(0.05 * (1 + np.cos(np.pi * (k + 1) / 4)) / 2),
        }
        for k in range(points)
    )


def record(rng: np.random.Generator, number: int, sizes: Mapping[str, int] = SIZES) -> TrialRecord:
    """One trial of a plausible search."""
    uniform = number < 4
    level = [0.25, 0.35, 0.5, 0.62][number] if uniform else float(rng.uniform(0.25, 0.7))
    candidate = _candidate(rng, level, uniform, sizes)
    share = float(np.mean([(1 - r) ** 1.6 for r in candidate.architecture.ratios(sizes).values()]))
    skill = 0.0 if uniform else float(rng.uniform(0.0, 0.02))
    accuracy = 0.918 - 0.075 * (1 - share) ** 2.2 - 0.01 * rng.random() + skill * (1 - share)
    ms = DENSE_MS * (0.12 + 0.88 * share)
    params = int(DENSE_PARAMS * share)
    predicted = Cost(
        params,
        int(DENSE_MACS * share * rng.uniform(0.95, 1.05)),
        params * 4,
        int(1_900_000 * (0.4 + 0.6 * share)),
        float(ms * rng.uniform(0.94, 1.06)),
        None,
        "predicted",
        DEVICE,
    )
    base = {
        "number": number,
        "candidate": candidate,
        "seed": 1000 + number,
        "origin": f"seed:uniform {level:g}" if uniform else "seed:least-0" if number < 8 else "tpe",
        "predicted": predicted,
    }
    if number == 11:
        error = "Traceback (most recent call last):\n  …\nTrainingError: loss became nan in epoch 1"
        return TrialRecord(state="failed", error=error, epochs=1.0, **base)
    if not uniform and share > 0.5:
        over = "macs 24.1 M is over the budget of 20.3 M"
        return TrialRecord(state="infeasible", error=over, **base)
    stopped = number >= 8 and number % 3 == 0
    points = 1 if stopped else 4
    value = float(accuracy - (0.05 if stopped else 0.0))
    return TrialRecord(
        state="stopped" if stopped else "complete",
        epochs=float(points),
        metrics={"accuracy": value, "loss": float(1.2 - value)},
        history=_history(rng, value, points),
        times={"train_s": 9.1 * points * share, "evaluate_s": 0.6 * points, "build_s": 0.05},
        artifact=None if stopped else f"models/{number}",
        **base,
    )


def _measured(rng: np.random.Generator, trial: TrialRecord) -> TrialRecord:
    assert trial.predicted is not None
    ms = float(trial.predicted.get("latency_ms") * rng.uniform(0.93, 1.09))
    cost = replace(trial.predicted, latency_ms=ms, latency_p95_ms=ms * 1.08, source="measured")
    return replace(trial, measured=cost)


def network_of(sizes: Mapping[str, int], records: Iterable[TrialRecord]) -> Network:
    """A layer a group and the head: each costs the product of its channels and its inputs'."""

    def costs(widths: Mapping[str, int]) -> LayerCosts:
        channels = [widths.get(name, size) for name, size in sizes.items()] + [10]
        inputs = [3, *channels[:-1]]
        macs = [900 * a * b for a, b in zip(inputs, channels, strict=True)]
        return LayerCosts(tuple(channels), tuple(macs), tuple(m / 40e6 for m in macs))

    layers = [LayerInfo(name, "convolution", name, name.rpartition(".")[0]) for name in sizes]
    models = {str(r.number): costs(r.candidate.architecture.widths) for r in records}
    return Network(
        (*layers, LayerInfo("linear", "addmm")),
        {"dense": costs({}), **models},
        "latency_ms",
        {name: 1.0 / (2 + place) for place, name in enumerate(sizes)},
    )


def make_thousand(path: Path) -> RunFolder:
    """A finished run of 1,000 trials: 60 layers, 30 of its models on the front."""
    sizes = {f"layer{n // 20 + 1}.{n % 20 // 2}.conv{n % 2 + 1}": 16 + n for n in range(60)}
    run = make_run(path, 1000, sizes=sizes)
    records, stored = run.records(), run.front()
    assert stored is not None
    better = []
    for place, trial in enumerate([r for r in records if r.state == "complete"][-30:]):
        assert trial.predicted is not None
        share = (place + 1) / 31
        cost = replace(trial.predicted, latency_ms=0.8 * share, source="measured")
        metrics = {**trial.metrics, "accuracy": 0.93 + 0.05 * share}
        better.append(replace(trial, measured=cost, metrics=metrics))
        run.append(better[-1])
    front = replace(stored.front, records=tuple(better))
    assert len(front) == 30
    run.save_front(replace(stored, front=front))
    run.save_network(network_of(sizes, better))
    return run


def make_run(
    path: Path,
    trials: int = 48,
    *,
    seed: int = 0,
    finished: bool = True,
    sizes: Mapping[str, int] = SIZES,
    **config: Any,
) -> RunFolder:
    """A finished run: front measured, one member retrained. Or one that is still going on."""
    rng = np.random.default_rng(seed)
    run = RunFolder.create(path, {**CONFIG, **config}, ENVIRONMENT)
    budgets = (run.config.budget, *run.config.levels)
    space = FittedSpace.of(run.config.space, sizes)
    run.save_plan(SearchPlan.of(OBJECTIVES, (0.1, DENSE_MS), budgets, space, DENSE.predicted))
    records = [record(rng, number, sizes) for number in range(trials)]
    if not finished:
        for trial in records:
            run.append(trial)
        return run
    numbers = {r.number for r in ParetoFront(OBJECTIVES, tuple(records))} | {0, 1, 2, 3}
    records = [_measured(rng, r) if r.number in numbers else r for r in records]
    for trial in records:
        run.append(trial)
    front = ParetoFront(OBJECTIVES, tuple(records), (0.1, DENSE_MS), "measured")
    run.save_dense(DENSE)
    run.save_front(FrontReport(front))
    run.save_state(RunState("done", 1312.4))
    held_out = [[float(ms), float(ms * rng.uniform(0.9, 1.1))] for ms in rng.uniform(0.2, 1.3, 40)]
    device = {"device": {"name": DEVICE.name}, "error": 0.047, "held_out": held_out}
    run.save_profile("", {**device, "dense_ms": 1.4})
    groups = tuple(GroupInfo(name, "channel", size) for name, size in sizes.items())
    run.save_groups(Groups(groups, (FrozenInfo("linear", 10, "output of the model"),)))
    run.save_network(network_of(sizes, front.members))
    kept = {name: [size // 2, size] for name, size in sizes.items()}
    rises = {name: [0.1 * place, 0.0] for place, name in enumerate(sizes)}
    run.save_sensitivity({"dense": 0.0, "kept": kept, "damage": rises})
    run.save_importances(
        {
            "accuracy": {"recovery.lr": 0.41, "ratio.layer1.0.conv1": 0.2, "schedule.kind": 0.08},
            "latency_ms": {"ratio.layer1.0.conv1": 0.5, "ratio.conv1": 0.3, "recovery.lr": 0.0},
        },
    )
    assert front.knee is not None
    best = front.knee
    run.retraining(best.number).save_summary(
        RetrainingSummary(
            number=best.number,
            candidate=best.candidate,
            epochs=20.0,
            seeds=(0, 1, 2),
            test={"accuracy": Spread(0.9112, 0.0011)},
            dense=DenseTest({"accuracy": 0.9170}, replace(DENSE.measured, latency_ms=1.5)),
            measured=best.measured,
        )
    )
    return run
