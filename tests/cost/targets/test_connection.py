"""Every way in which ssh can end, played by a script of its name."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from autoprune.cost.targets import connection
from autoprune.cost.targets.address import SshAddress
from autoprune.cost.targets.connection import answer_from
from autoprune.errors import DeviceError, DeviceLostError

PLAY = """#!/bin/sh
# notes its words; answers -G with a configuration, and the n-th try with what is in out.n
folder="{folder}"
case " $* " in *" -G "*) cat "$folder/configured"; exit 0;; esac
n=$(($(cat "$folder/tries" 2>/dev/null || echo 0) + 1)); echo $n > "$folder/tries"
for word in "$@"; do printf '%s\\n' "$word"; done > "$folder/words"
[ -f "$folder/$n.status" ] || n=1
if [ -f "$folder/reads" ]; then head -c "$(cat "$folder/reads")" > "$folder/sent"; fi
[ -f "$folder/hangs" ] && exec sleep 60
cat "$folder/$n.err" >&2; cat "$folder/$n.out"; exit "$(cat "$folder/$n.status")"
"""


class Ssh:
    """What the script shall do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configured").write_text(
            "hostname 10.0.0.5\nport 22\nuserknownhostsfile /k/h x\n"
        )

    def ends(self, status: int, err: str = "", out: str = "", attempt: int = 1) -> None:
        for name, content in (("status", str(status)), ("err", err), ("out", out)):
            (self.folder / f"{attempt}.{name}").write_text(content)

    @property
    def tries(self) -> int:
        return int((self.folder / "tries").read_text())

    @property
    def words(self) -> list[str]:
        return (self.folder / "words").read_text().splitlines()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(PLAY.format(folder=tmp_path))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(connection, "WAITS_S", (0.0, 0.0))
    return Ssh(tmp_path)


STARTED = "\nautoprune started\n"
CAM = SshAddress("cam", "pi", 2222, "/opt/python3", timeout_s=20.0)


def asked(address: SshAddress = CAM, files: dict[str, bytes] | None = None) -> str:
    return answer_from(address, files or {}, 1.0)


def refused(kind: type[DeviceError] = DeviceError) -> str:
    with pytest.raises(DeviceError) as caught:
        asked()
    assert type(caught.value) is kind
    return str(caught.value)


def test_the_answer_is_the_last_line(ssh: Ssh) -> None:
    ssh.ends(0, out=f"Welcome!\n{STARTED}\nnoise\n{json.dumps({'x': 1})}\n\n")
    assert asked() == '{"x": 1}'
    assert ssh.tries == 1


def test_the_command_asks_nothing_and_checks_host_keys(ssh: Ssh) -> None:
    ssh.ends(0, out="{}")
    asked()
    words = ssh.words
    assert words[:3] == ["-p", "2222", "-T"]
    options = {word for word in words if "=" in word and " " not in word}
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15"} <= options
    assert {"ServerAliveInterval=3", "ServerAliveCountMax=3", "LogLevel=ERROR"} <= options
    assert "pi@cam" in words
    assert "/opt/python3" in "\n".join(words)


def test_files_go_in_frames_and_end(ssh: Ssh) -> None:
    ssh.ends(0, out="{}")
    wanted = b'["a.py", 3]\nabc["b", 2]\n\x00\xffend\n'
    (ssh.folder / "reads").write_text(str(len(wanted)))
    asked(files={"a.py": b"abc", "b": b"\x00\xff"})
    assert (ssh.folder / "sent").read_bytes() == wanted


@pytest.mark.parametrize(
    ("err", "kind", "says"),
    [
        (
            "pi@cam: Permission denied (publickey).",
            DeviceError,
            "ssh://pi@cam:2222 refuses the login (pi@cam: Permission denied (publickey).) · add "
            "your key there with ssh-copy-id, or name the right one in the ssh configuration (one "
            "with a passphrase needs ssh-add); try by hand: ssh -p 2222 pi@cam",
        ),
        (
            "ssh: Could not resolve hostname cam: Name or service not known",
            DeviceLostError,
            "ssh://pi@cam:2222: the host's name is not known (ssh: Could not resolve hostname cam: "
            "Name or service not known) · check it, or use its address",
        ),
        (
            "/x/config: line 1: Bad configuration option: prot",
            DeviceError,
            "ssh://pi@cam:2222: the ssh configuration cannot be read (/x/config: line 1: Bad "
            "configuration option: prot)",
        ),
        (
            "Unable to negotiate with 10.0.0.5: no matching cipher",
            DeviceError,
            "ssh://pi@cam:2222 and this machine share no SSH algorithm (Unable to negotiate with "
            "10.0.0.5: no matching cipher) · try by hand: ssh -p 2222 pi@cam",
        ),
        (
            "ssh: connect to host cam port 2222: Connection timed out",
            DeviceLostError,
            "ssh://pi@cam:2222 does not answer within 15 s · is it switched on, and on this "
            "network? try by hand: ssh -p 2222 pi@cam",
        ),
        (
            "",
            DeviceLostError,
            "ssh://pi@cam:2222 cannot be reached (ssh failed) · is it switched on, with an SSH "
            "server on that port? try by hand: ssh -p 2222 pi@cam",
        ),
    ],
)
def test_a_login_that_fails_says_why(
    ssh: Ssh, err: str, kind: type[DeviceError], says: str
) -> None:
    ssh.ends(255, err)
    assert refused(kind) == says


