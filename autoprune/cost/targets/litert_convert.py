"""Exported programs → LiteRT: run as its own process, `litert_convert.py FOLDER`.

That process is the Python of the converter's environment. Each `NAME.pt2` in the folder becomes
`NAME.tflite`; `answer.json` holds the versions there, and why others could not be converted. Needs
nothing of autoprune.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Convert every program of the folder."""
    import litert_torch
    import torch

    errors = {}
    for file in sorted(folder.glob("*.pt2")):
        try:
            program = torch.export.load(file)
            args, kwargs = program.example_inputs
            converted = litert_torch.convert(program.module(), args, kwargs)
            converted.export(str(file.with_suffix(".tflite")))
        except Exception as error:  # noqa: BLE001 (whatever a converter meets is the answer)
            lines = str(error).strip().splitlines() or ["no message"]
            errors[file.stem] = f"{type(error).__name__}: {lines[0][:200]}"
    answer = {"torch": torch.__version__, "converter": _version(), "errors": errors}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _version() -> str:
    """The name and version of the package that converts; nightly ones have another name."""
    (name, *_) = importlib.metadata.packages_distributions()["litert_torch"]
    return f"{name} {importlib.metadata.version(name)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
