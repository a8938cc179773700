"""Every question to one model; the answers are written to a file as they come."""

from __future__ import annotations

import logging
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


def prepare() -> None:
    """What is the same for all models: imported once, one thread, no warnings."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    allow_torchvision_without_operators()
    for name in ("timm", "transformers", "torchvision", "torch_pruning"):
        __import__(name)


def asked(source: str, name: str, side: str, file: Path) -> None:
    """Ask one model of one side; an error that ends it is among the answers."""
    answers = Answers(file)
    with tempfile.TemporaryDirectory() as folder:
        try:
            SIDES[side](SOURCES[source][name], answers, Path(folder))
        except Exception as error:  # noqa: BLE001  it is a result like any other
            answers.put(**{f"{side}_error": said(error)})
