"""The memory that a session of ONNX Runtime needs: run as its own process, `arena.py FOLDER`.

Its arena has no query, but logs what it allocates from the system. With an arena that
takes exactly what is requested and gives it back after each run, that is what the run needed. It is
read in a later run: those are planned with the sizes that were seen in the first.

The folder holds `model.onnx` and `feed.npz`; `arena.json` is written. Needs nothing of autoprune.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

_EXACTLY = 1  # arena_extend_strategy: as much as requested, no power of two


def main(folder: Path) -> None:
    """Run the model and write `run`, the bytes of all activations at their peak."""
    onnxruntime.set_default_logger_severity(0)
    onnxruntime.set_default_logger_verbosity(1)
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    arena = onnxruntime.OrtArenaCfg(
        {"max_mem": 0, "arena_extend_strategy": _EXACTLY, "initial_chunk_size_bytes": 256}
    )
    onnxruntime.create_and_register_allocator(memory, arena)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.add_session_config_entry("session.use_env_allocators", "1")
    _log_to(folder / "session.log")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    with np.load(folder / "feed.npz") as saved:
        feed = {name: saved[name] for name in saved.files}
    _log_to(folder / "first.log")
    outputs = [array.copy() for array in session.run(None, feed)]
    bound = session.io_binding()  # outputs in our memory: none stays in the arena after a run
    for name, array in feed.items():
        bound.bind_cpu_input(name, array)
    for node, array in zip(session.get_outputs(), outputs, strict=True):
        bound.bind_ortvalue_output(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    run = onnxruntime.RunOptions()
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run_with_iobinding(bound, run)
    _log_to(folder / "run.log")
    session.run_with_iobinding(bound, run)
    os.close(2)
    needed = _needed(folder) + sum(array.nbytes for array in outputs)
    (folder / "arena.json").write_text(json.dumps({"run": needed}), encoding="utf-8")


def _needed(folder: Path) -> int:
    """The arena's largest size in a run, less what the session itself keeps there."""
    reserved = sum(
        _all(folder / "session.log", r"Reserving memory in BFCArena for \w+ size: (\d+)")
    )
    return (
        max(_all(folder / "run.log", r"Total allocated bytes: (\d+)"), default=reserved) - reserved
    )


def _all(log: Path, pattern: str) -> list[int]:
    return [int(found) for found in re.findall(pattern, log.read_text(errors="replace"))]


def _log_to(file: Path) -> None:
    """Redirect the standard error to a file."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
