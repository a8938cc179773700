"""Times ONNX models on a device; Python 3.8, NumPy and ONNX Runtime are all it needs there.

A remote target copies this file, `load.py` and `timing.py` into a folder of the device, with a job,
and runs `main(folder)` there, which reads `job.json` and writes `answer.json`. The local targets
call the same functions, so that both measure the same way.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CPU = "CPUExecutionProvider"
CPUINFO = "/proc/cpuinfo"
_NEEDED = ("numpy", "onnxruntime")
INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # Linux's names


def device_name() -> str:
    """The name of the board or processor, e.g. `Raspberry Pi 5 Model B` or `AMD EPYC 7B13`."""
    board = _text("/proc/device-tree/model").strip("\0 \n")
    lines = _text(CPUINFO).splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found = board or next(models, "") or platform.processor() or platform.machine()
    return found or "unknown CPU"


def int8_instructions(cpuinfo: str = CPUINFO) -> bool | None:
    """Whether this processor has dot products of int8; None where the system does not tell."""
    flags = cpu_flags(cpuinfo)
    return bool(INT8 & flags) if flags else None


def cpu_flags(cpuinfo: str = CPUINFO) -> frozenset[str]:
    """The instruction sets of this processor by Linux's names; empty where it does not tell."""
    lines = _text(cpuinfo).splitlines()
    listed = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(listed[0].split()) if listed else frozenset()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_session(
    model: str | bytes, threads: int, provider: str = CPU, profile: str | None = None
) -> Any:
    """An ONNX Runtime session with all graph optimizations; `model` is a path or the bytes.

    With `profile` its operators are timed, and `end_profiling` writes a file of that beginning.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    # Several sessions are timed in turn: one that waits must not keep a core busy.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=[provider])


def answer(folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """A description of this device, and the raw times of the job's models if it can run them.

    The job holds `models` (file names), `inputs` (names, in the order of `inputs.npz`), `provider`,
    and the fields of `Protocol`. `busy` is the share of the cores that others used meanwhile.
    """
    missing = _missing()
    found: dict[str, Any] = {"device": _about(missing), "missing": missing}
    fits = not missing and job["provider"] in found["device"]["providers"]
    if fits and 1 <= job["threads"] <= cores():
        found.update(_measured(folder, job) if job["models"] else {})
    return found


def _about(missing: Mapping[str, str]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in _NEEDED:
        if name not in missing:
            versions[name] = str(importlib.import_module(name).__version__)
    runtime = None if "onnxruntime" in missing else importlib.import_module("onnxruntime")
    return {
        "name": device_name(),
        "host": platform.node(),
        "cores": cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "versions": versions,
        "providers": runtime.get_available_providers() if runtime else [],
    }


def _missing() -> dict[str, str]:
    found = {}
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            found[name] = str(error)
    return found


def _measured(folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    timing, load = map(importlib.import_module, ("timing", "load"))  # the copies beside this file
    with np.load(str(folder / "inputs.npz"), allow_pickle=False) as stored:
        feed = {name: stored[f"arr_{n}"] for n, name in enumerate(job["inputs"])}
    calls = [
        _call(open_session(str(folder / name), job["threads"], job["provider"]), feed)
        for name in job["models"]
    ]
    others = load.ExternalLoad()
    rounds = timing.rounds_of(
        calls, job["warmup_s"], job["repeats"], job["precision"], load.steal_s
    )
    return {"rounds": vars(rounds), "busy": others.share()}


def _call(session: Any, feed: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: session.run(None, feed)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _leave_with_caller() -> None:
    """End this process when the connection ends: the standard input closes."""

    def wait() -> None:
        while os.read(0, 4096):
            continue
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: str) -> None:
    """Do the job in `folder`, and exit when the connection ends."""
    _leave_with_caller()
    os.environ["TMPDIR"] = folder  # temporary files are removed with the folder
    job = json.loads(Path(folder, "job.json").read_text(encoding="utf-8"))
    found = answer(Path(folder), job)
    Path(folder, "answer.json").write_text(json.dumps(found), encoding="utf-8")
