"""Starts Ray, runs the trials, cleans up."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import ray
from ray import tune
from ray._private import worker as ray_worker

from autoprune._search.interrupts import Interrupts, handlers_kept
from autoprune._search.plan import Plan
from autoprune._search.scheduler import RungScheduler
from autoprune._search.searcher import BudgetedOptunaSearch
from autoprune._search.trainable import Context, PruneTrial
from autoprune.cost.targets import cores
from autoprune.log_level import log_level

FOLDER = "tune"
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 lets anything else on the machine go first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records say it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us as KeyboardInterrupt
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # objectives are inside the report
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # resuming needs none of Tune's own state
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "1e9",
}


def run_trials(
    plan: Plan, context: Context, searcher: BudgetedOptunaSearch, folder: Path, *, gpus: float = 0.0
) -> None:
    """Train trials until the searcher is finished; returns when every one is recorded.

    `gpus` is one trial's share of the machine's devices. Paused trials save their state in
    `folder`/tune, which is removed at the end, also after an error. SIGTERM and SIGHUP end it with
    Terminated, once the running trials have finished or the grace time is over.
    """
    interrupts, ledger = Interrupts(), searcher.ledger
    with (
        _environment(plan.concurrent),
        quiet(),
        session(plan.concurrent, gpus=gpus),
        interrupts.listening(),  # inside: a Ray that starts sets handlers of its own
    ):
        try:
            tune.run(
                tune.with_parameters(PruneTrial, context=context),
                name=f"from-{len(ledger.records)}",
                storage_path=str((folder / FOLDER).resolve()),
                search_alg=searcher,
                scheduler=RungScheduler(plan, searcher, interrupts),
                num_samples=-1,
                resources_per_trial={"cpu": 1, "gpu": gpus},
                reuse_actors=True,
                raise_on_failed_trial=False,
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
            interrupts.check(idle=True)
        finally:
            shutil.rmtree(folder / FOLDER, ignore_errors=True)


@contextmanager
def session(concurrent: int, *, gpus: float = 0.0) -> Iterator[None]:
    """A Ray session with one CPU slot per trial; one that is running already is used and kept."""
    if ray.is_initialized():
        yield
        return
    with handlers_kept(), _own_session(concurrent, gpus):
        yield


@contextmanager
def _own_session(concurrent: int, gpus: float) -> Iterator[None]:
    ray.init(
        num_cpus=concurrent,
        num_gpus=1 if gpus else 0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {name: str(threads_for(concurrent)) for name in _THREADS}},
    )
    printing = ray_worker._worker_logs_enabled
    ray_worker._worker_logs_enabled = False  # failures of workers are in the records
    try:
        yield
    finally:
        ray.shutdown()
        ray_worker._worker_logs_enabled = printing


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def threads_for(concurrent: int) -> int:
    """Each trial's share of the cores that this process may use, at least one."""
    return max(1, cores() // concurrent)


@contextmanager
def _environment(concurrent: int) -> Iterator[None]:
    settings = {**_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrent)}  # start together
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of Ray's and Optuna's loggers, and no warnings about their own future."""
    optuna.logging.get_verbosity()  # sets up its logger, which would reset the level later
    with log_level("ray", "ray.tune", "ray.air", "optuna"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
