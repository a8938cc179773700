"""The help, the version and the options of all commands."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import autoprune

COMMANDS = (  # in the order of the help
    *("init", "doctor", "search", "resume", "verify", "show", "report", "compare", "retrain"),
    *("export", "quantize", "profile", "schema"),
)


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from autoprune.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print('HEAVY', sorted({'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    places = [done.stdout.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)


def test_version_is_printed(command_line) -> None:
    assert command_line("--version") == (0, f"autoprune {autoprune.__version__}\n", "")


@pytest.mark.parametrize("command", [(), ("export",)])
def test_the_help_has_a_short_option(command_line, command: tuple[str, ...]) -> None:
    code, out, _ = command_line(*command, "-h")
    assert (code, out) == (0, command_line(*command, "--help")[1])
    assert "Usage:" in out


def test_verbose_shows_the_traceback_of_a_mistake() -> None:
    command = [sys.executable, "-m", "autoprune"]
    quiet = subprocess.run([*command, "show", "none"], capture_output=True, text=True, check=False)
    loud = subprocess.run(
        [*command, "-v", "show", "none"], capture_output=True, text=True, check=False
    )
    assert (quiet.returncode, quiet.stderr.count("\n")) == (2, 1)
    assert "Traceback" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


def test_unknown_option_is_refused(command_line) -> None:
    code, _, err = command_line("show", "--pick", "knee", "run")
    assert code == 2
    assert "No such option: --pick" in err


@pytest.mark.parametrize(
    ("arguments", "level"), [(["-v"], logging.DEBUG), ([], logging.NOTSET)], ids=str
)
def test_verbose_opens_the_log(command_line, arguments: list[str], level: int) -> None:
    assert command_line(*arguments, "schema")[0] == 0
    try:
        assert logging.getLogger("autoprune").level == level
    finally:
        logging.getLogger("autoprune").setLevel(logging.NOTSET)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_says_what_it_does(command_line, command: str) -> None:
    code, out, _ = command_line(command, "--help")
    assert code == 0
    usage, _, rest = out.partition("\n\n")
    assert f" {command} " in usage
    assert rest.strip()[0].isupper()


def test_no_arguments_are_the_help(command_line) -> None:
    code, out, err = command_line()
    assert code == 2
    assert all(f"  {command} " in out + err for command in COMMANDS)
