"""A remote device over SSH, against a real OpenSSH server: what it measures, and how it fails."""

from __future__ import annotations

import asyncio
import logging
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from sshd import Proxy, Server, free_port
from torch import nn

from autoprune.cost.latency import measure_latency, measure_together
from autoprune.cost.targets import connection, find_target, load, on_device
from autoprune.cost.targets.base import Protocol
from autoprune.cost.targets.ssh import Ssh, _Job
from autoprune.device import sampling
from autoprune.device.profile import DeviceProfile
from autoprune.errors import DeviceError, DeviceLostError

X = torch.zeros(2, 3, 8, 8)
QUICK = {"warmup_s": 0.002, "repeats": 12}


def small(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.Flatten()
    return nn.Sequential(*layers)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WAITS_S", (0.0, 0.0))


def said(address: str, threads: int = 1) -> str:
    """The one line in which a device is refused."""
    with pytest.raises(DeviceError) as refusal:
        find_target(address).reach(threads)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# What it measures


def test_raw_times_come_back_with_the_remote_device(server: Server) -> None:
    address = server.address()
    dense, thin = measure_together([small(8), small(4)], X, address, **QUICK)
    for latency in (dense, thin):
        assert len(latency.raw_ms) == 12
        assert latency.median_ms == statistics.median(latency.raw_ms) > 0.0
        assert latency.device.name == f"{on_device.device_name()} ({platform.node()})"
        assert (latency.device.runtime, latency.device.batch) == (address, 2)
    assert dense.ratio == 1.0
    assert server.left() == []


def test_precision_travels_and_the_load_of_others_comes_back(server: Server) -> None:
    target = find_target(server.address())
    rough = target.time([small()], X, Protocol(1, 0.002, 3))
    assert len(rough.rounds) == 1
    timed = target.time([small()], X, Protocol(1, 0.002, 3, precision=1.0))
    assert len(timed.rounds) == 6  # fewer have no interval
    assert timed.cores == on_device.cores()
    assert (timed.busy is None) == (load.ExternalLoad().share() is None)
    assert timed.busy is None or 0.0 <= timed.busy <= 1.0


def test_the_device_runs_the_exported_models_on_the_inputs(server: Server, tmp_path: Path) -> None:
    model, inputs = small().eval(), torch.rand(2, 3, 8, 8)
    job = _Job.of([model, model], inputs, Protocol(), on_device.CPU)
    assert len(job.files) == 2  # equal models travel once; the inputs
    for name, content in job.files.items():
        (tmp_path / name).write_bytes(content)
    session = on_device.open_session(str(tmp_path / job.job["models"][0]), 1)
    import numpy as np

    with np.load(tmp_path / "inputs.npz", allow_pickle=False) as stored:
        (output,) = session.run(None, {job.job["inputs"][0]: stored["arr_0"]})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(output), model(inputs), atol=1e-5)


def test_several_inputs_travel_by_name(server: Server) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, file: torch.Tensor) -> torch.Tensor:
            return x * file

    inputs = {"x": torch.ones(2, 4), "file": torch.ones(2, 4)}
    assert measure_latency(Two(), inputs, server.address(), **QUICK).device.batch == 2


def test_it_also_works_beside_an_event_loop(server: Server) -> None:
    async def notebook() -> float:
        return measure_latency(small(), X, server.address(), **QUICK).median_ms

    assert asyncio.run(notebook()) > 0.0


@pytest.mark.parametrize("alias", ["noisy", "behind"])
def test_greetings_and_jump_hosts_do_no_harm(server: Server, alias: str) -> None:
    assert measure_latency(small(), X, server.address(alias), **QUICK).median_ms > 0.0


def test_a_busy_device_is_said(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"name": "n", "host": "h", "cores": 2, "load": 2.5}

    def answered(self: Ssh, job: object) -> dict[str, object]:
        return {"device": about}

    monkeypatch.setattr(Ssh, "_ask", answered)
    find_target(server.address()).reach(1)
    assert "ssh://device is busy (load 2.5 on 2 cores)" in caplog.text
    about["load"] = 2.0
    caplog.clear()
    find_target(server.address()).reach(1)
    assert caplog.text == ""


