"""Commands for selected models: retrain, export, quantize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from autoprune.architecture import INT8
from autoprune.candidate import Recovery
from autoprune.cli.application import PICK, PickOption, Quiet, RunArgument, Trust, app
from autoprune.cli.terminal import code_of, fail, say
from autoprune.config.yaml_file import set_key
from autoprune.errors import UsageError
from autoprune.pick import RECOMMENDED
from autoprune.space.settings import as_mapping, check_keys

if TYPE_CHECKING:
    from autoprune._export import Exported
    from autoprune.report.data import RunView
    from autoprune.store import QuantizationSettings, RateTrial, RetrainingSummary

_MAX_DROP = 0.01
CalibrationSamples = Annotated[
    int | None, typer.Option(min=1, help="int8: training samples for ranges. Default: 512.")
]
CalibrationMethod = Annotated[
    str | None,
    typer.Option("--calibration", help="int8: percentile or minmax. Default: percentile."),
]
WeightBits = Annotated[
    int | None,
    typer.Option(
        min=7, max=8, help="int8: 8 is for processors with int8 dot products. Default: 7."
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="int8: warn where the metric is worse by this share. Default: 0.01."
    ),
]
Split = Annotated[
    str | None, typer.Option(help="int8: val; or test, to read the test split too. Default: val.")
]


@app.command()
def retrain(
    run: RunArgument,
    pick: PickOption = RECOMMENDED,
    epochs: Annotated[float, typer.Option(help="Epochs of training for each seed.")] = 20.0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate. Default: the trial's, SGD's grown with the length."),
    ] = None,
    distillation: Annotated[
        float | None, typer.Option(help="Distillation weight instead of the trial's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a setting of recovery or schedule, e.g. recovery.ema=0.99.",
        ),
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr", help="Try four rates in short trainings first (half as long as one seed)."
        ),
    ] = False,
    quantization_aware: Annotated[
        bool | None,
        typer.Option(
            "--quantization-aware/--no-quantization-aware",
            help="Simulate int8 in the last fifth of training (default: where it lost 1 %).",
        ),
    ] = None,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Retrain a selected model from the dense weights, and test it."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is reported at once
    from autoprune import api
    from autoprune.report import commands, terminal, text
    from autoprune.report.read import read

    replaced = _sections(settings or [])
    try:
        done = api.retrain(
            run,
            pick=pick,
            epochs=epochs,
            seeds=seeds,
            lr=lr,
            distillation=distillation,
            recovery=replaced.get("recovery"),
            schedule=replaced.get("schedule"),
            find_lr=find_lr,
            quantization_aware=quantization_aware,
            on_entry=None if quiet else _Entries(epochs),
            on_rate=None if quiet else _say_rate,
            trust=trust,
        )
    except KeyboardInterrupt as error:
        fail("stopped; checkpoints are saved · the same command resumes", code_of(error))
    view = read(done.path.parents[1])
    say(terminal.retrained_table(view))
    for line in (*_seeds(done.summary), *_goal(view, done.summary)):
        say(line)
    recovery = done.summary.candidate.recovery
    rate = f"peak learning rate {recovery.lr:.3g}{_grown(view, done.summary)}"
    say(f"optimizer {text.optimizer(recovery.optimizer)}, {rate}")
    for line in _speeds(done.summary):
        say(line)
    say(f"wrote {done.path}")
    precision = done.summary.candidate.architecture.precision
    for place, line in enumerate(commands.exports(done.path, RunFolder(run).config, precision)):
        say(f"{'next' if not place else '    '}  {line}")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run or a saved model.")],
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            help="onnx, pt2, openvino, ncnn, executorch, litert, coreml or packed. "
            "Default: by --output, or onnx."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: model.ENDING beside the model.")
    ] = None,
    pick: Annotated[str, typer.Option(help=f"{PICK}; or dense.")] = RECOMMENDED,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch size free.")] = False,
    precision: Annotated[str, typer.Option(help="float32, or int8: quantized.")] = "float32",
    calibration_samples: CalibrationSamples = None,
    calibration: CalibrationMethod = None,
    weight_bits: WeightBits = None,
    max_drop: MaxDrop = None,
    split: Split = None,
    trust: Trust = False,
) -> None:
    """Write a model for another runtime, load it there and compare the outputs."""
    settings = _settings(calibration_samples, calibration, weight_bits)
    if precision == "float32" and (settings or max_drop is not None or split is not None):
        raise UsageError(
            "--calibration, --calibration-samples, --weight-bits, --max-drop and --split need "
            "--precision int8"
        )
    test = _is_test(split)
    from autoprune import api
    from autoprune.report import text

    written = api.export(
        path,
        format=format,
        output=output,
        pick=pick,
        dynamic_batch=dynamic_batch,
        precision=cast("api.Precision", precision),
        quantization=_quantization(settings) if precision == "int8" else None,
        test=test,
        trust=trust,
    )
    size = text.cost("weight_bytes", written.size_bytes)
    files = f"{written.path} and {written.weights}" if written.weights else f"{written.path}"
    say(f"wrote {files} ({size}; exporter: {written.exporter})")
    for line in _facts(written):
        say(line)
    if written.format == "packed":
        say("read again: every weight is the same, bit for bit")
        return
    if written.quantization is None:
        say(_compared(written))
        if written.precision == INT8:
            say("this file is float32, the model was searched for int8 · --precision int8")
        return
    from autoprune.report import int8

    for line in int8.lines(written.quantization):
        say(line)
    for line in int8.warnings(written.quantization, _MAX_DROP if max_drop is None else max_drop):
        say(f"warning: {line}")


def _facts(written: Exported) -> Iterator[str]:
    """Which model a file holds, and what it takes."""
    if written.model:
        yield f"model: {written.model}"
    if not written.inputs:
        return
    shapes = (f"{name} {_by(sizes)}" for name, sizes in written.inputs.items())
    first = next((sizes[0] for sizes in written.inputs.values() if sizes), "")
    fixed = f" · only batches of {first}; --dynamic-batch leaves the batch free"
    yield f"input: {', '.join(shapes)}{fixed if isinstance(first, int) else ''}"


def _by(sizes: Sequence[int | str]) -> str:
    return " x ".join(map(str, sizes)) or "a number"


def _compared(written: Exported) -> str:
    """How the outputs of a file, or of what it was converted from, compare with the model's."""
    most = f"{written.difference:.1e} of the largest output"
    if written.ran:
        return f"reloaded: outputs differ by at most {most}"
    return (
        "not run here (Core ML runs on macOS and iOS only): the outputs of the program it was "
        f"converted from differ by at most {most}; inputs, outputs and types of weights were "
        "checked"
    )


