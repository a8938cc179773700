"""The tables of models on the page."""

from __future__ import annotations

import re

from autoprune.report import tables


def test_every_member_and_baseline_has_a_row_with_its_verdict(view) -> None:
    source = tables.models(view)
    for record in (*view.members, *view.uniform):
        row = re.search(rf'<tr [^>]*id="trial-{record.number}">(.*?)</tr>', source).group(1)
        cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
        assert cells[7:10] == [
            f"{ms:.3f}" if ms < 1.0 else f"{ms:.2f}"
            for ms in (
                record.predicted.latency_ms,
                record.measured.latency_ms,
                record.measured.latency_p95_ms,
            )
        ]
        assert cells[-1].replace("&gt;", ">") == view.verdict(record).text
