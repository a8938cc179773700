from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import CONFIG, ENVIRONMENT, make_run, make_thousand

from autoprune.errors import UsageError
from autoprune.report import figures, front_plot, html
from autoprune.report.read import read
from autoprune.store import FrozenInfo, Groups, RunFolder

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Text outside scripts, the tags with their attributes, and balance of what was opened."""

    VOID = ("meta", "img", "br", "path", "circle")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def without_plotly(source: str) -> str:
    (bundle,) = re.findall(r'<script type="text/plain" id="plotly">.*?</script>', source, re.S)
    return source.replace(bundle, "")


def figures_of(source: str) -> dict:
    found = re.search(r'<script type="text/plain" id="figures">(.*?)</script>', source, re.S)
    assert found is not None
    packed = json.loads(gzip.decompress(base64.b64decode(found.group(1))))

    def whole(value: object) -> object:
        if isinstance(value, list):
            return [whole(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$text" in value:
            return packed["texts"][value["$text"]]
        return {key: whole(item) for key, item in value.items()}

    return whole(packed["figures"])


def test_page_is_one_file_that_asks_for_nothing(finished_run) -> None:
    path = html.write(finished_run)
    assert path == finished_run.path / "report.html"
    assert path.stat().st_size < 1_000_000
    source = path.read_text(encoding="utf-8")
    parsed = Page(without_plotly(source))
    assert parsed.open == []
    assert not [tag for tag, attrs in parsed.tags if {"src", "href"} & attrs.keys()]
    policy = next(a["content"] for t, a in parsed.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-\S+' 'sha256-\S+';", policy)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "url(" not in html._asset("report.css")


def test_front_can_be_drawn_alone_against_a_chosen_axis(view) -> None:
    source = html.front_page(view, "macs")
    assert list(figures_of(source)["front"]) == ["macs"]
    assert 'data-axis="macs"' in source
    with pytest.raises(UsageError, match="axis must be one of measured"):
        html.front_page(view, "flops")


def test_what_a_user_wrote_is_escaped_everywhere(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=24, task=HOSTILE, task_args={HOSTILE: HOSTILE})
    environment = {"autoprune": HOSTILE, HOSTILE: [HOSTILE]}
    (run.path / "environment.json").write_text(json.dumps(environment))
    run.save_importances({HOSTILE: {HOSTILE: 0.5}})
    run.save_groups(Groups((), (FrozenInfo(HOSTILE, 1, HOSTILE),)))
    last = run.records()[11]
    run.append(replace(last, error=HOSTILE, origin=HOSTILE))
    page = html.page(read(run))
    source = without_plotly(page)
    assert not [tag for tag, _ in Page(source).tags if tag == "img"]
    assert HOSTILE in Page(source).texts
    assert "importance_0" in figures_of(page)
    assert "<img" not in json.dumps(figures_of(page)["importance_0"]).replace("&lt;img", "")


def test_the_bundle_of_plotly_has_its_license_and_every_type_of_trace_that_is_drawn(view) -> None:
    bundle = gzip.decompress((Path(html.__file__).parent / html.PLOTLY).read_bytes()).decode()
    assert html.page(view).count("plotly.js (basic - minified) v") == 1
    assert "Licensed under the MIT license" in html.page(view)
    axes = front_plot.fronts(view).values()
    drawn = [figures.ratios(view), figures.schedules(view), *figures.importances(view).values()]
    drawn += [figures.history(view, "accuracy"), figures.prediction(view, "latency_ms"), *axes]
    types = {trace.get("type", "scatter") for figure in drawn for trace in figure["data"]}
    assert types == {"scatter", "bar"}
    assert all(f'moduleType:"trace",name:"{kind}"' in bundle for kind in types)


def test_embedded_json_cannot_leave_its_element() -> None:
    value = {"</script>": [float("nan"), float("inf"), 1.5, "<!--", "a&b", None]}
    text = html.packed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    plain = gzip.decompress(base64.b64decode(text)).decode()
    assert json.loads(plain) == {"</script>": [None, None, 1.5, "<!--", "a&b", None]}


def test_long_texts_that_occur_several_times_are_in_the_page_once(view) -> None:
    drawn = html._figures(view)
    source = html.page(view)
    assert figures_of(source) == json.loads(json.dumps(html._plain(drawn)))
    found = re.search(r'id="figures">(.*?)</script>', source, re.S)
    assert found is not None
    content = gzip.decompress(base64.b64decode(found.group(1))).decode()
    said = figures_of(source)["front"]["macs"]["data"][-2]["text"][0]
    assert len(said) > 80
    assert content.count(json.dumps(said)) == 1


def test_a_number_has_six_digits() -> None:
    content = gzip.decompress(base64.b64decode(html.packed([1 / 3, 1234567.0]))).decode()
    assert json.loads(content) == [0.333333, 1234570.0]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    """The report of 1,000 trials of 60 layers, 30 of them on the front."""
    return html.write(make_thousand(tmp_path_factory.mktemp("thousand") / "run"))


def test_a_thousand_trials_of_sixty_layers_are_less_than_a_megabyte(thousand) -> None:
    assert thousand.stat().st_size < 1_000_000
    models = figures_of(thousand.read_text(encoding="utf-8"))["network"]["models"]
    assert len(models) == 30
    assert all(len(model["rows"]) == 61 for model in models.values())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_real_browser_lays_out_a_thousand_trials_with_few_elements(thousand, tmp_path) -> None:
    dom, log = dump(thousand, tmp_path, 1280)
    assert f'data-drawn="{len(figures_of(thousand.read_text(encoding="utf-8")))}"' in dom
    assert len(re.findall(r"<[a-zA-Z]", dom)) < 20_000
    assert "CONSOLE" not in log


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_choosing_a_model_changes_its_picture_and_its_table(finished_run, tmp_path) -> None:
    view = read(finished_run)
    models = html._figures(view)["network"]["models"]
    first, *_, last = models
    choose = (
        "<script>addEventListener('load', () => { const wait = setInterval(() => {"
        "if (!document.documentElement.dataset.drawn) return; clearInterval(wait);"
        "const choice = document.querySelector('select'); choice.value = '%s';"
        "choice.dispatchEvent(new Event('change')); }, 50); });</script>"
    )
    page = re.sub("<meta http-equiv[^>]*>", "", html.page(view))
    path = tmp_path / "chosen.html"
    path.write_text(page.replace("</body>", choose % last + "</body>"), encoding="utf-8")
    dom, log = dump(path, tmp_path, 1280)
    body = re.search('<tbody data-rows="network-plot">(.*?)</tbody>', dom, re.S)
    assert body is not None
    rows = re.findall("<tr>(.*?)</tr>", body.group(1), re.S)
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in rows]
    assert [row[1:] for row in cells] == models[last]["rows"] != models[first]["rows"]
    assert "CONSOLE" not in log


@pytest.mark.parametrize("trials", [0, 1, 48])
def test_run_that_goes_on_has_a_page_that_says_so(tmp_path, trials) -> None:
    run = make_run(tmp_path / "run", trials=trials, finished=False)
    source = without_plotly(html.page(read(run)))
    assert "This run is in progress" in source
    assert Page(source).open == []


def test_member_that_is_slower_is_shown_as_such(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=24, budget={"macs": "70%"})
    view = read(run)
    slow = view.members[-1]
    cost = replace(slow.measured, latency_ms=2.0, latency_p95_ms=2.2)
    run.append(replace(slow, measured=cost))
    assert "1.4× slower than dense, measured" in without_plotly(html.page(read(run)))


def test_report_does_not_load_torch(finished_run) -> None:
    code = (
        "import sys; from autoprune.report import html, terminal, read; "
        f"html.page(read.read({str(finished_run.path)!r})); "
        "assert 'torch' not in sys.modules; assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def dump(path, tmp_path, width: int) -> tuple[str, str]:
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
            *("--disable-background-networking", "--no-first-run", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"),
            *("--virtual-time-budget=5000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, pytest.param(500, marks=pytest.mark.slow)])
def test_real_browser_draws_every_figure_without_an_error(finished_run, tmp_path, width) -> None:
    path = html.write(finished_run)
    dom, log = dump(path, tmp_path, width)
    expected = len(figures_of(path.read_text(encoding="utf-8")))
    assert f'data-drawn="{expected}"' in dom
    assert dom.count('class="main-svg"') >= expected
    assert dom.count('class="point"') > 16
    assert "CONSOLE" not in log


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_real_browser_runs_no_script_but_the_page_s_own(tmp_path) -> None:
    mark = "<script>document.documentElement.dataset.ran = 1</script>"
    handler = '<img src="x" onerror="document.documentElement.dataset.ran = 1">'
    path = tmp_path / "report.html"
    path.write_text(html.document("t", {}, [mark, handler]), encoding="utf-8")
    dom, log = dump(path, tmp_path, 1280)
    (root,) = re.findall("<html[^>]*>", dom)
    assert "data-ran" not in root
    assert "data-drawn" in root
    assert "Content Security Policy" in log


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_real_browser_shows_a_run_without_a_trial(tmp_path) -> None:
    run = RunFolder.create(tmp_path / HOSTILE.replace("/", "_"), CONFIG, ENVIRONMENT)
    dom, log = dump(html.write(run), tmp_path, 1280)
    assert "No trial has finished yet" in dom
    assert 'data-drawn="0"' in dom
    assert "CONSOLE" not in log
