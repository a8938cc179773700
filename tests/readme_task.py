"""The task that the README shows, as the file that a reader would make of it."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def write(folder: Path) -> Path:
    """Write the README's task to `my_task.py` in `folder`."""
    file = folder / "my_task.py"
    file.write_text(blocks("python")[0])
    return file
