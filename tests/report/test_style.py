"""What all plots share."""

from __future__ import annotations

import pytest

from autoprune.report.style import axis, colors, layout, level

FIRST, MIDDLE, LAST = "#12a594", "#3b7cf0", "#a35cf0"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [FIRST]), (2, [FIRST, LAST]), (3, [FIRST, MIDDLE, LAST])],
)
def test_colors_go_from_cheap_to_dear(count: int, expected: list[str]) -> None:
    assert colors(count) == expected


def test_colors_between_are_mixed_and_all_different() -> None:
    found = colors(5)
    # halfway from 12a594 to 3b7cf0: (18 + 59) / 2, (165 + 124) / 2, (148 + 240) / 2
    assert found[1] == f"#{round(38.5):02x}{round(144.5):02x}{194:02x}"
    assert len(set(colors(60))) == 60


def test_options_replace_what_is_shared_and_stay_out_of_other_plots() -> None:
    made = layout(height=10, xaxis=axis("ms", range=[0, 1]))
    assert (made["height"], made["showlegend"]) == (10, False)
    assert made["xaxis"]["title"]["text"] == "ms"
    assert made["xaxis"]["range"] == [0, 1]
    made["dragmode"] = "zoom"
    assert layout()["dragmode"] is False
    assert layout()["height"] == 320
    assert axis("a", zeroline=True)["zeroline"] is True


def test_a_level_spans_the_whole_width() -> None:
    line = level(0.5)
    assert (line["xref"], line["x0"], line["x1"], line["y0"], line["y1"]) == (
        "paper",
        0,
        1,
        0.5,
        0.5,
    )
