"""Whether the exports compute what the model does: every format, dense and pruned to half widths.

    python -m scripts.benchmarks.runtimes.parity  # 5 min
    python -m scripts.benchmarks.runtimes.parity --formats litert  # adds or replaces one

The networks of the examples, a MobileNetV2, a vision transformer and a recurrent network, with
random weights and shaken batch statistics, as they are and with half of the units of every group.
Each is written with `export_model`, run in its runtime, and compared with eager PyTorch on the
example input and random ones; shown is the largest difference, relative to the largest output.
Packages of Core ML run on macOS only: they are written here, and checked without being run.
Rows: `results/runtimes/parity.csv`; table: `parity.md`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from autoprune import prune_model
from autoprune._export import FORMATS, export_model
from autoprune.errors import DeviceError, ExportError
from autoprune.store import write_text
from examples.cifar10 import CifarResNet
from examples.detection import Detector
from examples.medical_images import ScreeningNet
from examples.voice_commands import KeywordNet
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES
from scripts.benchmarks.optimizers.models import SmallViT

OUT = RESULTS / "runtimes"
TARGET = 1e-3
WRITTEN = [name for name in FORMATS if name != "packed"]


class Recurrent(nn.Module):
    """Two layers of a GRU over 20 steps, and a head on the last."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(16, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20": (lambda: CifarResNet(20), (1, 3, 32, 32)),
    "DS-CNN": (KeywordNet, (1, 1, 49, 10)),
    "screening": (lambda: ScreeningNet(2), (1, 1, 128, 128)),
    "detector": (lambda: Detector(1), (1, 3, 256, 416)),
    "MobileNetV2": (FAMILIES["mobilenet"].build, FAMILIES["mobilenet"].shape),
    "ViT": (SmallViT, (1, 1, 28, 28)),
    "GRU": (Recurrent, (1, 20, 16)),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--formats", nargs="+", choices=WRITTEN, default=WRITTEN)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = Rows(OUT / "parity.csv", ["network", "pruned", "format"])
    for network in given.networks:
        build, shape = NETWORKS[network]
        torch.manual_seed(0)
        example = torch.randn(shape)
        dense = shaken(build()).eval()
        for pruned in (0.0, 0.5):
            model = prune_model(dense, example, pruned) if pruned else dense
            for name in given.formats:
                found = written(model, example, name)
                print(network, pruned, name, found, flush=True)
                key = {"network": network, "pruned": pruned, "format": name}
                file.put({**key, **found, **harness.circumstances()})
    write_text(OUT / "parity.md", page(file.read()))


def shaken(model: nn.Module) -> nn.Module:
    """With statistics and scales of batch normalizations as training leaves them: not 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def written(model: nn.Module, example: Tensor, name: str) -> dict[str, object]:
    """The difference of one export, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{FORMATS[name].ending}"
        try:
            done = export_model(model, path, example, format=name)
        except (DeviceError, ExportError) as error:
            return {"difference": None, "why": str(error)}
    return {"difference": done.difference, "ran": done.ran, "why": ""}


def page(rows: pd.DataFrame) -> str:
    """The table, and what could not be written; differences count where the file itself was run."""
    names = [name for name in WRITTEN if name in set(rows["format"])]
    by = rows.set_index(["network", "pruned", "format"])
    lines = [
        f"| {network} | {_widths(pruned)} | "
        + " | ".join(_cell(by, (network, pruned, name)) for name in names)
        + " |"
        for network, pruned in dict.fromkeys(zip(rows["network"], rows["pruned"], strict=True))
    ]
    known = rows[rows["ran"].eq(True)]["difference"]
    missing = rows[rows["difference"].isna()]
    reasons = "".join(
        f"- {each.network}, {_widths(each.pruned)}, {each.format}: {each.why}\n"
        for each in missing.itertuples()
    )
    return (
        "# Exports compared with the model\n\nThe largest difference of the outputs in the format's"
        " runtime from those of eager PyTorch, relative to the largest output. Packages of Core ML "
        "run on macOS only; here they were written and checked, but not run. Of "
        f"{len(known)} files that were run {(known > TARGET).sum()} are above {TARGET:g}, the "
        f"largest difference is {known.max():.1e}. {harness.stamp(rows)}\n\n"
        f"| network | widths | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}\n"
        + "\n".join(lines)
        + (f"\n\nNot written:\n\n{reasons}" if reasons else "\n")
    )


def _cell(by: pd.DataFrame, key: tuple[str, float, str]) -> str:
    """The difference of one file; "not run" where it was only written, – where it was not."""
    if key not in by.index or pd.isna(by.loc[key, "difference"]):
        return "–"
    return f"{by.loc[key, 'difference']:.0e}" if by.loc[key, "ran"] else "not run"


def _widths(pruned: float) -> str:
    return "half widths" if pruned else "dense"


if __name__ == "__main__":
    main()
