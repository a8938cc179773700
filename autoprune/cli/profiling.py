"""Commands that look at a model or at this machine: profile, doctor, schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.application import app
from autoprune.cli.terminal import say
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.config import RunConfig
    from autoprune.device.profile import DeviceProfile
    from autoprune.tasks.base import Task

TargetArgument = Annotated[str, typer.Argument(metavar="TASK_OR_CONFIG", help="What to look at.")]
RuntimeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        "--target",
        help="Runtime, or ssh://user@host; may be repeated. "
        "Default: the configuration's, or torch and onnxruntime.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of one forward pass. Default: 1.")
]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Inputs of one forward pass. Default: 1.")
]
SamplesOption = Annotated[
    int | None,
    typer.Option(min=10, help="Most prunings to measure for -o. Default: 100; with --from, 10."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Measure prunings too; write a device profile."),
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="PROFILE", help="With -o: move this profile to --runtime, --threads."
    ),
]


@app.command()
def profile(
    target: TargetArgument,
    runtime: RuntimeOption = None,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    samples: SamplesOption = None,
    output: OutputOption = None,
    source: SourceOption = None,
) -> None:
    """Count and time the dense model, layer by layer; with -o, fit a latency predictor."""
    _check_options(batch, samples, output, source)
    config, task = _looked_at(target)
    conditions = _Conditions.chosen(config, runtime, threads, batch)
    if output is not None:
        _check_output(conditions, output)
        made = _device_profile(task, conditions, samples, source)
        made.save(output)
        _say_profile(made, target, output)
    else:
        _say_costs(target, task, conditions, config)


@dataclass(frozen=True)
class _Conditions:
    """Where and how the model is run."""

    runtimes: tuple[str, ...]
    threads: int
    batch: int

    @staticmethod
    def chosen(
        config: RunConfig | None,
        runtimes: Sequence[str] | None,
        threads: int | None,
        batch: int | None,
    ) -> _Conditions:
        """As the command says; what it leaves open is as in the configuration.

        Raises UsageError where the devices of the configuration differ in that.
        """
        places = list(config.targets.values()) if config else []
        known = dict.fromkeys(place.runtime for place in places)
        return _Conditions(
            tuple(runtimes or known or ("torch", "onnxruntime")),
            threads or _common("threads", [place.threads for place in places]),
            batch or _common("batch", [place.batch for place in places]),
        )


def _looked_at(target: str) -> tuple[RunConfig | None, Task]:
    """The configuration, if the target is one, and the task."""
    from autoprune.config import RunConfig

    config = RunConfig.load(target) if target.endswith((".yaml", ".yml")) else None
    from autoprune.loading import task_of
    from autoprune.tasks.load import load_task

    return config, task_of(config) if config else load_task(target)


def _say_costs(target: str, task: Task, conditions: _Conditions, config: RunConfig | None) -> None:
    from autoprune.profile import profile as measure
    from autoprune.report.profile import render

    found = measure(
        task,
        runtimes=conditions.runtimes,
        threads=conditions.threads,
        batch=conditions.batch,
        config=config,
    )
    say(render(target, found))


def _check_options(
    batch: int | None, samples: int | None, output: Path | None, source: Path | None
) -> None:
    for name, given in (("--from", source), ("--samples", samples)):
        if output is None and given is not None:
            raise UsageError(f"{name} makes a device profile · name its file with -o")
    if source is not None and batch is not None:
        raise UsageError("--from keeps the batch of the profile · leave out --batch")


def _check_output(conditions: _Conditions, output: Path) -> None:
    if len(conditions.runtimes) != 1:
        raise UsageError("a device profile is of one runtime · add e.g. --runtime onnxruntime")
    if output.exists():
        raise UsageError(f"{output} exists and is not overwritten · choose another name")


def _device_profile(
    task: Task, conditions: _Conditions, samples: int | None, source: Path | None
) -> DeviceProfile:
    """A device profile that is fitted, or moved from `source`."""
    from autoprune.device.profile import DeviceProfile
    from autoprune.profile import fit_device, move_device

    [runtime], threads = conditions.runtimes, conditions.threads
    if source is None:
        return fit_device(
            task, runtime, threads=threads, batch=conditions.batch, samples=samples or 100
        )
    known = DeviceProfile.load(source)
    return move_device(task, known, runtime, threads=threads, samples=samples or 10)


def _say_profile(made: DeviceProfile, target: str, output: Path) -> None:
    fit = made.predictor
    say(f"measured {len(fit.samples)} prunings of {target}: {made.device}")
    say(
        f"dense {fit.dense_ms:.3g} ms; mean error on held-out prunings {fit.error:.1%}, 95 % stay "
        f"below {fit.upper_factor:.2f} x predicted"
    )
    say(f"wrote {output}")
    say(f"next  device: {output} in the configuration of a search")


def _common(name: str, values: Sequence[int]) -> int:
    """What all devices of a configuration have; 1 without any."""
    if len(set(values)) > 1:
        raise UsageError(f"the devices differ in {name} · choose one: --{name} {values[0]}")
    return values[0] if values else 1


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Also check what this configuration needs."),
    ] = None,
) -> None:
    """Check this machine: versions, threads, int8 instructions, folders, runtimes that load."""
    from autoprune.doctor import examine
    from autoprune.report.doctor import render

    found = examine(config)
    say(render(found))
    if any(check.state == "bad" for check in found):
        raise typer.Exit(1)


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: print it.")
    ] = None,
) -> None:
    """The JSON schema of the configuration, for editors."""
    import json

    from autoprune.schema import config_schema

    text = json.dumps(config_schema(), indent=2)
    if output is None:
        say(text)
        return
    output.write_text(text + "\n", encoding="utf-8")
    say(f"wrote {output}")
    say(f"next  first line of the YAML: # yaml-language-server: $schema={output}")
