"""ExecuTorch: threads of the process's pool, outputs, and what it cannot run."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import nn

from autoprune.cost.targets import executorch
from autoprune.cost.targets.executorch import ExecuTorch
from autoprune.errors import DeviceError, ExportError


class Pool:
    """A pool that obeys, or not."""

    def __init__(self, threads: int, obeys: bool = True) -> None:
        self.threads, self.obeys, self.resets = threads, obeys, 0

    def _threadpool_get_thread_count(self) -> int:
        return self.threads

    def _unsafe_reset_threadpool(self, threads: int) -> None:
        self.resets += 1
        if self.obeys:
            self.threads = threads


@pytest.mark.parametrize(("before", "resets"), [(1, 1), (2, 0)])
def test_the_pool_is_only_replaced_where_it_has_other_threads(monkeypatch, before, resets):
    pool = Pool(before)
    monkeypatch.setattr(executorch, "_pool", lambda: pool)
    executorch.use_threads(2)
    assert (pool.threads, pool.resets) == (2, resets)


def test_a_pool_that_has_other_threads_is_an_error(monkeypatch):
    monkeypatch.setattr(executorch, "_pool", lambda: Pool(4, obeys=False))
    with pytest.raises(DeviceError, match="executorch must use 1 threads, got 4"):
        executorch.use_threads(1)


def test_calls_that_were_prepared_for_other_threads_are_refused(monkeypatch):
    monkeypatch.setattr(executorch, "_pool", lambda: Pool(2))
    with (
        pytest.raises(DeviceError, match=r"prepared for \(1\) · prepare and time"),
        ExecuTorch().pinned(1),
    ):
        pass


class Talkative(Pool):
    """Writes as C++ does, to the file descriptor of the standard error."""

    def _threadpool_get_thread_count(self) -> int:
        os.write(2, b"[cpuinfo_utils.cpp:125] CPU info and manual query on # of cpus dont match.")
        return super()._threadpool_get_thread_count()

    def _unsafe_reset_threadpool(self, threads: int) -> None:
        os.write(2, b"[threadpool.cpp:66] Resetting threadpool")
        super()._unsafe_reset_threadpool(threads)


def test_what_the_pool_writes_when_it_is_made_is_dropped_and_nothing_else(monkeypatch, capfd):
    class Told(Talkative):
        count = 0

        def _threadpool_get_thread_count(self) -> int:
            self.count += 1
            method = Talkative if self.count == 1 else Pool
            return method._threadpool_get_thread_count(self)

    pool = Told(1)
    package = SimpleNamespace(portable_lib=pool)
    for name in ("executorch", "executorch.extension"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", package)
    executorch.use_threads(2)
    assert (pool.threads, pool.resets) == (2, 1)
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")


@pytest.mark.slow  # seconds to convert
def test_a_call_gives_the_outputs_of_the_model_by_keyword_inputs():
    pytest.importorskip("executorch")

    model = TwoByName().eval()
    inputs = INPUTS
    for threads in (1, 2, 1):
        logits, hidden = ExecuTorch().prepare(model, inputs, threads)()
        expected = model(**inputs)
        torch.testing.assert_close(logits, expected["logits"].detach())
        torch.testing.assert_close(hidden, expected["hidden"].detach())


@pytest.mark.slow  # seconds to import
def test_what_cannot_be_written_is_one_line():
    pytest.importorskip("executorch")

    class Odd(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match="cannot be written for ExecuTorch") as error:
        ExecuTorch().prepare(Odd(), torch.zeros(1, 4), 1)
    assert "\n" not in str(error.value)


def test_what_does_not_run_is_one_line(monkeypatch):
    class Missing:
        def __init__(self, program):
            pass

        def run(self, given):
            raise RuntimeError("Missing operator: aten::fft\nmore")

    monkeypatch.setattr(executorch, "lower", lambda model, inputs: b"")
    monkeypatch.setattr(executorch, "_pool", lambda: Pool(1))
    monkeypatch.setattr(executorch, "LoadedProgram", Missing)
    with pytest.raises(DeviceError, match=r"cannot run Linear \(Missing operator: aten::fft\) · "):
        ExecuTorch().prepare(nn.Linear(2, 2), torch.zeros(1, 2), 1)
