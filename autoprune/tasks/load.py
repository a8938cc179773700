"""From a reference to a task, and from a task to its trained dense model."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks import checkpoints
from autoprune.tasks.base import Task, default_recipe
from autoprune.tasks.failures import name_of, named
from autoprune.tasks.folders import DATA_VARIABLE, cache_folder, check_writable
from autoprune.tasks.origin import Origin, origin_of
from autoprune.tasks.primitives import limit_kept_operations

BUILT_IN: dict[str, str] = {
    "digits": "autoprune.tasks.digits:Digits",
}
OBJECT = "python:"  # begins the reference of a task that was given as an object
_DENSE_SEED = 0
_LINES = 10  # said of a training of the dense model

log = logging.getLogger(__name__)


def load_task(
    reference: str,
    *,
    base: Path | None = None,
    data: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
) -> Task:
    """The task that `reference` names, constructed with `args`.

    `reference` is the built-in `digits`, `path/to/file.py:MyTask` (relative to `base`, the
    configuration's folder; by default the current one) or `package.module:MyTask`. A `checkpoint`
    among `args` may be relative to `base` too. A class with an argument `data` gets the data
    folder: `data`, or else the environment variable AUTOPRUNE_DATA. Raises TaskError in one line.

    >>> load_task("digits").metric
    'accuracy'
    """
    cls = task_class(reference, base=base)
    task = _construct(cls, reference, dict(args or {}), data)
    if not isinstance(task.metric, str) or not task.metric:
        raise TaskError(
            f"{reference}: metric must be a key of evaluate's answer, got {task.metric!r}"
        )
    if task.direction not in ("maximize", "minimize"):
        raise TaskError(
            f"{reference}: direction must be 'maximize' or 'minimize', got {task.direction!r}"
        )
    given = vars(task).get("checkpoint")
    if given is not None and base is not None and (Path(base) / given).is_file():
        task.checkpoint = (Path(base) / given).resolve()
    return task


def task_class(reference: str, *, base: Path | None = None) -> type[Task]:
    """The class that `reference` names; see `load_task`. Raises TaskError."""
    where, colon, name = BUILT_IN.get(reference, reference).rpartition(":")
    if not colon or not name.isidentifier() or not where:
        raise _unknown_reference(reference)
    module = _origin(where, Path(base or Path.cwd()).resolve()).load()
    found = getattr(module, name, None)
    here = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    if found is None:
        tasks = [key for key in here if issubclass(vars(module)[key], Task)] or here
        raise TaskError(
            f"{where} holds no class {name!r} · it holds {', '.join(tasks) or 'no class at all'}"
        )
    if not inspect.isclass(found) or not issubclass(found, Task):
        raise TaskError(
            f"{where}: {name} must be a class that derives from autoprune.Task, got "
            f"{_described(found)}"
        )
    if found.__abstractmethods__:
        raise TaskError(
            f"{where}: {name} must define {', '.join(sorted(found.__abstractmethods__))}"
        )
    return found


def place_of(where: str, base: Path) -> str:
    """The file that a reference's first part means, absolute; a module with its folder.

    >>> place_of("jobs/task.py", Path("/home/me")), place_of("jobs.task", Path("/home/me"))
    ('/home/me/jobs/task.py', 'jobs.task in /home/me')
    """
    origin = _origin(where, base.resolve())
    return origin.file or f"{origin.module} in {base.resolve()}"


def built(task: Task) -> nn.Module:
    """What `task.build_model` returns. Raises TaskError where it fails, or that is no module."""
    place = f"{name_of(task)}.build_model"
    with named(place):
        model: object = task.build_model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"{place} must return an nn.Module, got {_described(model)}")
    return model


def load_dense(
    task: Task,
    cache: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """The trained dense model of `task`, in eval mode on `device`.

    In this order: the task's `checkpoint`; what an earlier call has trained and kept in the folder
    `cache` (by default AUTOPRUNE_CACHE or ~/.cache/autoprune); `build_model()` as it is, where
    `dense_epochs` is 0; else `task.train_dense` with a fixed seed, kept as safetensors. The
    caller's random state is left alone. `say` is told where the weights come from, and of the
    default recipe how far the training is. Raises TaskError when `build_model` fails, the weights
    do not fit, or the task has neither a checkpoint nor `dense_epochs`.
    """
    name = name_of(task)
    with torch.random.fork_rng():
        torch.manual_seed(_DENSE_SEED)
        model = built(task)
        limit_kept_operations(model)
        model.to(device)
        if task.checkpoint is not None:
            checkpoints.load(model, _checkpoint_path(task), task=name)
        elif task.dense_epochs != 0:
            place = Path(cache) if cache else cache_folder()
            _cached_or_trained(task, model, place, say or (lambda note: None))
    return model.eval()


def check_weights(task: Task) -> None:
    """Raise TaskError where a task names no trained weights, or a checkpoint that is not there."""
    if task.checkpoint is not None:
        _checkpoint_path(task)
    elif task.dense_epochs is None and type(task).train_dense is Task.train_dense:
        raise TaskError(
            f"{name_of(task)} must name its trained weights: set checkpoint = 'file.safetensors' · "
            "or dense_epochs = E to train them once, or dense_epochs = 0 when build_model returns "
            "trained weights"
        )


def _cached_or_trained(
    task: Task, model: nn.Module, cache: Path, say: Callable[[str], None]
) -> None:
    name = name_of(task)
    check_weights(task)
    path = cache / "dense" / f"{name.lower()}-{_fingerprint(task, model)}.safetensors"
    if path.is_file():
        log.info("dense model of %s from %s (delete the file to train it again)", name, path)
        say(f"the dense model, trained before: {path}")
        checkpoints.load(model, path, task=name)
        return
    check_writable(path.parent)
    log.info("%s has no checkpoint: its dense model is trained once and kept in %s", name, path)
    with named(f"{name}.train_dense"):
        _train(task, model, say)
    checkpoints.save(model, path)


def _train(task: Task, model: nn.Module, say: Callable[[str], None]) -> None:
    """Train the dense model; of the default recipe each tenth of the training is said."""
    epochs = task.dense_epochs or 0
    if type(task).train_dense is not Task.train_dense:
        say("the dense model: train_dense of the task")
        task.train_dense(model, seed=_DENSE_SEED)
        return

    def on_epoch(number: int, loss: float) -> None:
        if number * _LINES // epochs > (number - 1) * _LINES // epochs:
            say(f"the dense model: epoch {number} of {epochs}, loss {loss:.4g}")

    say(f"the dense model: {epochs} epochs of AdamW, peak learning rate {task.dense_lr:g}")
    default_recipe(task, model, _DENSE_SEED, on_epoch)


def _fingerprint(task: Task, model: nn.Module) -> str:
    """What a cached dense model depends on: class, settings, architecture, recipe and source."""
    settings = {key: _text(value) for key, value in vars(task).items() if key[:1] != "_"}
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    recipe = (task.dense_epochs, task.dense_lr)
    parts = (type(task).__qualname__, settings, shapes, _text(model), recipe, *_source(type(task)))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _source(cls: type[Task]) -> tuple[str, ...]:
    """Path and digest of the file of a user's task, with its data and loaders."""
    if cls.__module__.split(".")[0] == "autoprune":
        return ()
    try:
        file = Path(inspect.getsourcefile(cls) or "").resolve()
        return str(file), hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, TypeError):  # typed into a console
        return ()


