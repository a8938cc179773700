"""The command line. Only this room prints.

A mistake ends in one line and exit code 2, failed work in one line and exit code 1.
"""

from __future__ import annotations

from autoprune.cli.commands import app, main

__all__ = ["app", "main"]