UNKNOWN = "No ED25519 host key is known for {name} and you have requested strict checking.\n"


@pytest.mark.parametrize(
    ("configured", "name", "says"),
    [
        ("hostname 10.0.0.5\nport 22\n", "10.0.0.5", "~/.ssh/known_hosts"),
        ("hostname h\nport 2222\nuserknownhostsfile /k/h /k/2\n", "[h]:2222", "/k/h"),
    ],
)
def test_an_unknown_host_key_says_how_to_add_it(
    ssh: Ssh, configured: str, name: str, says: str
) -> None:
    (ssh.folder / "configured").write_text(configured)
    ssh.ends(255, UNKNOWN.format(name=name) + "Host key verification failed.\n")
    host, port = configured.split()[1], configured.split()[3]
    assert refused() == (
        f"ssh://pi@cam:2222: the host key of {host} is not in {says} · connect once by hand and "
        f"compare it: ssh -p 2222 pi@cam, or add it: ssh-keyscan -p {port} {host} >> {says}"
    )
    assert ssh.tries == 1


def test_a_changed_host_key_is_told_apart_and_a_jump_hosts_is_named(ssh: Ssh) -> None:
    changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n"
    ssh.ends(255, f"{changed}Host key for 10.0.0.5 has changed\nHost key verification failed.\n")
    assert "ssh-keygen -f /k/h -R '10.0.0.5', then connect once by hand" in refused()
    ssh.ends(255, UNKNOWN.format(name="jump") + "Host key verification failed.\n")
    assert refused() == (
        "ssh://pi@cam:2222: Host key verification failed. · connect once by hand and compare it: "
        "ssh -p 2222 pi@cam"
    )


@pytest.mark.parametrize(
    ("status", "err", "says"),
    [
        (
            73,
            "mktemp: read-only",
            "cannot make a temporary folder: mktemp: read-only · free space there, or set TMPDIR "
            "there to a folder that can be written",
        ),
        (
            74,
            "No space left",
            "cannot take the models (4e-06 MB): No space left · free space there, or set TMPDIR "
            "there to a folder with more",
        ),
        (
            127,
            "python3: not found",
            "cannot start /opt/python3 (python3: not found) · install Python 3.8 or newer there, "
            "or name it in the address: ?python=/path/to/python3",
        ),
        (
            137,
            "",
            "the measurement was killed there (SIGKILL) · mostly too little memory: a smaller "
            "batch or model needs less",
        ),
        (
            128 + 99,
            "",
            "the measurement was killed there (signal 99) · mostly too little memory: a smaller "
            "batch or model needs less",
        ),
        (
            1,
            "Traceback\nValueError: no",
            "the measurement failed there: ValueError: no · it needs Python 3.8 or newer with "
            "NumPy and ONNX Runtime that fit each other",
        ),
        (
            3,
            "",
            "the measurement failed there: exit status 3 · it needs Python 3.8 or newer with "
            "NumPy and ONNX Runtime that fit each other",
        ),
    ],
)
def test_what_fails_there_says_the_remedy(ssh: Ssh, status: int, err: str, says: str) -> None:
    ssh.ends(status, err, STARTED)
    said = refused()
    assert said.removeprefix("ssh://pi@cam:2222").lstrip(": ") == says
    assert ssh.tries == 1


def test_a_connection_that_breaks_off_is_lost_and_not_tried_again(ssh: Ssh) -> None:
    ssh.ends(255, "client_loop: send disconnect: Broken pipe", STARTED)
    assert refused(DeviceLostError) == (
        "ssh://pi@cam:2222 was lost: client_loop: send disconnect: Broken pipe"
    )
    ssh.ends(255, "", STARTED)
    assert refused(DeviceLostError) == "ssh://pi@cam:2222 was lost: the connection broke off"
    assert ssh.tries == 2  # one for each


@pytest.mark.parametrize(
    ("err", "tries"),
    [
        ("Connection refused", 3),
        ("kex_exchange_identification: Connection reset", 3),
        ("Permission denied (publickey).", 1),
        ("Name or service not known", 1),
    ],
)
def test_only_what_may_pass_is_tried_three_times(ssh: Ssh, err: str, tries: int) -> None:
    ssh.ends(255, err)
    with pytest.raises(DeviceError):
        asked()
    assert ssh.tries == tries


def test_a_device_that_is_back_is_used(ssh: Ssh) -> None:
    ssh.ends(255, "Connection refused")
    ssh.ends(0, out="{}", attempt=2)
    assert asked() == "{}"
    assert ssh.tries == 2


def test_a_device_that_hangs_is_given_up(ssh: Ssh) -> None:
    ssh.ends(0)
    (ssh.folder / "hangs").touch()
    with pytest.raises(DeviceLostError) as caught:
        answer_from(SshAddress("cam", timeout_s=0.1), {}, 0.1)
    assert str(caught.value) == (
        "ssh://cam gave no answer in 0 s · if it only needs longer, add timeout=0.2 to its address"
    )


def test_the_own_language_does_not_matter(ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    program = ssh.folder / "bin" / "ssh"
    program.write_text('#!/bin/sh\necho "$LC_ALL"\n')
    found: Any = asked()
    assert found == "C"
