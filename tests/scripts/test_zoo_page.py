"""What the page of the zoo counts."""

from __future__ import annotations

import pandas as pd

from scripts.benchmarks.zoo.__main__ import page
from scripts.benchmarks.zoo.questions import DENSE_TOO

WHERE = {"machine": "m", "cores": 1, "threads": 1, "versions": "v", "python": "3"}
WHERE |= {"commit": "c", "command": "x", "date": "d"}


def row(source: str, model: str, **changes: object) -> dict[str, object]:
    common = {"passed": True, "wrong": "", "drop": 0.7, "trace_s": 1.0, "saved_hf": None}
    tp = {"tp_passed": False, "tp_drop": None, "tp_prune_s": None, "tp_total_s": None}
    return {
        "source": source,
        "model": model,
        **common,
        **tp,
        "onnx_error": None,
        **WHERE,
        **changes,
    }


def test_own_models_stand_apart_and_what_was_not_asked_is_no_failure() -> None:
    asked = {"tp_total_s": 2.0, "tp_drop": 0.5, "tp_prune_s": 1.0}
    text = page(
        pd.DataFrame(
            [
                row("torchvision", "a", tp_passed=True, **asked),
                row("torchvision", "b", passed=False, wrong="drop (0.1): c", **asked),
                row("torchvision", "d"),
                row("hand-made", "e", onnx_error=f"ExportError: {DENSE_TOO}", **asked),
            ]
        )
    )
    assert "3 of 4 pass: 2 of 3 of torchvision, timm and transformers, 1 of 1 of this" in text
    assert "Of 1 not even the dense model" in text
    assert "| torchvision | 3 | 2 | 1 | 2 | 70% | 50% |" in text
    assert "- torchvision b: drop (0.1): c" in text
