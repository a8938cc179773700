"""Why each layer of a model is as wide as it is, in words."""

from __future__ import annotations

from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.store import LayerInfo, Network

_OFTEN = 0.1  # of the whole cost: such a layer is named
_WIDE = 0.5  # of the model's average pruned fraction: a group below has been left wide


class LayerRemarks:
    """The remarks on the layers of a network's models."""

    def __init__(self, view: RunView, network: Network) -> None:
        self._view, self._network = view, network
        members: dict[str, list[str]] = {}
        for layer in network.layers:
            members.setdefault(layer.group, []).append(layer.name)
        self._firsts = {group: names[0] for group, names in members.items()}
        reasons = {item.name: item.reason for item in view.frozen}
        self._fixed = [
            [*_limited(view, layer, reasons.get(layer.name, "")), *_shared(layer, members)]
            for layer in network.layers
        ]
        self._sensitivity = {g: s for g, s in view.sensitivity.items() if g in network.halves}

    def of(self, record: TrialRecord) -> list[str]:
        """One text a layer of a trial's model; empty where nothing is to be said."""
        costs = self._network.models[str(record.number)]
        parts, slow = (costs.ms, "slowest") if costs.ms else (costs.macs, "largest")
        removed = self._view.removed(record)
        average = sum(removed.values()) / len(removed) if removed else 0.0
        found = []
        for place, layer in enumerate(self._network.layers):
            words = list(self._fixed[place])
            if not costs.widths[place]:
                words.insert(0, f"dropped with block {layer.block}" if layer.block else "gone")
            elif layer.name == self._firsts[layer.group]:
                is_wide = removed.get(layer.group, average) < _WIDE * average
                words[:0] = [self._wide(layer.group)] if is_wide else []
            if parts[place] > _OFTEN * sum(parts):
                words.append(f"among the {slow}")
            found.append("; ".join(word for word in words if word))
        return found

    def _wide(self, group: str) -> str:
        """What pruning half of a group alone would cost and save, beside all other groups."""
        damage, saved = self._sensitivity, self._network.halves
        others = [other for other in damage if other != group]
        if group not in damage or not others:
            return ""
        below = sum(damage[other] < damage[group] for other in others)
        price = {name: damage[name] / max(saved[name], 1e-9) for name in damage}
        cheaper = sum(price[other] < price[group] for other in others)
        start = "kept wide:" if 2 * cheaper >= len(others) else "wide, although"
        cost = text.label(self._network.latency or "macs")
        return (
            f"{start} pruning half of it would change the outputs {_rank(below, len(others))} "
            f"and save {text.share(saved[group], 1.0)} of the {cost}"
        )


def _rank(below: int, others: int) -> str:
    """How a group's sensitivity compares with that of others, of which so many have less.

    >>> _rank(3, 3), _rank(0, 3), _rank(1, 3)
    ('most of all groups', 'least of all groups', 'more than for 1 of 3 other groups')
    """
    if below == others:
        return "most of all groups"
    return f"more than for {below} of {others} other groups" if below else "least of all groups"


def _limited(view: RunView, layer: LayerInfo, reason: str) -> list[str]:
    """What the configuration or the model's structure keeps from being pruned."""
    low_high = view.plan.space.ranges.get(layer.group) if view.plan and layer.group else None
    if low_high is not None:
        most = f"at most {100 * low_high[1]:.0f} % pruned (bounds)"
        return ["kept (keep)" if low_high[1] <= 0.0 else most]
    if reason:
        return [f"not prunable: {reason}"]
    return [] if layer.group else ["outputs are not prunable"]


def _shared(layer: LayerInfo, members: dict[str, list[str]]) -> list[str]:
    """The other layers of a layer's group, which have the same channels."""
    others = [name for name in dict.fromkeys(members[layer.group]) if name != layer.name]
    if not layer.group or not others:
        return []
    more = f" and {len(others) - 2} more" if len(others) > 2 else ""
    return [f"same channels as {', '.join(others[:2])}{more}"]