@app.command()
def quantize(
    run: RunArgument,
    calibration_samples: CalibrationSamples = None,
    calibration: CalibrationMethod = None,
    weight_bits: WeightBits = None,
    max_drop: MaxDrop = None,
    split: Split = None,
    trust: Trust = False,
) -> None:
    """Write int8 files of the dense model and of every model of the front, and compare them.

    Of a model that was retrained, it is the retrained one.
    """
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is reported at once
    settings = _quantization(_settings(calibration_samples, calibration, weight_bits))
    test = _is_test(split)
    from autoprune import api
    from autoprune.report import int8

    found = api.quantize(run, quantization=settings, test=test, trust=trust)
    say(int8.front_table(found))
    limit = _MAX_DROP if max_drop is None else max_drop
    for line in int8.warnings(found.dense, limit):
        say(f"warning: dense: {line}")
    for number, report in found.members.items():
        for line in int8.warnings(report, limit):
            say(f"warning: {found.name(number)}: {line}")


def _settings(
    samples: int | None, method: str | None, weight_bits: int | None
) -> dict[str, int | str]:
    """What was said of quantization, by the names of `QuantizationSettings`."""
    said = {"samples": samples, "method": method, "weight_bits": weight_bits}
    return {name: value for name, value in said.items() if value is not None}