# What it refuses, with the remedy


def test_host_keys_are_always_checked(server: Server) -> None:
    unknown = said(server.address("stranger"))
    assert re.search(r"host key of 127\.0\.0\.1 is not in .*nobody · connect once", unknown)
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> " in unknown
    changed = said(server.address("changed"))
    assert re.search(r"is another than in .*known_others: the device was set up anew", changed)
    assert f"ssh-keygen -f {server.folder}/known_others -R '[127.0.0.1]:{server.port}'" in changed
    assert "Host key verification failed" in said(server.address("careless"))
    behind = said(server.address("behind-stranger"))
    assert "ssh://behind-stranger" in behind
    assert "connect once by hand" in behind
    assert not (server.folder / "nobody").exists()


def test_the_remedies_for_host_keys_mend_them(server: Server, tmp_path: Path) -> None:
    for alias, name in (("stranger", "nobody"), ("changed", "known_others")):
        known = tmp_path / name
        if alias == "changed":
            known.write_text((server.folder / name).read_text())
        config = tmp_path / f"config-{alias}"
        config.write_text(server.config.read_text().replace(str(server.folder / name), str(known)))
        address = server.address(alias, config=config)
        if alias == "changed":
            remedy = re.search(r"ssh-keygen .*'", said(address))
            assert remedy
            subprocess.run(remedy[0], shell=True, check=True, capture_output=True)
        remedy = re.search(r"ssh-keyscan .*", said(address))
        assert remedy
        subprocess.run(remedy[0], shell=True, check=True, capture_output=True)
        find_target(address).reach(1)


AGAIN = "another try in"


