"""torch.compile on this machine's processor."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved
from autoprune.cost.targets.local import EagerTorch
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError, first_line
from autoprune.log_level import log_level


class CompiledTorch(EagerTorch):
    """`torch.compile` with its default backend, inductor, which writes C++ for the CPU.

    Preparing a model takes seconds to a minute.
    """

    def check(self) -> None:
        """Needs a C++ compiler and Python's own header files."""
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise DeviceError(
                f"runtime 'torch-compile' needs a C++ compiler, and {compiler} is not there "
                "· apt-get install g++, or name another in CXX"
            )
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").is_file():
            raise DeviceError(
                f"runtime 'torch-compile' needs Python's headers, and {headers} has no Python.h "
                "· apt-get install python3-dev"
            )

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A compiled copy that has run once.

        The copy is exported first: dynamo limits how often one piece of code is compiled, and all
        prunings of a model share its code, while an exported graph has code of its own.
        """
        small = frozen_copy(model)
        args, kwargs = as_call(moved(example_inputs, "cpu"))
        try:
            with _quiet():
                with torch.no_grad():
                    exported = torch.export.export(small, args, kwargs, strict=False).module()
                compiled = torch.compile(exported, dynamic=False)
                with self.pinned(threads):  # the code is generated for this number of threads
                    compiled(*args, **kwargs)
        except Exception as error:
            raise DeviceError(
                f"runtime 'torch-compile' cannot run {type(model).__name__} "
                f"({type(error).__name__}: {first_line(error)}) · measure it in another runtime"
            ) from error
        return lambda: compiled(*args, **kwargs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's own warnings; failures raise our error."""
    with log_level("torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
