"""The sections of a configuration, their types and the sensible limits of their values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from autoprune.cost_fields import DEVICE_NAME
from autoprune.printable import shown


class Section(BaseModel):
    """What every part of a configuration is: frozen, and without keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _whole(value: object) -> object:
    """`3.0` and `"3"` are no counts, `true` is no number: YAML's types are taken as written."""
    if isinstance(value, (bool, str)):
        raise ValueError("a number is needed")
    return value


def _at_most(limit: float, why: str) -> AfterValidator:
    """A sensible largest value: what is above it is a slip, found before hours of work."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"must be at most {limit:g} ({why})")
        return value

    return AfterValidator(check)


def _plain_text(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must not be empty, nor hold a null byte")
    return value


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_whole)]
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_plain_text)]
MOST_TRIALS, MOST_MINUTES = 1_000_000, 525_600
_Trials = _at_most(MOST_TRIALS, "records are read as a whole")
_Epochs = _at_most(1e5, "recovery is a short training")
_Minutes = _at_most(MOST_MINUTES, "a year")
_Rungs = _at_most(20, "each is at half the epochs of the next")
_Processes = _at_most(1024, "each is a process of its own")
_Seed = _at_most(2**32 - 1, "32 bits")
_Samples = _at_most(1e7, "they are kept in memory")
_Screened = _at_most(1e5, "all are scored before each trial")
_Timeout = _at_most(604_800, "a week")
_Threads = _at_most(1024, "no processor has more")
_Batch = _at_most(65_536, "the inputs of one forward pass are kept in memory")


class DeviceConfig(Section):
    """A place where latency counts: a runtime of `cost.targets` or an `ssh://` address.

    `profile` is a file that `autoprune profile -o` wrote, and says the other three.
    """

    profile: Text | None = None
    runtime: Text = "onnxruntime"
    threads: Annotated[Count, _Threads] = 1
    batch: Annotated[Count, _Batch] = 1


class RayConfig(Section):
    """Where trials are trained: in a Ray session of this machine, or in a cluster.

    `address` is that of a running cluster as `ray.init` takes it (`auto`, `host:port`); by default
    what the environment variable RAY_ADDRESS says. `runtime_env` is what its workers get, such as
    `{working_dir: .}` with the task's file. `resources_per_trial` are Ray's, such as `{cpu: 4,
    gpu: 1}`. `storage` is a folder that all nodes share, or a URL, for the states of paused trials.
    """

    address: Text | None = None
    runtime_env: dict[str, Any] = {}
    resources_per_trial: dict[str, Annotated[float, BeforeValidator(_whole), Field(ge=0)]] = {}
    storage: Text | None = None


class BoundConfig(Section):
    """The smallest and the largest ratio (pruned fraction) of some groups."""

    min_ratio: Ratio | None = None
    max_ratio: Ratio | None = None

    @model_validator(mode="after")
    def _in_order(self) -> BoundConfig:
        low, high = self.min_ratio, self.max_ratio
        if low is None and high is None:
            raise ValueError("min_ratio or max_ratio is needed")
        if low is not None and high is not None and low > high:
            raise ValueError("min_ratio must not be above max_ratio")
        return self


def _named(found: dict[str, Any]) -> dict[str, Any]:
    """Models by names that a folder can have."""
    odd = [name for name in found if not DEVICE_NAME.fullmatch(name)]
    if odd:
        raise ValueError(f"a name may hold letters, digits, _ and -, not {shown(odd[0])}")
    return found


def _starting_models(found: dict[str, Any]) -> dict[str, Any]:
    """Two or more."""
    if len(_named(found)) == 1:
        raise ValueError("must name two or more · for a single one: task_args")
    return found


_Models = dict[str, Text | dict[str, Any]]
StartingModels = Annotated[_Models, AfterValidator(_starting_models)]


class BaselineConfig(Section):
    """Which models to compare with are trained, like trials and on top of them.

    `uniform`: one ratio for all groups, at so many costs within the budget; `random`: random widths
    that use it up; `scratch`: whether the best architecture is trained from random weights, too;
    `smaller`: smaller dense models by name, each with a task of its own, or with what the task gets
    on top of `task_args`.
    """

    uniform: Natural = 3
    random: Natural = 1
    scratch: bool = False
    smaller: Annotated[_Models, AfterValidator(_named)] = {}


class SearchConfig(Section):
    """How the search goes; it stops at `trials`, `total_epochs` or `minutes`, what comes first.

    It also stops when the hypervolume of the front has grown by less than 0.5 % over the last
    `patience` trials (0: never).

    `epochs` are the recovery epochs of one trial, `rungs` the evaluations at which poor trials are
    stopped early (0: never). `screen` are the proposals scored right after removal and repair for
    each one that is trained: a quarter as many of the sampler where it draws the allocator's
    variables, else with moves around the front (0: every proposal is trained). `objectives`
    defaults to the task's metric and the first budget field. `levels` are costs below the budget's
    first limit, in its form, where good models are wanted too: the search begins with candidates
    just within each, and half of the allocator's proposals are at the budget or a level.
    `variables` are what the sampler draws beside schedule and recovery: a share of the budget and a
    few offsets that the allocator turns into widths and dropped blocks (`allocation`), or a ratio
    for each group (`ratios`). `auto` is the former where sensitivities are measured.
    """

    sampler: Literal["tpe", "nsga2", "gp", "front", "random"] = "tpe"
    variables: Literal["auto", "allocation", "ratios"] = "auto"
    objectives: Annotated[list[str], Field(min_length=1)] | None = None
    levels: tuple[str | float, ...] = ()
    trials: Annotated[Count, _Trials] = 30
    total_epochs: Positive | None = None
    minutes: Annotated[Positive, _Minutes] | None = None
    patience: Natural = 25
    epochs: Annotated[Positive, _Epochs] = 2.0
    rungs: Annotated[Natural, _Rungs] = 2
    concurrent: Annotated[Count, _Processes] = 2
    seed: Annotated[Natural, _Seed] = 0
    calibration_samples: Annotated[Count, _Samples] = 1024
    screen: Annotated[Natural, _Screened] = 32
    baselines: BaselineConfig = BaselineConfig()
    trial_timeout: Annotated[Positive, _Timeout] | None = None
    equal_failures: Natural = 5
    keep_models: Literal["front", "all"] = "front"
    max_disk: str | None = None
    ray: RayConfig = RayConfig()


Arithmetic = Literal["auto", "float32", "bfloat16"]
Patterns = tuple[Annotated[str, Field(min_length=1)], ...]
