"""The JSON schema of the configuration, for editors and other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from autoprune.config import RunConfig
from autoprune.config.presets import presets
from autoprune.cost_fields import AT, DEVICE_NAME, FIELDS, LATENCIES
from autoprune.space import search_space
from autoprune.templates import CONFIG

_LIMIT: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?\s*(%|[A-Za-z]*)\s*$"},
    ]
}


def config_schema() -> dict[str, Any]:
    """A schema of draft 2020-12; descriptions are the comments of what `autoprune init` writes.

    >>> config_schema()["properties"]["task"]["type"]
    'string'
    """
    found = RunConfig.model_json_schema(mode="serialization")  # with the types after checking
    for part in found["$defs"].values():
        part.pop("required", None)  # everything in a section has a default
    properties = found["properties"]
    reference = {"$ref": "#/$defs/DeviceConfig"}
    device = {"anyOf": [reference, {"type": "string"}]}
    properties["budget"] = _budget()
    properties["space"] = {"anyOf": [{"enum": [*presets()]}, _FILE, search_space.schema()]}
    properties["device"] = device
    properties["devices"] = {
        "type": "object",
        "patternProperties": {f"^{DEVICE_NAME.pattern}$": device},
        "additionalProperties": False,
    }
    found["required"] = ["task", "budget"]
    found = json.loads(json.dumps(found))  # nothing is shared: each key gets its own description
    words = _comments() | _MEANINGS
    for inner in _sections(found):
        for key, value in inner.items():
            if key in words:
                value["description"] = words[key]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "autoprune configuration",
    }


def _sections(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The properties of every section."""
    properties = schema["properties"]
    yield properties
    yield properties["budget"]["properties"]
    for part in schema["$defs"].values():
        yield part["properties"]
    keys = properties["space"]["anyOf"][-1]["properties"]
    yield keys
    for part in keys.values():
        yield part.get("properties", {})


_FILE = {"type": "string", "pattern": r"\.ya?ml$"}


def _budget() -> dict[str, Any]:
    by_device = {"type": "object", "additionalProperties": _LIMIT, "minProperties": 1}
    fields: dict[str, Any] = {
        name: {"anyOf": [*_LIMIT["anyOf"], by_device]} if name in LATENCIES else _LIMIT
        for name in FIELDS
    }
    names = "|".join(LATENCIES)
    return {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^({names}){AT}{DEVICE_NAME.pattern}$": _LIMIT},
        "additionalProperties": False,
        "minProperties": 1,
    }


def _comments() -> dict[str, str]:
    """Key to the comment behind it on the same line of the template."""
    return dict(re.findall(r"^[ #]*(\w+):.*? {2,}# (.+)$", CONFIG, re.MULTILINE))


_MEANINGS = {  # of keys without a comment in the template, or where that one is not enough
    "task": "built-in name, path/to/file.py:Class or package.module:Class",
    "budget": "upper limits on costs; all hold together",
    "params": "number of parameters",
    "macs": "multiply-accumulates of one forward pass of the example input",
    "weight_bytes": "bytes of the weights; one byte for each int8 element of a matrix or filter",
    "peak_memory_bytes": "weights, inputs and activations of one forward pass",
    "file_bytes": "size of the file: of float32 as packed (export --format packed), of int8 ONNX",
    "latency_ms": "median latency of one forward pass, in milliseconds; or a rate such as 30 fps",
    "latency_p95_ms": "95th percentile of that latency, in milliseconds",
    "starting_models": "dense models to start from, by name: task_args, or another task, of each",
    "device": "where the latency counts; or a device profile, or an address ssh://user@host",
    "devices": "several of these by name; their latencies are latency_ms@name",
    "train_on": "where candidates are trained",
    "arithmetic": "of their training; auto times it, so equal seeds may differ between machines",
    "space": "what may vary: a preset, a file, or keys",
    "search": "sampler, limits of the search, and training of the trials",
    "profile": "a file of autoprune profile -o, which says runtime, threads and batch",
    "runtime": "what executes the model, or an address ssh://user@host",
    "threads": "threads of one forward pass",
    "batch": "samples of one forward pass",
    "min_ratio": "lowest pruned fraction",
    "max_ratio": "highest pruned fraction",
    "trials": "after so many the search stops; up to ten are first candidates: uniform widths, "
    "the allocator's, other learning rates",
    "seed": "of sampler, initialization and data order",
    "total_epochs": "training epochs of all trials together, after which the search stops",
    "minutes": "time after which the search stops",
    "trial_timeout": "seconds without a report after which a trial is ended; by default ten times "
    "the slowest trial so far",
    "uniform": "models with one ratio for all groups, at so many costs within the budget",
    "random": "models with random widths that use up the budget",
    "scratch": "train the best architecture from random weights, too",
    "smaller": "smaller dense models by name: task_args, or another task, of each",
    "address": "of a running cluster: auto or host:port",
    "runtime_env": "Ray's runtime environment of the workers",
    "resources_per_trial": "Ray's resources of one trial, such as {cpu: 4, gpu: 1}",
    "storage": "folder or URL for the states of paused trials, which all nodes see",
    "ratios": "pruned fractions of the groups",
    "min": "lowest pruned fraction of a group",
    "max": "highest pruned fraction of a group",
    "per": "a ratio for each group, or one for all",
    "round_to": "widths are multiples of it; auto: of what is efficient on the target device",
    "depth": "{max: 0.7}: at most this share of the residual blocks is dropped; false: none",
    "precision": "of finished models; with a list each is evaluated in every one",
    "patterns": "kinds and sparsity of zeros inside of weights, and the score that spreads it",
    "importance": "which units of a group are pruned first",
    "repair": "update the kept weights in closed form before training",
    "schedule": "when units are pruned during training",
    "kind": "at once, or in steps along a curve",
    "begin": "first step, as a share of the training",
    "end": "last step, as a share of the training",
    "steps": "number of steps",
    "recovery": "how a pruned model is trained",
    "optimizer": "auto: adamw for models with attention, otherwise sgd; task: the task's own",
    "lr": "peak learning rate",
    "weight_decay": "of matrices and filters",
    "distillation": "weight of the loss against the dense model's outputs",
    "regularizer": "strength of the penalty on units that are pruned next (gradual pruning)",
    "penalty": "which penalty that is",
    "grad_clip": "largest norm of the gradient; 0: no clipping",
    "warmup": "share of the steps in which the learning rate rises",
    "rewarm": "the learning rate rises again after each removal",
    "ema": "decay of the moving average of the weights that is kept; 0: none",
    "label_smoothing": "weight of equal probabilities in the targets",
    "mixup": "alpha of the blending of samples; 0: none",
    "features": "weight of the distance of attention maps from the dense model's; 0: none",
}