def test_a_key_that_the_device_does_not_take(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert "ssh://denied refuses the login" in (line := said(server.address("denied")))
    assert "ssh-copy-id" in line
    assert f"try by hand: ssh -F {server.config} denied" in line
    assert AGAIN not in caplog.text  # what a person has to mend is not tried again


def test_nobody_there_is_tried_three_times(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address = server.address(port=free_port())
    with pytest.raises(DeviceLostError, match=r"cannot be reached .*is it switched on"):
        find_target(address).reach(1)
    assert caplog.text.count(AGAIN) == 2


class Opening(logging.Handler):
    """Opens the way to a device when the second try has failed."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.proxy, self.failed = proxy, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.failed += AGAIN in record.getMessage()
        if self.failed == 2:
            self.proxy.open()


def test_a_device_that_is_back_at_the_third_try_is_used(
    server: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    proxy.cut()
    opening = Opening(proxy)
    log = logging.getLogger(connection.__name__)
    log.addHandler(opening)
    try:
        find_target(server.address(port=proxy.port)).reach(1)
    finally:
        log.removeHandler(opening)
    assert opening.failed == 2


def test_a_device_that_never_answers(server: Server, proxy: Proxy) -> None:
    proxy.freeze()
    with pytest.raises(DeviceLostError, match=r"does not answer within 1 s · is it switched on"):
        find_target(server.address(port=proxy.port, timeout=1)).reach(1)


def test_a_name_that_nobody_knows(server: Server) -> None:
    assert "ssh://nameless: the host's name is not known" in said(server.address("nameless"))


def test_what_the_device_lacks(server: Server) -> None:
    assert "cannot start /no/python (" in (line := said(server.address(python="/no/python")))
    assert "install Python 3.8 or newer there" in line
    bare = server.python("bare", f'exec {sys.executable} -I -S "$@"')
    line = said(server.address(python=bare))
    assert "lacks numpy and onnxruntime (No module named 'numpy')" in line
    assert line.endswith(f"run there: {bare} -m pip install numpy onnxruntime")
    line = said(server.address(provider="MagicProvider"))
    assert "has no MagicProvider · provider must be one of" in line
    assert "CPUExecutionProvider" in line
    count = on_device.cores()
    line = said(server.address(), threads=count + 1)
    assert line.startswith(f"threads must be from 1 to {count} (the cores of ssh://device), got")
    assert server.left() == []


def test_no_room_for_the_folder_or_the_models(server: Server) -> None:
    line = said(server.address("lacking-tmp"))
    assert re.search(r"cannot make a temporary folder: .*No such file .*TMPDIR", line)
    find_target(server.address("full")).reach(1)
    with pytest.raises(
        DeviceError, match=r"cannot take the models \(0\.\d+ MB\): .*File too large"
    ):
        measure_latency(small(200), X, server.address("full"), **QUICK)
    assert server.left() == []


def test_a_script_that_fails_there_says_its_last_line(server: Server) -> None:
    broken = server.python("broken", "echo Traceback >&2; echo 'ValueError: no luck' >&2; exit 1")
    assert "the measurement failed there: ValueError: no luck ·" in said(
        server.address(python=broken)
    )
    killed = server.python("killed", "kill -9 $$")
    assert "was killed there (SIGKILL) · mostly too little memory" in said(
        server.address(python=killed)
    )
    assert server.left() == []


def test_a_device_that_hangs_is_given_up_and_freed(server: Server) -> None:
    modules, note = server.folder / "modules", server.folder / "hanging.pid"
    modules.mkdir()
    (modules / "numpy.py").write_text("import time; time.sleep(600)")
    hanging = server.python(
        "hanging", f'echo $$ > {note}; PYTHONPATH={modules} exec {sys.executable} "$@"'
    )
    address = server.address(python=hanging, timeout=3)
    with pytest.raises(DeviceLostError, match=r"gave no answer in 3 s · .* add timeout=6"):
        find_target(address).reach(1)
    assert ends(int(note.read_text()))
    assert server.left() == []


def ends(process: int, within_s: float = 10.0) -> bool:
    """Whether a process goes away."""
    end = time.monotonic() + within_s
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_device_lost_in_the_middle_is_left_clean(server: Server, proxy: Proxy, how: str) -> None:
    note = server.folder / f"started-{how}"
    slow = server.python(f"slow-{how}", f'touch {note}; exec {sys.executable} "$@"')

    def lose() -> None:
        while not note.exists():
            time.sleep(0.02)
        getattr(proxy, how)()

    address = server.address(port=proxy.port, python=slow, timeout=20)
    watcher = threading.Thread(target=lose)
    watcher.start()
    with pytest.raises(DeviceLostError, match=r"ssh://device:\d+ was lost"):
        measure_latency(small(), X, address, warmup_s=3.0)
    watcher.join()
    proxy.cut()
    assert server.left() == []


# A fit that loses its device


def lost_after(calls: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the way to the device after so many measurements in turns."""
    measure, done = sampling.measure_together, []

    def counting(*args: object, **options: object) -> object:
        if len(done) == calls:
            proxy.cut()
        done.append(1)
        return measure(*args, **options)

    monkeypatch.setattr(sampling, "measure_together", counting)


def test_a_fit_goes_on_with_what_was_measured(
    server: Server,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sampling, "_LEAST", 12)
    monkeypatch.setattr(sampling, "_TOGETHER", (6, 6))
    lost_after(2, proxy, monkeypatch)
    address = server.address(port=proxy.port)
    with caplog.at_level(logging.WARNING):
        profile = DeviceProfile.fit(small(32), X, runtime=address, samples=14)
    assert len(profile.predictor.samples) == 12
    assert "the fit uses the 12 of at most 14 prunings that were measured before" in caplog.text
    assert profile.device.runtime == address
    assert profile.versions == {"torch": torch.__version__}  # the rest could not be asked
    median, upper = profile.predict(small(32))
    assert 0.0 < median <= upper


def test_a_profile_names_the_versions_of_the_device(server: Server) -> None:
    found = find_target(server.address())
    assert isinstance(found, Ssh)
    assert found.versions()["python"] == platform.python_version()
    assert set(found.versions()) == {"python", "numpy", "onnxruntime"}
