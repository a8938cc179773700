"""Channels, blocks, or both: what is worth pruning where latency counts.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth --epochs 0 1 8 --seeds 0    # 2 h a seed

ResNet-56 on CIFAR-10 at 30, 20 and 12 % of its latency in ONNX Runtime (one thread), as measured
beside it: the allocator decides widths alone, dropped blocks alone, or both, by the same
sensitivities, at a predicted share that is rescaled in six rounds at most. Everything else is
equal: order of units, repair, recovery. The test split is read once for each finished model. Rows
that are in `results/depth/depth.csv` already are kept, and so is what was chosen (`chosen.json`,
by kind and share, whatever `--profile` says): seeds may run in processes of their own. `--together`
trains nothing: it measures all models that were chosen and the dense one in one session
(`together.csv`). Table: `README.md`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import combinations, product
from pathlib import Path

import pandas as pd
import torch

from autoprune._search.allocation.allocator import Allocator
from autoprune._search.plan import Plan
from autoprune._search.preparing.block_factor import best_factor, scaled
from autoprune._search.sampling.score import STATISTICS, heads
from autoprune.architecture import Architecture
from autoprune.budget import Budget
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost.latency import measure_together
from autoprune.cost.model import CostModel
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.profile import DeviceProfile
from autoprune.device.sampling import pruned
from autoprune.pareto import Objective
from autoprune.pruning import sensitivity
from autoprune.pruning.build import build
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import obs_scores, reestimate_batchnorm
from autoprune.pruning.verification import prunable
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import write_text
from autoprune.tasks import Split, Task, load_dense
from autoprune.training import Answers, RecoveryRun, choose
from autoprune.training.batches import sample
from examples.cifar10 import Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.depth.together import measured, section
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.matching import Match, Matches, matched

OUT = RESULTS / "depth"
TOGETHER = "together.csv"
KEY = ["kind", "share", "epochs", "seed"]
ROUNDS = 6  # of choosing and measuring
ALIKE = 0.1  # two latencies are compared as equal where they differ no more
SPACES = {
    "channels": {"depth": False, "ratios": {"max": 0.9}, "round_to": 4},
    "blocks": {"depth": {"max": 1.0}, "ratios": {"max": 0.0}},
    "both": {"depth": {"max": 1.0}, "ratios": {"max": 0.9}, "round_to": 4},
}
SHOWN = {
    "share": ("latency wanted", ".0%"),
    "kind": ("pruned", ""),
    "measured_share": ("latency measured", ".1%"),
    "macs_share": ("MACs", ".1%"),
    "dropped": ("blocks dropped", "g"),
    "epochs": ("epochs", "g"),
    "seeds": ("seeds", ""),
    "val_accuracy": ("validation", ".1%"),
    "test_accuracy": ("test", ".1%"),
}


class Bench:
    """Task, dense model, graph and everything that is computed once."""

    def __init__(self, profile: Path, task: Task | None = None) -> None:
        """`task` is by default ResNet-56 on CIFAR-10."""
        self.task = task or Cifar10ResNet56()
        self.dense = load_dense(self.task).eval()
        self.example = self.task.example_input()
        self.graph = prunable(self.dense, self.example)
        batches = sample(self.task, 0, samples=1024)
        self.calibration = calibrate(self.dense, batches, forward=self.task.loss)
        self.costs = CostModel(self.graph, latency=self._predictor(profile))
        few = heads(sample(self.task, 0, samples=256), 256)
        self.score = sensitivity.divergence(self.dense, few, forward=self.task.outputs)
        self.statistics = heads(batches, STATISTICS)
        self.scores = obs_scores(self.dense, self.graph, self.calibration)
        self.precision = choose(self.task, self.dense, "cpu")
        self.answers: dict[int, Answers] = defaultdict(Answers)  # of the teacher, by seed

    @cached_property
    def table(self) -> sensitivity.Sensitivity:
        """Of every group and block."""
        space = FittedSpace.of(SearchSpace.parse(SPACES["both"]), self.graph.sizes())
        return sensitivity.measure(
            self.dense,
            self.graph,
            self.calibration,
            self.score,
            scores=self.scores,
            nearest=space.nearest,
            blocks=[block.name for block in self.graph.blocks],
            statistics=self.statistics,
            forward=self.task.loss,
        )

    def _predictor(self, file: Path) -> LatencyPredictor:
        if not file.is_file():
            fitted = LatencyPredictor.fit(
                self.dense, self.graph, self.example, runtime="onnxruntime"
            )
            DeviceProfile.of(fitted, self.graph).save(file)
        profile = DeviceProfile.load(file)
        return profile.matched(self.graph, batch=1, dtype="float32").predictor

    def allocate(self, kind: str, share: float, factor: float | None = None) -> Architecture:
        """The least sensitive architecture of a kind within a share of the dense latency.

        What blocks count beside widths is multiplied by `factor`, by default that of a search.
        """
        plan, table = self.plan(kind, share), self.table
        if kind == "both":
            table = scaled(table, self.factor(share) if factor is None else factor)
        return plan.space.architecture(Allocator(plan.items, table.at, plan.loads).at(1.0))

    def plan(self, kind: str, share: float) -> Plan:
        """What may be pruned within a share of the dense latency."""
        blocks = {b.name: tuple(self.graph.lost([b.name])) for b in self.graph.blocks}
        space = SearchSpace.parse(SPACES[kind])
        return Plan(
            space=FittedSpace.of(space, self.graph.sizes(), blocks=blocks),
            price=self.costs.cost,
            prices=self.costs.prices,
            dense=self.costs.dense,
            budget=Budget.parse({"latency_ms": f"{100 * share:g}%"}),
            objectives=(Objective("accuracy", "maximize"), Objective("latency_ms")),
            reference=(0.0, 1.0),
        )

    def factor(self, share: float) -> float:
        """By what a search with this limit multiplies the sensitivities of blocks."""
        return best_factor(self.table, self.plan("both", share), self.divergence)

    def divergence(self, architecture: Architecture) -> float:
        """Of the repaired model from the dense one, before training."""
        small = build(
            self.dense,
            self.graph,
            architecture,
            scores=self.scores,
            calibration=self.calibration,
        ).model
        if architecture.dropped:
            reestimate_batchnorm(small, self.statistics, forward=self.task.loss)
        return self.score(small)

    def match(self, kind: str, share: float) -> Match:
        """The architecture of a kind whose measured latency is `share` of the dense model's."""
        return matched(share, partial(self.allocate, kind), self.measured_share, ROUNDS)

    def described(self, match: Match) -> dict[str, float]:
        """Costs of an architecture as shares of the dense model's."""
        cost, dense = self.costs.cost(match.architecture), self.costs.dense
        return {
            "measured_share": match.measured,
            "predicted_share": cost.get("latency_ms") / dense.get("latency_ms"),
            "macs_share": cost.get("macs") / dense.get("macs"),
            "dropped": len(match.architecture.dropped),
        }

    def measured_share(self, architecture: Architecture) -> float:
        """Its latency over the dense model's, measured in turns."""
        small = pruned(self.dense, self.graph, architecture)
        return measure_together([self.dense, small], self.example, "onnxruntime")[1].ratio

    def recover(
        self,
        architecture: Architecture,
        epochs: float,
        seed: int,
        splits: Sequence[Split] = ("val", "test"),
        lr: float | None = None,
    ) -> dict[str, float]:
        """The accuracy on `splits` after repair and `epochs` of training."""
        recovery = Recovery(lr=lr or (0.01 if epochs < 2 else 0.05), distillation=0.5)
        run = RecoveryRun(
            self.task,
            self.dense,
            self.graph,
            Candidate(architecture, Selection("obs"), recovery=recovery),
            epochs=epochs,
            seed=seed,
            calibration=self.calibration,
            precision=self.precision,
            answers=self.answers[seed],
        )
        run.build()
        while not run.finished:
            run.advance(1.0)
        return {f"{split}_accuracy": run.evaluate(split)["accuracy"] for split in splits}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.2, 0.12])
    parser.add_argument("--kinds", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--epochs", nargs="+", type=float, default=[0.0, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--profile", type=Path, default=OUT / "device.json")
    parser.add_argument("--together", action="store_true", help="measure what was chosen")
    options = parser.parse_args()
    rows, where = Rows(OUT / "depth.csv", KEY), harness.circumstances()
    OUT.mkdir(parents=True, exist_ok=True)
    matches = Matches(OUT / "chosen.json")
    if options.together:
        if not matches.read() or rows.read().empty:
            parser.error("--together needs what an earlier call has chosen and trained")
        found = measured(Cifar10ResNet56(), matches.read()).assign(**where)
        write_text(OUT / TOGETHER, found.to_csv(index=False))
        write_page(rows.read())
        return
    bench = Bench(options.profile)
    trained: dict[tuple[str, float, int], dict[str, float]] = {}  # kinds may choose the same
    asked = {
        f"{kind} {share:g}": (kind, share) for share in options.shares for kind in options.kinds
    }
    if kept := [name for name in asked if name in matches.read()]:
        print(f"kept from {OUT / 'chosen.json'}, whatever --profile says: {', '.join(kept)}")
    chosen = {each: matches.get(name, partial(bench.match, *each)) for name, each in asked.items()}
    for seed, epochs in product(options.seeds, options.epochs):
        for (kind, share), match in chosen.items():
            key = {"kind": kind, "share": share, "epochs": epochs, "seed": seed}
            if len(rows.find(**key)) or (not epochs and seed != options.seeds[0]):
                continue
            run = (match.architecture.key, epochs, seed)
            if run not in trained:
                trained[run] = bench.recover(match.architecture, epochs, seed)
            found = {**key, **bench.described(match), **trained[run], **where}
            print({name: found.get(name) for name in SHOWN}, flush=True)
            rows.put(found)
            write_page(rows.read())


