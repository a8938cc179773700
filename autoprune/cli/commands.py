"""The command `autoprune`: all commands, and how each of them ends."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

from autoprune.cli import inspecting, models, profiling, searching
from autoprune.cli.application import app
from autoprune.cli.terminal import (
    FAILED,
    USAGE,
    code_of,
    drop_output,
    fail,
    prepare_log,
    prepare_streams,
    terminable,
    traceback_file,
)
from autoprune.errors import AutopruneError, UsageError

__all__ = ["app", "inspecting", "main", "models", "profiling", "searching"]

_log = logging.getLogger(__name__)
_USER_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
_ORDER = (  # of the help: as they are needed
    *("init", "doctor", "search", "resume", "verify", "show", "report", "compare", "retrain"),
    *("export", "quantize", "profile", "schema"),
)
app.registered_commands.sort(
    key=lambda command: _ORDER.index(getattr(command.callback, "__name__", ""))
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 0, 1 (failed work), 2 (user error) or 128 + a signal's number."""
    prepare_streams()
    prepare_log()
    try:
        with terminable():
            app(arguments)
    except BrokenPipeError:  # such as `| head`: what it wanted it has
        drop_output()
        raise SystemExit(0) from None
    except AutopruneError as error:
        _log.debug("the command failed", exc_info=True)
        fail(str(error), USAGE if isinstance(error, UsageError) else FAILED)
    except KeyboardInterrupt as error:
        fail("stopped", code_of(error))
    except OSError as error:
        if error.filename is None or error.errno not in _USER_ERRORS:
            fail(f"{error} · traceback in {traceback_file(error)}", FAILED)
        fail(f"{error.filename}: {(error.strerror or '').lower()}", USAGE)
    except Exception as error:  # noqa: BLE001 - the last resort: one line, the rest to a file
        text = " ".join(str(error).split())[:300]
        fail(f"{type(error).__name__}: {text} · traceback in {traceback_file(error)}", FAILED)
