"""What a training step costs where the outputs of the teacher are known from an earlier trial.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.overhead.teacher    # 5 minutes

ResNet-56 on CIFAR-10 as its own teacher, one thread, a tenth of an epoch: each round trains the
same candidate without and with known outputs (in turns; `autoprune/training/answers.py`). Medians
of the rounds; rows: `results/overhead/teacher.csv`.
"""

from __future__ import annotations

from statistics import median

import torch

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.pruning.verification import prunable
from autoprune.tasks import load_dense
from autoprune.training import Answers, RecoveryRun, choose
from examples.cifar10 import Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

EPOCHS = 0.1
SHOWN = {
    "pruned": ("units pruned", ".0%"),
    "alone_s": ("training, s", ".1f"),
    "known_s": ("with known outputs, s", ".1f"),
    "ratio": ("ratio", ".2f"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--pruned", nargs="+", type=float, default=[0.3, 0.6])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "overhead" / "teacher.csv", ["pruned"])
    task = Cifar10ResNet56()
    dense = load_dense(task).eval()
    graph = prunable(dense, task.example_input())
    precision, answers = choose(task, dense, "cpu"), Answers()

    def seconds(candidate: Candidate, known: Answers | None) -> float:
        run = RecoveryRun(
            task, dense, graph, candidate, epochs=EPOCHS, seed=0, precision=precision, answers=known
        )
        run.advance(EPOCHS)
        return run.times["train_s"]

    for pruned in given.pruned:
        widths = {name: round(size * (1.0 - pruned)) for name, size in graph.sizes().items()}
        candidate = Candidate(
            Architecture(widths),
            Selection("l2", repair=False),
            recovery=Recovery(lr=0.01, distillation=0.5),
        )
        seconds(candidate, answers)  # the outputs
        taken = [
            (seconds(candidate, None), seconds(candidate, answers)) for _ in range(given.rounds)
        ]
        alone, known = (median(each) for each in zip(*taken, strict=True))
        found = {"alone_s": alone, "known_s": known, "ratio": median(b / a for a, b in taken)}
        rows.put({"pruned": pruned, "rounds": given.rounds, **found, **harness.circumstances()})
    print(harness.table(rows.read(), SHOWN))


if __name__ == "__main__":
    main()
