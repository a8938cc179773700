"""LiteRT on this machine's processor; models get there by a converter in a Python of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import FlatModule, unfused
from autoprune.cost.targets import litert_convert
from autoprune.cost.targets.base import LocalTarget, require
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError, ExportError, first_line
from autoprune.log_level import log_level

PYTHON = "AUTOPRUNE_LITERT_PYTHON"
LIMIT_S = 900.0
_HAS_CONVERTER = "import importlib.util as u, sys; sys.exit(u.find_spec('litert_torch') is None)"


class LiteRt(LocalTarget):
    """LiteRT's interpreter in float32, with XNNPACK.

    Preparing takes seconds to minutes a model; the models of one call are converted by one process.
    """

    packages = ("ai-edge-litert",)

    def check(self) -> None:
        """Needs the package `ai-edge-litert`, and a Python with the converter."""
        require("litert", "ai_edge_litert")
        converter()

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A loaded model that reads the inputs where they are."""
        return self.prepare_all([model], example_inputs, threads)[0]

    def prepare_all(
        self, models: Sequence[nn.Module], example_inputs: Inputs, threads: int
    ) -> list[Call]:
        """Convert all at once, then load each."""
        calls = []
        converted = convert(models, example_inputs)
        for model, data in zip(models, converted.models, strict=True):
            try:
                calls.append(LoadedModel(data, threads).call(example_inputs))
            except (RuntimeError, ValueError) as error:
                raise DeviceError(
                    f"runtime 'litert' cannot run {type(model).__name__} ({first_line(error)}) · "
                    "measure it in another runtime"
                ) from error
        return calls


@dataclass(frozen=True, slots=True)
class Converted:
    """Models as LiteRT reads them, and the converter that wrote them, with its version."""

    models: tuple[bytes, ...]
    converter: str


def converter() -> list[str]:
    """The command that starts the Python with the converter: the one that `PYTHON` names, or this.

    Raises DeviceError, with the remedy, where there is none.
    """
    named = os.environ.get(PYTHON)
    if not named:
        if importlib.util.find_spec("litert_torch") is None:
            raise DeviceError(f"litert needs its converter, litert-torch · {_remedy()}")
        return [sys.executable, "-P"]  # not the folder of the script: its names are others' too
    python = shutil.which(str(Path(named).expanduser()))
    if python is None:
        raise DeviceError(f"{PYTHON} must be a Python, got {named!r} · {_remedy()}")
    command = [python, "-I"]  # without this environment's PYTHONPATH
    try:
        done = subprocess.run([*command, "-c", _HAS_CONVERTER], capture_output=True, check=False)
    except OSError as error:
        raise DeviceError(f"{PYTHON} must be a Python, got {named!r} ({error.strerror})") from error
    if done.returncode:
        raise DeviceError(f"{PYTHON}: {named} lacks litert-torch · {_remedy()}")
    return command


def convert(
    models: Sequence[nn.Module], example_inputs: Inputs, limit_s: float = LIMIT_S
) -> Converted:
    """Convert models for the shapes of their example inputs, all by one process.

    They are sent as programs of `torch.export`. Their inputs are called `args_0`, `args_1`, their
    outputs `output_0`, in the order of the model's tensors; integers are of 32 bits. Raises
    ExportError for the first that cannot be converted, and where they take longer than `limit_s`
    seconds each.
    """
    with tempfile.TemporaryDirectory(prefix="autoprune-") as name:
        folder = Path(name)
        files = [folder / f"{place}.pt2" for place in range(len(models))]
        for model, file in zip(models, files, strict=True):
            _save(model, example_inputs, file)
        answer = _answer(folder, limit_s * len(models))
        failed = [answer["errors"][file.stem] for file in files if file.stem in answer["errors"]]
        if failed:
            raise ExportError(
                f"the model cannot be written for LiteRT ({failed[0]}{_other_torch(answer)}) · "
                "export it as onnx"
            )
        written = tuple(file.with_suffix(".tflite").read_bytes() for file in files)
    return Converted(written, answer["converter"])


class LoadedModel:
    """A LiteRT model in memory, with its own threads.

    Raises RuntimeError or ValueError where it cannot be loaded or run.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        runner = self._interpreter.get_signature_runner()
        self._inputs = _in_order(runner.get_input_details(), "args_")
        self._outputs = _in_order(runner.get_output_details(), "output_")

    def __call__(self, inputs: Inputs) -> list[Tensor]:
        """The outputs for inputs of the form of the example's."""
        self._set(inputs)
        self._interpreter.invoke()
        indices = [detail["index"] for _, detail in sorted(self._outputs.items())]
        return [torch.from_numpy(self._interpreter.get_tensor(index)) for index in indices]

    def call(self, inputs: Inputs) -> Call:
        """A call that runs one forward pass on these inputs."""
        self(inputs)
        return self._interpreter.invoke  # type: ignore[no-any-return]

    def _set(self, inputs: Inputs) -> None:
        """Copy the inputs into the interpreter; those that the model does not use are not in it."""
        given = tensors(as_call(inputs))
        for place, detail in self._inputs.items():
            self._interpreter.resize_tensor_input(detail["index"], given[place].shape)
        self._interpreter.allocate_tensors()
        for place, detail in self._inputs.items():
            array = given[place].detach().cpu().numpy().astype(detail["dtype"])
            self._interpreter.set_tensor(detail["index"], array)


def _in_order(details: dict[str, Any], prefix: str) -> dict[int, Any]:
    """Details of tensors by the places that their names end with."""
    return {int(name.removeprefix(prefix)): detail for name, detail in details.items()}


def _save(model: nn.Module, example_inputs: Inputs, file: Path) -> None:
    """Write the model as a program of its tensors."""
    flat = FlatModule(frozen_copy(model), moved(example_inputs, "cpu")).eval()
    try:
        with _quiet(), unfused(), torch.no_grad():
            torch.export.save(torch.export.export(flat, tuple(flat.example)), file)
    except Exception as error:
        raise ExportError(
            f"the model cannot be written for LiteRT ({type(error).__name__}: "
            f"{first_line(error)}) · export it as onnx"
        ) from error


def _answer(folder: Path, limit_s: float) -> Any:
    """Run the converter on a folder; what it answers."""
    command = [*converter(), litert_convert.__file__, str(folder)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"litert-torch took longer than {limit_s:g} s") from error
    answer = folder / "answer.json"
    if done.returncode or not answer.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ExportError(f"litert-torch fails (code {done.returncode}: {last[:200]})")
    return json.loads(answer.read_text(encoding="utf-8"))


def _other_torch(answer: Any) -> str:
    """A hint where the converter's torch is not of this version, which reads other programs."""
    ours, theirs = (version.partition("+")[0] for version in (torch.__version__, answer["torch"]))
    return "" if ours == theirs else f"; its torch is {theirs}, this one {ours}"


def _remedy() -> str:
    version = torch.__version__.partition("+")[0]
    return (
        "python3 -m venv ~/litert && ~/litert/bin/pip install litert-torch "
        f"torch=={version}, then export {PYTHON}=~/litert/bin/python"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of what torch uses itself."""
    with log_level("torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
