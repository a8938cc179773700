"""What is built: the width of every group, dropped blocks, sparsity patterns and precision.

This is the only description of a model's structure. Ratios belong to the search space, masks and
indices to one set of weights; both are turned into an `Architecture` or come from one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from autoprune.patterns import canonical

FLOAT32, INT8 = "float32", "int8"
BLOCK = "block:"  # begins the names of blocks where groups are named too
IN_FLOAT = "precision:float32"  # where groups are named too: 1, or 0 for an int8 model
PRECISIONS: tuple[str, ...] = (FLOAT32, INT8)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The structure of a pruned model, relative to the dense one.

    `widths` are the units that each group keeps, at least one; groups that are not named keep all.
    `dropped` names blocks that are removed as a whole. `patterns` gives for a weight which of its
    elements may differ from zero: a sparsity in (0, 1) such as `"0.5"`, or `"2:4"` for two of each
    four consecutive inputs that are left (see `patterns`). `precision` is the arithmetic of the
    finished model.

    >>> Architecture({"conv1": 8}, dropped=["layer2.1"]).to_dict()["dropped"]
    ['layer2.1']
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    dropped: Collection[str] = ()
    patterns: Mapping[str, str] = field(default_factory=dict)
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        for name, units in self.widths.items():
            if isinstance(units, bool) or int(units) != units or units < 1:
                raise ValueError(f"widths[{name!r}] must be a whole number above 0, got {units}")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"precision must be one of {known}, got {self.precision!r}")
        if isinstance(self.dropped, str):
            raise ValueError(f"dropped must be a list of block names, got {self.dropped!r}")
        widths = {name: int(self.widths[name]) for name in sorted(self.widths)}
        object.__setattr__(self, "widths", MappingProxyType(widths))
        object.__setattr__(self, "dropped", tuple(sorted(set(self.dropped))))
        patterns = {name: _pattern(name, self.patterns[name]) for name in sorted(self.patterns)}
        object.__setattr__(self, "patterns", MappingProxyType(patterns))

    @staticmethod
    def dense(sizes: Mapping[str, int]) -> Architecture:
        """The unpruned model, of groups of these `sizes` (`PruningGraph.sizes()`)."""
        return Architecture(sizes)

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The width of every group, in the order of `sizes`; ValueError for one that cannot be."""
        for name, units in self.widths.items():
            if name not in sizes:
                raise ValueError(f"widths[{name!r}]: the model has no such group")
            if units > sizes[name]:
                raise ValueError(f"widths[{name!r}] must be at most {sizes[name]}, got {units}")
        return {name: self.widths.get(name, size) for name, size in sizes.items()}

    def ratios(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The fraction of units that is removed from each group, in [0, 1).

        >>> Architecture({"conv1": 12}).ratios({"conv1": 16, "conv2": 32})
        {'conv1': 0.25, 'conv2': 0.0}
        """
        return {name: 1.0 - width / sizes[name] for name, width in self.complete(sizes).items()}

    def removed(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """As `ratios`, where a search made this: groups inside a dropped block have no width.

        >>> Architecture({"conv1": 12}, ["layer2"]).removed({"conv1": 16, "layer2.conv1": 32})
        {'conv1': 0.25, 'layer2.conv1': 1.0}
        """
        ratios = self.ratios(sizes)
        gone = set(sizes) - set(self.widths) if self.dropped else set()
        return {name: 1.0 if name in gone else ratio for name, ratio in ratios.items()}

    def without_patterns(self) -> Architecture:
        """The same shapes, for weights that hold their zeros already."""
        return Architecture(self.widths, self.dropped, {}, self.precision)

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot be pickled by itself
        return Architecture.from_dict, (self.to_dict(),)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        return {
            "widths": dict(self.widths),
            "dropped": list(self.dropped),
            "patterns": dict(self.patterns),
            "precision": self.precision,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_dict`."""
        return Architecture(data["widths"], data["dropped"], data["patterns"], data["precision"])


def digest(content: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pattern(name: str, pattern: str) -> str:
    try:
        return canonical(pattern)
    except ValueError as error:
        raise ValueError(f"patterns[{name!r}] {error}") from None
