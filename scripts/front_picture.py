"""The front of a run as a PNG, for a README: `python scripts/front_picture.py RUN front.png`.

As `autoprune report RUN --format png`, with a choice of the axis and the size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autoprune.errors import AutopruneError
from autoprune.report.formats import picture
from autoprune.report.read import read


def main() -> None:
    """Read a run, draw its front, write the picture."""
    parser = argparse.ArgumentParser(description="The front of a run as a PNG.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--axis", help="e.g. predicted.latency_ms; default: the searched cost")
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--height", type=int, default=550)
    given = parser.parse_args()
    try:
        drawn = picture(read(given.run), given.axis, (given.width, given.height))
    except AutopruneError as error:
        sys.exit(str(error))
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    given.picture.write_bytes(drawn)
    print(f"wrote {given.picture}")


if __name__ == "__main__":
    main()
