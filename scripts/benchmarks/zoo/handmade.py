"""The nets of the tests: usual ones in small, and those in which a coupling is easily got wrong."""

from __future__ import annotations

import sys
from functools import partial

import torch
from torch import Tensor

from scripts.benchmarks.harness import ROOT
from scripts.benchmarks.zoo.entry import Entry

sys.path.insert(0, str(ROOT / "tests"))

from models.zoo import ZOO
from models.zoo_attention import ViT
from models.zoo_hard import HARD
from models.zoo_kinds import KINDS

_FEW_CAN_GO = 0.02
"""The floor of nets that hold something which must stay: a size by hand, an unknown operator."""


def _pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32)


_ATTENTION = ("fused", "plain", "separate")
MODELS: dict[str, Entry] = {
    **{name: Entry(build, partial(draw, 2)) for name, (build, draw) in ZOO.items()},
    **{
        f"vit_{kind}": Entry(partial(ViT, kind), _pixels) for kind in ("fused", "plain", "separate")
    },
    **{
        name: Entry(build, partial(draw, 2), floor=_FEW_CAN_GO)
        for name, (build, draw) in HARD.items()
    },
    **{name: Entry(build, draw, floor=_FEW_CAN_GO) for name, (build, draw, _) in KINDS.items()},
}
