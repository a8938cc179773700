"""Asks every question of one model; the answers are written to a file as they come.

python -m scripts.benchmarks.zoo.one SOURCE NAME {ours,torch-pruning} FILE
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from scripts.benchmarks.zoo import handmade, huggingface, timm_models, torchvision_models
from scripts.benchmarks.zoo.entry import allow_torchvision_without_operators
from scripts.benchmarks.zoo.questions import Answers, ours, said
from scripts.benchmarks.zoo.rival import torch_pruning

SOURCES = {
    "torchvision": torchvision_models.MODELS,
    "timm": timm_models.MODELS,
    "transformers": huggingface.MODELS,
    "hand-made": handmade.MODELS,
}
SIDES = {"ours": ours, "torch-pruning": torch_pruning}


def main() -> None:
    source, name, side, file = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if source in ("torchvision", "timm"):
        allow_torchvision_without_operators()
    answers = Answers(Path(file))
    with tempfile.TemporaryDirectory() as folder:
        try:
            SIDES[side](SOURCES[source][name], answers, Path(folder))
        except Exception as error:  # noqa: BLE001  it is a result like any other
            answers.put(**{f"{side}_error": said(error)})


if __name__ == "__main__":
    main()
