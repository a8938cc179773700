"""Commands that look at a model or at this machine: profile, doctor, schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.application import app
from autoprune.cli.terminal import say
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.device.profile import DeviceProfile


@app.command()
def profile(
    target: Annotated[str, typer.Argument(metavar="TASK_OR_CONFIG", help="What to look at.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            "--target",
            help="Runtime, or ssh://user@host; may be repeated. "
            "Default: the configuration's, or torch and onnxruntime.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one forward pass. Default: 1.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Inputs of one forward pass. Default: 1.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=10, help="Most prunings to measure for -o. Default: 100; with --from, 10."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Measure prunings too; write a device profile."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PROFILE", help="With -o: move this profile to --runtime, --threads."
        ),
    ] = None,
) -> None:
    """Count and time the dense model, layer by layer; with -o, fit a latency predictor."""
    from autoprune.config import RunConfig

    config = RunConfig.load(target) if target.endswith((".yaml", ".yml")) else None
    from autoprune.loading import task_of
    from autoprune.profile import profile as measure
    from autoprune.report.profile import render
    from autoprune.tasks.load import load_task

    task = task_of(config) if config else load_task(target)
    places = list(config.targets.values()) if config else []
    known = dict.fromkeys(place.runtime for place in places)
    chosen = tuple(runtime or known or ("torch", "onnxruntime"))
    threads = threads or _common("threads", [place.threads for place in places])
    batch = batch or _common("batch", [place.batch for place in places])
    if output is None and source is not None:
        raise UsageError("--from makes a device profile · name its file with -o")
    if output is None:
        say(
            render(
                target, measure(task, runtimes=chosen, threads=threads, batch=batch, config=config)
            )
        )
        return
    if len(chosen) != 1:
        raise UsageError("a device profile is of one runtime · add e.g. --runtime onnxruntime")
    if output.exists():
        raise UsageError(f"{output} exists and is not overwritten · choose another name")
    from autoprune.device.profile import DeviceProfile
    from autoprune.profile import fit_device, move_device

    if source is None:
        made = fit_device(task, chosen[0], threads=threads, batch=batch, samples=samples or 100)
    else:
        made = move_device(
            task, DeviceProfile.load(source), chosen[0], threads=threads, samples=samples or 10
        )
    made.save(output)
    _say_profile(made, target, output)


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