def write_page(rows: pd.DataFrame) -> None:
    """Write `README.md` from the rows, and from what was measured together."""
    file = OUT / TOGETHER
    together = section(pd.read_csv(file, dtype={"commit": str})) if file.is_file() else ""
    write_text(OUT / "README.md", page(rows) + together)


def sessions(rows: pd.DataFrame) -> str:
    """How far the latencies of one model differ between sessions; empty where each has one."""
    found = []
    for (kind, _, dropped), same in rows.groupby(["kind", "macs_share", "dropped"]):
        shares = [f"{100 * share:.1f}" for share in sorted(set(same.measured_share))]
        if len(shares) > 1:
            found.append(f"{kind} ({dropped:g} blocks dropped) {', '.join(shares)} %")
    if not found:
        return ""
    return (
        "Some models were measured in several sessions, each time beside the dense model: "
        f"{'; '.join(found)}. Where latencies of rows differ no more than that, they say nothing. "
    )


def reversals(rows: pd.DataFrame) -> str:
    """Where a kind that is ahead after the shorter training is behind after the longer one.

    Kinds are compared by their means over the seeds that both have of both trainings, where their
    mean latencies as measured are within `ALIKE` of each other.
    """
    found = []
    for share, same in rows[rows.epochs > 0].groupby("share", sort=False):
        for one, other in combinations(sorted(set(same.kind)), 2):
            means = _paired(same[same.kind.isin([one, other])])
            if means is None:
                continue
            short, long = means.columns
            gain = means.loc[one] - means.loc[other]
            if gain[short] * gain[long] >= 0.0:
                continue
            first, second = (one, other) if gain[short] > 0.0 else (other, one)
            found.append(
                f"At {share:.0%}, {first} is ahead of {second} after {short:g} epoch "
                f"({means[short][first]:.1%} and {means[short][second]:.1%}) and behind it after "
                f"{long:g} ({means[long][first]:.1%} and {means[long][second]:.1%}): what short "
                "trainings rank first is not always the best after long ones. "
            )
    return "".join(found)


