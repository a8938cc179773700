"""The page of the exports that were compared with the model."""

from __future__ import annotations

import pandas as pd

from scripts.benchmarks.runtimes import parity

WHERE = {
    **{"machine": "a", "cores": 1, "threads": 1, "versions": "v", "python": "3", "commit": "c"},
    **{"command": "x", "date": "2026-11-30"},
}


def test_only_files_that_were_run_count() -> None:
    rows = pd.DataFrame(
        [
            {"format": "onnx", "difference": 2e-7, "ran": True, "why": ""},
            {"format": "ncnn", "difference": None, "ran": None, "why": "no slices"},
            {"format": "litert", "difference": 2e-3, "ran": True, "why": ""},
            {"format": "coreml", "difference": 0.0, "ran": False, "why": ""},
        ]
    ).assign(network="net", pruned=0.0, **WHERE)
    text = parity.page(rows)
    assert "Of 2 files that were run 1 are above 0.001, the largest difference is 2.0e-03" in text
    assert "| network | widths | onnx | ncnn | litert | coreml |" in text
    assert "| net | dense | 2e-07 | – | 2e-03 | not run |" in text
    assert text.endswith("Not written:\n\n- net, dense, ncnn: no slices\n")


def test_a_format_that_was_not_tried_is_a_dash() -> None:
    one = {"network": "a", "pruned": 0.5, "format": "onnx", "difference": 0.0, "ran": True}
    rows = pd.DataFrame([one, {**one, "network": "b", "format": "pt2"}]).assign(why="", **WHERE)
    text = parity.page(rows)
    assert "| a | half widths | 0e+00 | – |" in text
    assert "| b | half widths | – | 0e+00 |" in text
    assert "Not written" not in text
