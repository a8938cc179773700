"""Starts Ray, runs the trials, cleans up."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import optuna
import ray
from ray import tune
from ray._private import worker as ray_worker
from ray.tune import TuneError

from autoprune._search.plan import Plan
from autoprune._search.trials.cluster import Delivery, address_of, check_rungs, knock
from autoprune._search.trials.interrupts import Interrupts, Terminated, handlers_kept
from autoprune._search.trials.scheduler import RungScheduler
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune._search.trials.sharing import shared_tensors
from autoprune._search.trials.trainable import Context, PruneTrial
from autoprune.config.sections import RayConfig
from autoprune.cost.targets import cores
from autoprune.errors import UsageError, WorkError, first_line
from autoprune.log_level import log_level
from autoprune.printable import quoted
from autoprune.store import TUNE

_LONGEST_FOLDER = 107 - len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
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
    plan: Plan,
    context: Context,
    searcher: BudgetedOptunaSearch,
    folder: Path,
    *,
    gpus: float = 0.0,
    cluster: RayConfig | None = None,
) -> None:
    """Train trials until the searcher is finished; returns when every one is recorded.

    `gpus` is one trial's share of the machine's devices. Paused trials save their state in
    `folder`/tune, which is removed at the end, also after an error. SIGTERM and SIGHUP end it with
    Terminated, once the running trials have finished or the grace time is over.
    """
    cluster = cluster or RayConfig()
    interrupts = Interrupts()
    with (
        _environment(plan.concurrent),
        quiet(),
        session(plan.concurrent, gpus=gpus, cluster=cluster, folder=folder) as is_joined,
        interrupts.listening(),  # inside: a Ray that starts sets handlers of its own
    ):
        try:
            if is_joined:
                context.delivery = Delivery.open(folder.resolve())
                check_rungs(context.delivery, plan.rungs, cluster.storage)
            _tune(plan, context, searcher, folder, interrupts, _resources(cluster, gpus), cluster)
            interrupts.check(idle=True)
        except (TuneError, OSError) as error:
            raise searcher.ledger.failure or _work_error(error, folder) from error
        finally:
            shutil.rmtree(folder / TUNE, ignore_errors=True)


def _tune(
    plan: Plan,
    context: Context,
    searcher: BudgetedOptunaSearch,
    folder: Path,
    interrupts: Interrupts,
    resources: dict[str, float],
    cluster: RayConfig,
) -> None:
    # where nodes are other machines, each gets its own copy
    alone = context.delivery is None
    with shared_tensors(folder.resolve() / TUNE / "shared") if alone else nullcontext():
        trainable = tune.with_parameters(PruneTrial, context=context)
    tune.run(
        trainable,
        name=f"{folder.name}-from-{len(searcher.ledger.records)}",
        storage_path=cluster.storage or str((folder / TUNE).resolve()),
        search_alg=searcher,
        scheduler=RungScheduler(plan, searcher, interrupts),
        num_samples=-1,
        resources_per_trial=resources,
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_dirname_creator=lambda trial: trial.trial_id,
        verbose=0,
    )


def _resources(cluster: RayConfig, gpus: float) -> dict[str, float]:
    return {"cpu": 1, "gpu": gpus, **cluster.resources_per_trial}


def _work_error(error: Exception, folder: Path) -> WorkError:
    """Why Ray Tune gave up, in one line."""
    text = str(error).strip()
    if os.strerror(errno.ENOSPC) in text:
        return WorkError(
            f"{folder} cannot be written: the disk is full · free some space, then: autoprune "
            f"resume {folder}; what was finished is saved"
        )
    last = text.splitlines()[-1][:300] if text else type(error).__name__
    return WorkError(f"Ray Tune stopped: {last} · go on with: autoprune resume {quoted(folder)}")


@contextmanager
def session(
    concurrent: int,
    *,
    gpus: float = 0.0,
    cluster: RayConfig | None = None,
    folder: Path | None = None,
) -> Iterator[bool]:
    """A Ray session; whether it is of a cluster, or was there before, and is left running.

    One that is running in this process is used and kept; then the cluster's address; else one is
    started here with a CPU slot per trial. Raises WorkError where that fails; of a search, `folder`
    is what to go on with.
    """
    cluster = cluster or RayConfig()
    address = address_of(cluster)
    if ray.is_initialized():
        yield len(ray.nodes()) > 1  # type: ignore[no-untyped-call]
        return
    with handlers_kept(), _writable_home(), _workers_silent():
        try:
            if address:
                _join(address, cluster)
            else:
                with _start_named(folder):
                    _start(concurrent, gpus, cluster)
        except SystemExit as error:  # Ray's own answer to SIGTERM, until ours is set
            raise Terminated(signal.SIGTERM) from error
        try:
            yield address is not None
        finally:
            ray.shutdown()


def _join(address: str, cluster: RayConfig) -> None:
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=cluster.runtime_env or None,
        )
    except (ConnectionError, ValueError, TimeoutError) as error:
        raise _silent(address, error) from error


def _start(concurrent: int, gpus: float, cluster: RayConfig) -> None:
    variables = {name: str(threads_for(concurrent)) for name in _THREADS}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # of a task's own modules
    own = cluster.runtime_env
    ray.init(
        address="local",
        num_cpus=math.ceil(concurrent * cluster.resources_per_trial.get("cpu", 1)),
        num_gpus=1 if gpus else 0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={**own, "env_vars": {**variables, **own.get("env_vars", {})}},
    )


@contextmanager
def _start_named(folder: Path | None) -> Iterator[None]:
    """What Ray raises where its processes do not start in time becomes a WorkError."""
    try:
        yield
    except Exception as error:  # Ray itself raises Exception
        after = f"; go on with: autoprune resume {quoted(folder)}" if folder else ""
        raise WorkError(
            f"Ray could not start on this machine: {first_line(error)} · mostly the machine is too "
            f"busy, or its memory or disk is full: see autoprune doctor{after}"
        ) from error


@contextmanager
def _workers_silent() -> Iterator[None]:
    """Failures of workers are in the records, not on the screen."""
    printing = ray_worker._worker_logs_enabled
    ray_worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray_worker._worker_logs_enabled = printing


def _silent(address: str, error: Exception) -> UsageError:
    token = "" if "RAY_AUTH_MODE" in os.environ else " · one with a token: RAY_AUTH_MODE=token"
    return UsageError(
        f"no Ray cluster answers at {address}: {first_line(error)} · start one with ray start "
        f"--head, or leave search.ray.address and RAY_ADDRESS out{token}"
    )


def check_session(cluster: RayConfig) -> None:
    """Raise UsageError where a Ray session could not start here, or no cluster answers.

    Ray itself looks for a cluster only after the preparation, and for minutes.
    """
    address = address_of(cluster)
    if address and not ray.is_initialized():
        try:
            knock(address)
        except OSError as error:
            raise _silent(address, error) from error
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if not ray.is_initialized() and len(os.fsencode(folder)) > _LONGEST_FOLDER:
        raise UsageError(
            f"the folder of temporary files must not be longer than {_LONGEST_FOLDER} bytes (Ray's "
            f"sockets lie in it), got {folder} · set RAY_TMPDIR to a shorter one"
        )


@contextmanager
def _writable_home() -> Iterator[None]:
    """A home folder for Ray where the user has none that can be written, as in containers."""
    before = os.environ.get("HOME")
    if before and os.access(before, os.W_OK):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="autoprune-home-") as folder:
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("HOME")
            if before is not None:
                os.environ["HOME"] = before


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def threads_for(concurrent: int) -> int:
    """Each trial's share of the cores that this process may use, at least one.

    No more than `OMP_NUM_THREADS` where that is set.
    """
    share, most = max(1, cores() // concurrent), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(most)) if most.isdecimal() and int(most) else share


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
