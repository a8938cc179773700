"""The front of a run as a PNG, for a README: `python scripts/front_picture.py RUN front.png`.

Draws the plot of the run's report in Chromium, in the light theme at twice the pixels.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from autoprune.errors import AutopruneError
from autoprune.report.html import front_page
from autoprune.report.read import read

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIGHT = '<html lang="en" data-theme="light">'
TIGHT = "<style>main { padding: 16px 20px !important; max-width: none !important; }</style></head>"


def main() -> None:
    """Read a run, draw its front, write the picture."""
    parser = argparse.ArgumentParser(description="The front of a run as a PNG.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--axis", help="e.g. predicted.latency_ms; default: the searched cost")
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--height", type=int, default=550)
    given = parser.parse_args()
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        sys.exit(f"a browser is needed to draw the picture: one of {', '.join(BROWSERS)}")
    try:
        view = read(given.run)
        if not view.members:
            sys.exit(f"{given.run} has no front yet")
        page = front_page(view, given.axis)
    except AutopruneError as error:
        sys.exit(str(error))
    page = page.replace('<html lang="en">', LIGHT, 1).replace("</head>", TIGHT, 1)
    draw(browser, page, given.picture, (given.width, given.height))
    print(f"wrote {given.picture}")


def draw(browser: str, page: str, picture: Path, size: tuple[int, int]) -> None:
    """Let the browser draw a page into a PNG."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "front.html"
        source.write_text(page, encoding="utf-8")
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
            *("--disable-background-networking", "--no-first-run", "--hide-scrollbars"),
            *(f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2"),
            *(f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=5000"),
            *(f"--screenshot={picture.resolve()}", source.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if not picture.is_file():
        sys.exit(f"{browser} drew nothing: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    main()
