"""What the documentation site adds to `docs/`: linked files of the repository, and references.

Pages in `docs/` link to results, examples and CONTRIBUTING by paths that also work in a checkout.
Linked Markdown files become pages, other linked files are copied. A line
`<!-- generated: NAME -->` is replaced by the reference of that name (see `reference.py`).
"""

from __future__ import annotations

import importlib
import os
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the site is about this checkout, whatever is installed
reference = importlib.import_module("reference")
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
MARK = re.compile(r"<!-- generated: (\w+) -->")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
REFERENCES: dict[str, Callable[[], str]] = {
    "cli": reference.commands,
    "configuration": reference.configuration,
    "presets": reference.presets,
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add every file outside of `docs/` that a page links to, directly or through others."""
    for path in sorted(linked(DOCS.rglob("*.md"))):
        files.append(File.generated(config, place_of(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Fill in references, and write links as they are between pages of the site."""
    text = MARK.sub(lambda match: REFERENCES[match.group(1)](), markdown)
    source = DOCS / page.file.src_uri
    if not source.exists():
        source = ROOT / page.file.src_uri
    parts = CODE.split(text)
    return "".join(
        part if index % 2 else LINK.sub(lambda match: _moved(match, source), part)
        for index, part in enumerate(parts)
    )


def place_of(path: Path) -> str:
    """Where a file of the repository is in the site's sources."""
    base = DOCS if path.is_relative_to(DOCS) else ROOT
    return path.relative_to(base).as_posix()


def linked(pages: Any) -> set[Path]:
    """The files outside of `docs/` that are reached by links from `pages`."""
    found: set[Path] = set()
    waiting = [page.resolve() for page in pages]
    while waiting:
        page = waiting.pop()
        for path in links(page):
            if path.is_relative_to(DOCS) or path in found:
                continue
            found.add(path)
            waiting += [path] if path.suffix == ".md" else []
    return found


def links(page: Path) -> list[Path]:
    """The files of the repository to which a Markdown file links, outside of code."""
    text = "".join(CODE.split(page.read_text(encoding="utf-8"))[::2])
    found = (target(page, match.group(2)) for match in LINK.finditer(text))
    return [path for path in found if path is not None]


def target(page: Path, link: str) -> Path | None:
    """The file of the repository that a relative link means; of a folder its README."""
    path = Path(os.path.normpath(page.parent / link))
    if path.is_dir():
        path = path / "README.md"
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _moved(match: re.Match[str], source: Path) -> str:
    opening, link, anchor, closing = match.groups()
    path = target(source, link)
    if path is None:  # mkdocs reports it
        return match.group()
    moved = posixpath.relpath(place_of(path), posixpath.dirname(place_of(source)) or ".")
    return f"{opening}{moved}{anchor or ''}{closing}"
