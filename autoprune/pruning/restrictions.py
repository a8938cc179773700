"""`keep` and `bounds` of a configuration, applied to the groups and blocks of a model.

A pattern is a glob (`*`, `?`, `[...]`) or a name, which also stands for what lies inside: `head` is
`head` and `head.*`. It is matched against the names of groups and blocks, and against the layers
whose outputs belong to a group: a group is kept where one of its layers is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from autoprune.config import RunConfig
from autoprune.errors import ConfigError
from autoprune.graph import PruningGraph
from autoprune.space import SearchSpace
from autoprune.space.fitted import Range

_NEAR = 3


@dataclass(frozen=True)
class Restrictions:
    """What a model may lose: `ranges` of ratios by group, and `blocks` that are never dropped.

    Groups that are not named have the range of the space.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    blocks: frozenset[str] = frozenset()

    def words(self, group: str) -> str:
        """What holds for a group, for tables; empty where nothing does.

        >>> Restrictions({"conv1": (0.0, 0.3), "fc": (0.0, 0.0)}).words("conv1")
        'at most 30 % pruned'
        """
        low, high = self.ranges.get(group, (None, None))
        if low is None or high is None:
            return ""
        if high <= 0.0:
            return "kept"
        return f"{f'{low:.0%} to ' if low else 'at most '}{high:.0%} pruned".replace("%", " %")


def restricted_by(config: RunConfig, graph: PruningGraph, space: SearchSpace) -> Restrictions:
    """What `keep` and `bounds` of a configuration mean for a model. Raises ConfigError."""
    bounds = {name: (it.min_ratio, it.max_ratio) for name, it in config.bounds.items()}
    return restrictions(graph, config.keep, bounds, (space.min_ratio, space.max_ratio))


def unmatched(config: RunConfig, graph: PruningGraph) -> list[str]:
    """What is wrong with each pattern of `keep` and `bounds` that matches nothing."""
    alone = [{"keep": (pattern,), "bounds": {}} for pattern in config.keep]
    alone += [{"keep": (), "bounds": {pattern: it}} for pattern, it in config.bounds.items()]
    found = []
    for keys in alone:
        try:
            restricted_by(config.model_copy(update=keys), graph, config.space)
        except ConfigError as error:
            found.append(str(error))
    return found


def restrictions(
    graph: PruningGraph,
    keep: Iterable[str],
    bounds: Mapping[str, tuple[float | None, float | None]],
    default: Range,
) -> Restrictions:
    """Resolve patterns on a model; of several bounds on a group the last one counts.

    `bounds` are the smallest and the largest ratio by pattern, None for that of the space, which is
    `default`. What is kept has no bound. A block is never dropped where that would remove all of a
    group that is kept, or that a bound says the largest ratio of. Raises ConfigError for a pattern
    that matches nothing (of `bounds`: nothing that can be pruned).
    """
    names = _names(graph)
    ranges: dict[str, Range] = {}
    held: dict[str, bool] = {}  # whether a group may not be lost with its block
    for pattern, (low, high) in bounds.items():
        most = max(low or 0.0, default[1]) if high is None else high
        found = (min(default[0], most) if low is None else low, most)
        groups = [name for name, layers in names.items() if _matches(pattern, layers)]
        if not groups:
            raise ConfigError(f"bounds: {_unmatched(pattern, graph, frozen=False)}")
        ranges |= dict.fromkeys(groups, found)
        held |= dict.fromkeys(groups, high is not None)
    kept = set()
    for pattern in keep:
        groups = [name for name, layers in names.items() if _matches(pattern, layers)]
        blocks = [block.name for block in graph.blocks if _matches(pattern, [block.name])]
        whole = [frozen for frozen in graph.frozen if _matches(pattern, [frozen.name])]
        if not groups and not blocks and not whole:
            raise ConfigError(f"keep: {_unmatched(pattern, graph, frozen=True)}")
        ranges |= dict.fromkeys(groups, (0.0, 0.0))
        held |= dict.fromkeys(groups, True)
        kept |= {*blocks}
    there = {name for name, is_held in held.items() if is_held}
    kept |= {block.name for block in graph.blocks if graph.lost([block.name]) & there}
    return Restrictions(ranges, frozenset(kept))


def _names(graph: PruningGraph) -> dict[str, tuple[str, ...]]:
    """Each group's own name and those of the layers whose outputs belong to it."""
    return {
        group.name: (
            group.name,
            *(s.tensor.rpartition(".")[0] for s in group.slices if s.role == "out"),
        )
        for group in graph.groups
    }


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) or name == pattern or name.startswith(f"{pattern}.")
        for name in names
    )


def _unmatched(pattern: str, graph: PruningGraph, *, frozen: bool) -> str:
    """One line: what the pattern should have matched, and names that are near."""
    for item in () if frozen else graph.frozen:
        if _matches(pattern, [item.name]):
            return f"{pattern!r} is not prunable anyway: {item.name}: {item.reason}"
    known = list(
        dict.fromkeys(
            (
                *(name for layers in _names(graph).values() for name in layers),
                *(block.name for block in graph.blocks),
            )
        )
    )
    stem = pattern.partition("*")[0].rstrip(".") or pattern
    inside = dict.fromkeys(name[: len(stem) + 2] for name in known)  # of about the same depth
    near = difflib.get_close_matches(stem, known, n=_NEAR, cutoff=0.4)
    near = (
        near
        or [
            name
            for head in difflib.get_close_matches(stem, inside, n=1, cutoff=0.4)
            for name in known
            if name.startswith(head)
        ][:_NEAR]
    )
    hint = f"near: {', '.join(near)}" if near else f"groups: {', '.join(known[:8])}"
    what = "group, block or layer" if frozen else "group"
    return f"{pattern!r} matches no {what} · {hint} · autoprune profile lists them"