def _paired(two: pd.DataFrame) -> pd.DataFrame | None:
    """`kinds x (shortest, longest training)`: test accuracies, None where they do not compare."""
    tests = two.pivot_table(index="seed", columns=["epochs", "kind"], values="test_accuracy")
    trainings = sorted(set(two.epochs))
    ends = [trainings[0], trainings[-1]]
    cells = [*product(ends, sorted(set(two.kind)))]
    if len(set(ends)) < 2 or not set(cells) <= set(tests.columns):
        return None
    tests = tests[cells].dropna()
    used = two[two.seed.isin(tests.index) & two.epochs.isin(ends)]
    latencies = used.groupby("kind").measured_share.mean()
    if tests.empty or latencies.max() > (1.0 + ALIKE) * latencies.min():
        return None
    return tests.mean().unstack("epochs")


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    order = rows.sort_values(["share", "kind", "epochs"], ascending=[False, True, True])
    groups = order.groupby(["share", "kind", "epochs"], sort=False, as_index=False)
    means = groups.mean(numeric_only=True).assign(seeds=groups.size()["size"])
    return (
        "# Channels, blocks, or both\n\nResNet-56 on CIFAR-10, latency in ONNX Runtime on one "
        f"thread; means over seeds. {harness.stamp(rows)}\n\n"
        "Where a kind cannot get as low as wanted, its row is its smallest model: rows that differ "
        f"in the measured latency alone are one model, measured anew. {sessions(rows)}The smallest "
        "model is that of this space (at least 4 channels a layer, and a tenth of each group), not "
        "of channel pruning as such. The public checkpoint has seen the validation images: "
        "validation accuracy is optimistic, and a learning rate chosen on it (here one for all "
        "kinds) favours none of them in particular, but may be too high or too low. Blocks are "
        "chosen in the order of dropping ([order.md](order.md)), and count beside widths what a "
        "search lets them count ([factors.md](factors.md)). "
        f"{reversals(rows)}Rows that are missing were not run."
        "\n\n" + harness.table(means, SHOWN) + "\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
