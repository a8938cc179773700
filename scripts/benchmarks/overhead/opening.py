"""How long a browser takes to open the report of a long search: text, the first plot, all of them.

    python -m scripts.benchmarks.overhead.opening [RUN] [--times 5]    # a minute

Without a run the report is that of the tests: 1,000 trials of a network of 60 layers, 30 models on
the front. Each opening is a Chromium of its own, without a window, in which an empty page has been
open for two seconds, as in a browser that is in use, and that then loads the file from disk; the
page tells a local server the times since its navigation began at which text and tables, the first
plot and the last one were painted. Its content-security policy is taken out for that. Rows:
`results/overhead/opening.csv`.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from autoprune.report import html
from autoprune.report.formats import BROWSERS
from autoprune.report.read import read
from autoprune.store import RunFolder
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from tests.report.synthetic_run import make_thousand

SHOWN = {
    "run": ("run", ""),
    "trials": ("trials", ""),
    "front": ("front", ""),
    "kilobytes": ("file kB", ".0f"),
    "text_s": ("text after s", ".2f"),
    "first_s": ("first plot after s", ".2f"),
    "first_worst_s": ("worst", ".2f"),
    "all_s": ("all plots after s", ".2f"),
    "all_worst_s": ("worst", ".2f"),
    "load": ("load of the machine", ".1f"),
}
_TELL = """<script>
let first = 0;
const told = new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
  const { drawn } = document.documentElement.dataset, now = performance.now();
  if (drawn !== "0") first ||= now;
  if (drawn !== String(document.querySelectorAll("[data-figure]").length)) return;
  told.disconnect();
  const [painted] = performance.getEntriesByName("first-contentful-paint");
  new Image().src = "http://127.0.0.1:PORT/" + [painted.startTime, first, now].join("/");
})));
told.observe(document.documentElement, { attributeFilter: ["data-drawn"] });
</script></body>"""

_FIRST = "<script>setTimeout(() => location.replace('report.html'), 2000)</script>"


class _Told(BaseHTTPRequestHandler):
    """Takes one request, whose path is three times in milliseconds."""

    def do_GET(self) -> None:
        self.server.opened_s = [float(time) / 1000 for time in self.path.strip("/").split("/")]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the table is all that is printed."""


def opened_s(page: str, browser: str) -> list[float]:
    """Seconds from the start of the navigation until text, one and all plots are painted.

    Raises TimeoutError after a minute.
    """
    server = HTTPServer(("127.0.0.1", 0), _Told)
    server.timeout, server.opened_s = 60, None
    waiting = threading.Thread(target=server.handle_request)
    waiting.start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "report.html"
        open_page = re.sub("<meta http-equiv[^>]*>", "", page)
        tell = _TELL.replace("PORT", str(server.server_port))
        file.write_text(open_page.replace("</body>", tell), encoding="utf-8")
        (Path(folder) / "first.html").write_text(_FIRST, encoding="utf-8")
        started = subprocess.Popen(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
                *("--disable-background-networking", "--no-first-run", "--window-size=1280,900"),
                *(f"--user-data-dir={folder}/profile", "--remote-debugging-port=0"),
                (file.parent / "first.html").as_uri(),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            waiting.join()
        finally:
            started.terminate()
            started.wait()
            server.server_close()
    if server.opened_s is None:
        raise TimeoutError("the page did not tell within a minute that it was drawn")
    return server.opened_s


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="a run's folder")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        parser.error(f"needs a browser on the PATH: one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.open(options.run) if options.run else make_thousand(Path(folder) / "run")
        view = read(run)
    page = html.page(view)
    text, first, whole = zip(*(opened_s(page, browser) for _ in range(options.times)), strict=True)
    row = {
        "run": options.run.name if options.run else "synthetic",
        "trials": len(view.records),
        "front": len(view.members),
        "layers": len(view.network.layers) if view.network else 0,
        "kilobytes": len(page.encode()) / 1000,
        "times": options.times,
        "text_s": statistics.median(text),
        "first_s": statistics.median(first),
        "first_worst_s": max(first),
        "all_s": statistics.median(whole),
        "all_worst_s": max(whole),
        "load": os.getloadavg()[0],
        "browser": subprocess.run(
            [browser, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
    }
    file = Rows(RESULTS / "overhead" / "opening.csv", ["run", "trials", "front"])
    file.put({**row, **harness.circumstances()})
    rows = file.read()
    print(harness.table(rows, SHOWN), harness.stamp(rows), sep="\n\n")


if __name__ == "__main__":
    main()