def _text(value: object) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # addresses differ in every process


def _checkpoint_path(task: Task) -> Path:
    given = Path(str(task.checkpoint)).expanduser()
    origin = origin_of(type(task))
    folders = [Path(folder) for folder in origin.folders] if origin else []
    tried = [folder / given for folder in (*folders, Path.cwd())]
    for path in tried:
        if path.is_file():
            return path
    raise TaskError(
        f"{name_of(task)}: checkpoint {tried[0]} does not exist · give an absolute path, or "
        "one relative to the task's file"
    )


def _origin(where: str, base: Path) -> Origin:
    if where.endswith(".py"):
        path = (base / Path(where).expanduser()).resolve()
        return Origin(str(path), "", tuple(dict.fromkeys((str(path.parent), str(base)))))
    if where.split(".")[0] == "autoprune":
        return Origin(None, where, ())
    return Origin(None, where, tuple(dict.fromkeys((str(base), str(Path.cwd())))))


def _unknown_reference(reference: str) -> TaskError:
    names = ", ".join(BUILT_IN)
    near = difflib.get_close_matches(reference, BUILT_IN, n=1)
    hint = f" · did you mean {near[0]}?" if near else ""
    return TaskError(
        f"task must be one of {names}, path/to/file.py:MyTask or package.module:MyTask, "
        f"got {reference!r}{hint}"
    )


def _construct(
    cls: type[Task], reference: str, args: dict[str, Any], data: str | Path | None
) -> Task:
    parameters = inspect.signature(cls).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in args:
        if key not in parameters and not takes_all:
            near = difflib.get_close_matches(key, parameters, n=1)
            hint = f" · did you mean {near[0]}?" if near else ""
            known = ", ".join(parameters) or "none"
            raise TaskError(
                f"task_args.{key} is no argument of {reference}, which takes {known}{hint}"
            )
    folder = data or os.environ.get(DATA_VARIABLE)
    if "data" in parameters and folder:
        args.setdefault("data", Path(folder).expanduser().absolute())  # workers change directory
    elif data and "data" not in parameters and not takes_all:
        raise TaskError(f"{reference} reads no data folder, got data: {data} · remove the key data")
    try:
        return cls(**args)
    except TaskError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise TaskError(f"{reference} cannot be made: {type(error).__name__}: {text}") from error


def _described(value: object) -> str:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        return f"a class that derives from {bases}"
    return f"a value of type {type(value).__name__}"