def _quantization(said: Mapping[str, Any]) -> QuantizationSettings:
    from autoprune.store import QuantizationSettings

    return QuantizationSettings(**said)


def _is_test(split: str | None) -> bool:
    if split not in (None, "val", "test"):
        raise UsageError(f"--split must be val or test, got {split!r}")
    return split == "test"


def _speeds(summary: RetrainingSummary) -> Iterator[str]:
    """For each device, the retrained model's latency beside the dense one's, measured in turns."""
    from autoprune.budget import Cost
    from autoprune.cost_fields import field_at

    small, dense = summary.measured or Cost(), summary.dense.measured or Cost()
    for name in small.names or ("",):
        field, on = field_at("latency_ms", name), f" on {name}" if name else ""
        ours, theirs, sure = small.value(field), dense.value(field), small.confidence_of(name)
        if ours is None or theirs is None:
            yield "latency not measured: the target devices are other machines"
            continue
        gain, note = 1.0 / sure.ratio if sure else theirs / ours, small.note(name)
        yield (
            f"measured {ours:.3g} ms{on}, dense {theirs:.3g} ms: {gain:.2f} times the speed "
            f"({small.device_of(name)})" + (f" · {note}" if note else "")
        )


def _sections(settings: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What `--set recovery.KEY=VALUE` and `--set schedule.KEY=VALUE` replace, by section."""
    data: dict[str, Any] = {}
    for setting in settings:
        set_key(data, setting)
    known = [each.name for each in fields(Recovery)]
    for key in (key for key in data if key in known):
        raise UsageError(f"--set {key}: write --set recovery.{key}=...")
    check_keys(data, ("recovery", "schedule"), "--set")
    return {name: as_mapping(values, f"--set {name}") for name, values in data.items()}


def _say_rate(tried: RateTrial) -> None:
    score = "diverged" if tried.score is None else f"validation {tried.score:.4g}"
    say(f"learning rate x {tried.factor:g} · {tried.epochs:.3g} epochs at {tried.lr:.3g} · {score}")


class _Entries:
    """Prints the first validation of each seed, and one for each tenth of its training."""

    def __init__(self, epochs: float) -> None:
        self._epochs = epochs
        self._said: dict[int, int] = {}

    def __call__(self, seed: int, entry: Mapping[str, float]) -> None:
        tenth = int(10 * entry["epoch"] / self._epochs + 1e-9)
        if self._said.get(seed) == tenth:
            return
        self._said[seed] = tenth
        shown = {n: v for n, v in entry.items() if n not in ("epoch", "lr", "params")}
        say(f"seed {seed} · epoch {entry['epoch']:g} · {_metrics(shown)}")


def _seeds(summary: RetrainingSummary) -> Iterator[str]:
    """The test of each seed, and what validation had at the end over all of them."""
    from autoprune.report import text

    for each in summary.runs:
        yield f"seed {each.seed} · test {_metrics(each.test)}"
    known = summary.validation.items()
    words = ", ".join(f"{name} {text.spread(name, v.mean, v.std)}" for name, v in known)
    if words:
        yield f"validation at the end: {words}"


def _goal(view: RunView, summary: RetrainingSummary) -> Iterator[str]:
    """Whether validation is as good as a recommended model has to be."""
    from autoprune.report.why import limits_in_words

    known = view.recommendation is not None and not view.recommendation.unknown
    if known and (limits := limits_in_words(view)):
        meets = "meets" if view.is_good_enough(summary) else "does not meet"
        yield f"the validation metric {meets} the limit of a recommended model: {limits}"


def _grown(view: RunView, summary: RetrainingSummary) -> str:
    """The learning rate of the search's trial, where the training has another one."""
    record = next((r for r in view.records if r.number == summary.number), None)
    before, now = (it.candidate.recovery.lr if it else None for it in (record, summary))
    return f" (in the search {before:.3g})" if before and before != now else ""


def _metrics(values: Mapping[str, float]) -> str:
    from autoprune.report import text

    return ", ".join(f"{name} {text.metric(name, value)}" for name, value in values.items())
