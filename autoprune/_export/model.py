"""Write a model, load the file again, and accept it where both agree."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autoprune._export.agreement import compare, resized, variants
from autoprune._export.exported import Exported
from autoprune._export.formats import FORMATS, Format, format_of
from autoprune.cost.inputs import Inputs, as_call, batch_size, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import BATCH, input_names
from autoprune.errors import ConfigError, ExportError
from autoprune.graph.replica import plain


def export_model(
    model: nn.Module,
    path: str | Path,
    example_inputs: Inputs,
    *,
    format: str | None = None,  # noqa: A002
    dynamic_batch: bool = False,
    seed: int = 0,
) -> Exported:
    """Write the model in eval mode, load the file in its runtime, and compare outputs with eager.

    `format` is a key of `FORMATS` (`onnx` runs in ONNX Runtime, `pt2` is `torch.export`'s archive);
    by default the file's ending says it. Compared are the example inputs and random ones like them;
    with `dynamic_batch` (first dimension free) at other batch sizes too. ONNX is written by the
    TorchScript-based exporter, and by the dynamo-based one where that file differs or does not run.
    Only a file that agrees is put at `path`, its weights beside it where the format keeps them in a
    second file; the model is not changed.

    Raises:
        ConfigError: unknown format, an ending that does not fit it, or a folder in the way.
        DeviceError: the format's runtime is not installed.
        ExportError: the model cannot be written, or the file's outputs differ.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "model.onnx"
    >>> exported = export_model(nn.Linear(4, 2), path, torch.zeros(1, 4))
    >>> exported.format, exported.difference < 1e-5, path.exists()
    ('onnx', True, True)
    """
    path = Path(path)
    name = format_of(path, format)
    form = FORMATS[name]
    _check_place(form, path)
    form.check()
    inputs = moved(example_inputs, "cpu")
    if dynamic_batch and batch_size(inputs) < 2:
        inputs = resized(inputs, 2)  # torch.export takes a size of 1 for a constant
    reference = frozen_copy(plain(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        trials = variants(inputs, dynamic_batch, seed)
        draft, exporter, difference = _written(
            form, reference, Path(folder), trials, dynamic_batch=dynamic_batch, name=path.name
        )
        weights = _publish(form, draft, path)
    size = sum(_bytes(file) for file in (path, weights) if file)
    sizes = _sizes(inputs, dynamic_batch)
    return Exported(path, name, exporter, difference, size, None, weights, form.runs, sizes)


def _sizes(inputs: Inputs, dynamic_batch: bool) -> dict[str, tuple[int | str, ...]]:
    """For each input of the file its sizes, the first one `batch` where that is free."""
    shapes: list[tuple[int | str, ...]] = [tuple(each.shape) for each in tensors(as_call(inputs))]
    if dynamic_batch:
        shapes = [(BATCH, *shape[1:]) if shape else shape for shape in shapes]
    return dict(zip(input_names(inputs), shapes, strict=True))


def _written(
    form: Format,
    model: nn.Module,
    folder: Path,
    trials: Sequence[Inputs],
    *,
    dynamic_batch: bool,
    name: str,
) -> tuple[Path, str, float]:
    """A file that agrees with the model on all `trials`, its exporter, and the difference.

    The format's other way to write is tried where the first file differs or does not run.
    """
    draft, second = folder / form.file, folder / "second" / form.file
    exporter, run = form.write(model, draft, trials[0], dynamic_batch)
    try:
        return draft, exporter, compare(model, run, trials, name)
    except ExportError as error:
        if form.otherwise is None:
            raise
        refused = error
    second.parent.mkdir()  # apart: what was loaded from the first may still be read
    try:
        exporter, run = form.otherwise(model, second, trials[0], dynamic_batch)
        return second, exporter, compare(model, run, trials, name)
    except ExportError as error:
        raise ExportError(f"{refused} · by another exporter: {error}") from error


def _publish(form: Format, draft: Path, path: Path) -> Path | None:
    """Move a checked file to its place; where its weights are, if they are not in it.

    Two files cannot be replaced at once: the first is only there while the second is its own. Nor
    can a folder: the one of before is gone first.
    """
    if form.folder and path.is_dir():
        path.replace(draft.parent / "before")
    source, weights = form.weights_of(draft), form.weights_of(path)
    if source and weights:
        path.unlink(missing_ok=True)
        source.replace(weights)
    draft.replace(path)
    return weights


def _check_place(form: Format, path: Path) -> None:
    """Raise ConfigError where something is in the way that would not be replaced by its like."""
    if path.exists() and path.is_dir() != form.folder:
        kind = "file" if form.folder else "folder"
        raise ConfigError(f"{path} is a {kind} already · choose another name")
    if form.folder and path.is_dir() and not (path / "Manifest.json").is_file():
        raise ConfigError(f"{path} is a folder already, but no package · choose another name")


def _bytes(file: Path) -> int:
    """The size of a file, or of all files in a folder."""
    files = [file] if file.is_file() else [one for one in file.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
