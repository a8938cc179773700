"""Random allocation problems with costs as real ones: chains of layers in blocks, as ResNets are.

A layer's multiply-accumulates are a product of two widths, its latency has steps of 8 channels, and
peak memory is a maximum over layers. Blocks can be dropped; int8 shrinks bytes and time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoprune._search.allocation.allocator import Item

COSTS = ("macs", "latency_ms", "peak_memory_bytes", "weight_bytes")
Rows = NDArray[np.float64]
_INT8 = {"macs": 1.0, "latency_ms": 0.45, "peak_memory_bytes": 0.25, "weight_bytes": 0.25}


@dataclass
class Instance:
    """Items, a sensitivity of every option, and costs relative to the whole choice's.

    `layers` are (in, out, area, block): columns of items, -1 for a fixed width or no block.
    """

    items: list[Item]
    table: list[list[float]]
    layers: NDArray[np.int64]
    area: NDArray[np.float64]
    costs: tuple[str, ...]
    limits: NDArray[np.float64]
    seed: int
    dense: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._places = {item.name: place for place, item in enumerate(self.items)}
        self._precision = self._places.get("precision", -1)
        self.dense = np.ones(len(self.costs))
        self.dense = self.load(np.array([[item.options[-1] for item in self.items]]))[0]

    def sensitivity(self, name: str, option: int) -> float:
        place = self._places[name]
        return self.table[place][self.items[place].options.index(option)]

    def load(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """`candidates x items` -> `candidates x costs`, relative to the dense model."""
        rows = np.ones((len(self.items) + 1, len(chosen)))  # the last one: a fixed width
        rows[:-1] = chosen.T
        into, out, live = (rows[column] for column in self.layers.T)
        int8 = chosen[:, self._precision] == 8 if self._precision >= 0 else np.zeros(len(chosen))
        found = [
            self._cost(name, into, out, live) * np.where(int8, _INT8[name], 1.0)
            for name in self.costs
        ]
        return np.column_stack(found) / self.dense

    def _cost(self, name: str, into: Rows, out: Rows, live: Rows) -> Rows:
        """Of `layers x candidates`, for each candidate."""
        if name == "macs":
            return self.area @ (into * out * live)
        if name == "weight_bytes":
            return (into * out * live).sum(axis=0)
        if name == "latency_ms":
            blocks = np.ceil(into / 8.0) * np.ceil(out / 8.0)
            return self.area @ ((64.0 * blocks + 4.0 * (into + out)) * live)
        alive = ((into + out) * live * self.area[:, None]).max(axis=0)
        return 9.0 * (into * out * live).sum(axis=0) + alive

    def harm(self, chosen: dict[str, int]) -> float:
        """Sensitivities of all that is there, added."""
        total = 0.0
        for item in self.items:
            if item.block is None or chosen[item.block]:
                total += self.sensitivity(item.name, chosen[item.name])
        return total

    def worst(self, chosen: Mapping[str, int]) -> float:
        """The largest load relative to its limit."""
        row = np.array([[chosen[item.name] for item in self.items]])
        return float((self.load(row)[0] / self.limits).max())

    def within(self, chosen: Mapping[str, int]) -> bool:
        """Whether all limits hold."""
        row = np.array([[chosen[item.name] for item in self.items]])
        return bool((self.load(row)[0] <= self.limits).all())


def small(seed: int, most: int = 40_000) -> Instance:
    """One that brute force can solve: at most so many choices; always feasible."""
    for attempt in itertools.count():
        rng = np.random.default_rng([1, seed, attempt])
        made = _made(
            rng,
            seed,
            stages=int(rng.integers(1, 3)),
            blocks=int(rng.integers(1, 3)),
            inner=1,
            options=int(rng.integers(3, 7)),
        )
        if made is not None and 200 <= _choices(made) <= most:
            return made
    raise AssertionError


def middle(seed: int) -> Instance:
    """Some ten to forty items."""
    for attempt in itertools.count():
        rng = np.random.default_rng([2, seed, attempt])
        made = _made(
            rng,
            seed,
            stages=int(rng.integers(1, 4)),
            blocks=int(rng.integers(1, 6)),
            inner=int(rng.integers(1, 3)),
            options=int(rng.integers(3, 13)),
        )
        if made is not None:
            return made
    raise AssertionError


def large(seed: int, costs: tuple[str, ...] = ("latency_ms", "peak_memory_bytes")) -> Instance:
    """200 pruning groups with 16 options each, as in a deep ResNet of bottlenecks."""
    for attempt in itertools.count():
        rng = np.random.default_rng([3, seed, attempt])
        made = _made(
            rng, seed, stages=4, blocks=24, inner=2, options=16, costs=costs, plain=True, pad=4
        )
        if made is not None:
            return made
    raise AssertionError


def brute_force(instance: Instance) -> float:
    """The least harm of all choices within the limits."""
    best = np.inf
    options = [range(len(item.options)) for item in instance.items]
    values = [np.array(item.options) for item in instance.items]
    tables = [np.array(row) for row in instance.table]
    for part in _chunks(itertools.product(*options), 1 << 14):
        rows = np.array(part)
        chosen = np.column_stack([v[rows[:, i]] for i, v in enumerate(values)])
        alive = np.ones(rows.shape, dtype=bool)
        for place, item in enumerate(instance.items):
            if item.block is not None:
                alive[:, place] = chosen[:, instance._places[item.block]] != 0
        harm = sum(np.where(alive[:, i], t[rows[:, i]], 0.0) for i, t in enumerate(tables))
        inside = (instance.load(chosen) <= instance.limits).all(axis=1)
        if inside.any():
            best = min(best, float(harm[inside].min()))
    return best


def uniform(instance: Instance) -> dict[str, int] | None:
    """The mildest uniform widths within the limits, then filled up; None where none is."""
    found = []
    precisions = [i.options for i in instance.items if i.name == "precision"] or [(0,)]
    for precision in precisions[0]:
        for share in np.linspace(1.0, 0.0, 257):
            chosen = {}
            for item in instance.items:
                if item.name == "precision":
                    chosen[item.name] = precision
                elif item.options[0] == 0:
                    chosen[item.name] = item.options[-1]
                else:
                    wanted = share * item.options[-1]
                    chosen[item.name] = min(item.options, key=lambda o: abs(o - wanted))
            if instance.within(chosen):
                found.append(_filled(instance, chosen))
                break
    return min(found, key=instance.harm) if found else None


def _filled(instance: Instance, chosen: dict[str, int]) -> dict[str, int]:
    while True:
        best = None
        for item in instance.items:
            place = item.options.index(chosen[item.name])
            if place + 1 < len(item.options):
                moved = {**chosen, item.name: item.options[place + 1]}
                if instance.within(moved) and (
                    best is None or instance.harm(moved) < instance.harm(best)
                ):
                    best = moved
        if best is None or instance.harm(best) > instance.harm(chosen):
            return chosen
        chosen = best


def _chunks(rows: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while part := list(itertools.islice(rows, size)):
        yield part


def _choices(instance: Instance) -> int:
    return int(np.prod([len(item.options) for item in instance.items]))


def _made(
    rng: np.random.Generator,
    seed: int,
    *,
    stages: int,
    blocks: int,
    inner: int,
    options: int,
    costs: tuple[str, ...] | None = None,
    plain: bool = False,
    pad: int = 0,
) -> Instance | None:
    items: list[Item] = []
    layers: list[tuple[int, int, int]] = []
    area: list[float] = []

    def group(name: str, width: int, block: str | None = None) -> int:
        step = max(1, width // options)
        widths = tuple(sorted({max(1, width - step * k) for k in range(options)}))
        items.append(Item(name, widths, block))
        return len(items) - 1

    last, before = -1, 3.0
    droppable = not plain and rng.random() < 0.5
    for stage in range(stages):
        width = int(rng.choice([12, 16, 24, 32, 40])) * 2**stage
        size = 4.0 ** (stages - stage)
        here = group(f"stage{stage}", width)
        layers.append((last, here, -1))
        area.append(before * size if last < 0 else size)
        for number in range(blocks + (pad // stages if plain else 0)):
            block = None
            name = f"stage{stage}.{number}"
            if droppable and number > 0:
                block = f"{name}.block"
                items.append(Item(block, (0, 1)))
                gate = len(items) - 1
            else:
                gate = -1
            previous = here
            for layer in range(inner):
                made = group(f"{name}.conv{layer}", int(width * rng.choice([0.5, 1.0, 1.5])), block)
                layers.append((previous, made, gate))
                area.append(size * float(rng.choice([1.0, 9.0])))
                previous = made
            layers.append((previous, here, gate))
            area.append(size * float(rng.choice([1.0, 9.0])))
        last = here
    layers.append((last, -1, -1))
    area.append(10.0)
    if not plain and rng.random() < 0.3:
        items.append(Item("precision", (8, 32), is_global=True))
    kinds = rng.permutation(COSTS)
    chosen = costs or tuple(str(c) for c in kinds[: int(rng.integers(1, 3))])
    table = _sensitivities(rng, items)
    made = Instance(
        items,
        table,
        np.array(layers),
        np.array(area),
        chosen,
        np.ones(len(chosen)),
        seed,
    )
    least = made.load(np.array([[item.options[0] for item in items]]))[0]
    made.limits = rng.uniform(0.15, 0.8, len(chosen))
    return made if (least <= made.limits).all() else None


def _sensitivities(rng: np.random.Generator, items: list[Item]) -> list[list[float]]:
    table = []
    total = 0.0
    for item in items:
        if item.options[0] == 0 or item.name == "precision":
            table.append([0.0, 0.0])
            continue
        gone = 1.0 - np.array(item.options) / item.options[-1]
        curve = np.exp(rng.normal(0.0, 1.5)) * gone ** rng.uniform(0.7, 4.0)
        curve = curve * np.exp(rng.normal(0.0, 0.15, len(gone)))
        table.append(np.maximum.accumulate(curve[::-1])[::-1].tolist())
        total += table[-1][0]
    for place, item in enumerate(items):
        if item.options[0] == 0:
            inside = [table[p][0] for p, other in enumerate(items) if other.block == item.name]
            table[place][0] = float(rng.uniform(0.3, 1.5) * sum(inside))
        elif item.name == "precision":
            table[place][0] = float(rng.uniform(0.0, 0.1) * total)
    return table
