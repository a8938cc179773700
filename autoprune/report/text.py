"""Numbers as people read them: counts, bytes, times, metrics and their differences."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.budget import Cost, Limit
from autoprune.candidate import Recovery
from autoprune.cost_fields import split_field

NONE = "–"
LABELS = {
    "params": "parameters",
    "macs": "MACs",
    "weight_bytes": "weights",
    "peak_memory_bytes": "peak memory",
    "file_bytes": "file",
    "latency_ms": "latency",
    "latency_p95_ms": "latency p95",
}
_COUNTS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
_BYTES = ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"))


def label(field: str) -> str:
    """What a cost is called, with the name of its device.

    >>> label("macs"), label("latency_p95_ms@phone")
    ('MACs', 'latency p95 on phone')
    """
    base, device = split_field(field)
    return f"{LABELS[base]} on {device}" if device else LABELS[base]


def cost(name: str, value: float | None) -> str:
    """A cost with its unit, three digits.

    >>> cost("macs", 40_550_000), cost("weight_bytes", 1_093_000), cost("latency_ms", 0.4567)
    ('40.5 M', '1.09 MB', '0.457 ms')
    """
    if value is None:
        return NONE
    if name.startswith("latency"):
        return f"{three_digits(value)} ms"
    scales = _BYTES if name.endswith("bytes") else _COUNTS
    for scale, unit in scales:
        if _rounded(value) >= scale:
            return f"{three_digits(value / scale)}{unit}"
    return f"{value:.0f}" + (" B" if name.endswith("bytes") else "")


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 0.457, 4.57, 45.7, 457.

    >>> three_digits(0.45678), three_digits(45.678), three_digits(4567.8)
    ('0.457', '45.7', '4568')
    """
    if value == 0.0:
        return "0"
    size = _rounded(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:.{places}f}"


def _rounded(value: float) -> float:
    """The size of a value in three digits, by which its unit and its places are chosen."""
    return abs(float(f"{value:.3g}"))


def sure(cost: Cost | None, device: str = "") -> str:
    """The half width of a measured latency's 95 % confidence interval, or nothing.

    >>> from autoprune.budget import Confidence, Device
    >>> sure(Cost(latency_ms=1.0, device=Device("x"), confidence=Confidence((0.98, 1.02))))
    '±2 %'
    """
    found = cost.confidence_of(device) if cost else None
    return f"±{100 * found.half_width:.2g} %" if found else ""


def noise(cost: Cost | None) -> str:
    """Why measured latencies are noisy, each after the name of its device; or nothing.

    >>> from autoprune.budget import Confidence, Device, Timing
    >>> wide = Confidence((0.9, 1.1), spread=0.2)
    >>> noise(Cost(timings=(Timing("phone", 1.0, None, Device("x"), wide),)))
    'phone noisy: spread 20%'
    """
    names = (cost.names or ("",)) if cost else ()
    notes = ((name, cost.note(name)) for name in names if cost)
    return "; ".join(f"{name} {note}".strip() for name, note in notes if note)


def is_share(name: str) -> bool:
    """Whether a metric is read as a percentage: any kind of accuracy.

    >>> is_share("accuracy"), is_share("top5"), is_share("loss")
    (True, True, False)
    """
    return "accuracy" in name or name.startswith(("top1", "top5")) or name == "acc"


def metric(name: str, value: float | None) -> str:
    """A metric's value; accuracies as percentages.

    >>> metric("accuracy", 0.91234), metric("loss", 0.345678), metric("accuracy", None)
    ('91.23 %', '0.3457', '–')
    """
    if value is None:
        return NONE
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.4g}"


def change(name: str, value: float | None) -> str:
    """A difference of a metric, signed; accuracies in percentage points.

    >>> change("accuracy", -0.0042), change("loss", 0.05), change("accuracy", 0.0)
    ('−0.42 pt', '+0.05', '±0.00 pt')
    """
    if value is None:
        return NONE
    text = f"{100 * value:+.2f} pt" if is_share(name) else f"{value:+.4g}"
    text = "±" + text[1:] if not any(digit in text for digit in "123456789") else text
    return text.replace("-", "−")


def spread(name: str, mean: float | None, std: float | None) -> str:
    """A mean with its standard deviation.

    >>> spread("accuracy", 0.9123, 0.0012), spread("loss", 0.5, None)
    ('91.23 ± 0.12 %', '0.5')
    """
    if mean is None or std is None:
        return metric(name, mean)
    if is_share(name):
        return f"{100 * mean:.2f} ± {100 * std:.2f} %"
    return f"{mean:.4g} ± {std:.2g}"


def share(value: float | None, whole: float | None) -> str:
    """`value` as a percentage of `whole`.

    >>> share(21, 42), share(None, 42)
    ('50 %', '–')
    """
    return NONE if value is None or not whole else f"{100 * value / whole:.0f} %"


def rate(value: float | None) -> str:
    """A learning rate; `default` for the optimizer's own.

    >>> rate(0.003), rate(None)
    ('0.003', 'default')
    """
    return "default" if value is None else f"{value:.3g}"


def options(recovery: Recovery, *, start: str = "") -> str:
    """What a recovery uses of its options, after `start`; empty for none.

    >>> options(Recovery(ema=0.99, rewarm=True))
    'rewarm, ema 0.99'
    """
    found = (k if v is True else f"{k} {v:.3g}" for k, v in recovery.options.items())
    text = ", ".join(found).replace("_", " ")
    return start + text if text else ""


def seconds(value: float | None) -> str:
    """A duration.

    >>> seconds(0.31), seconds(75), seconds(7380)
    ('0.3 s', '1 min 15 s', '2 h 3 min')
    """
    if value is None:
        return NONE
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seeds(numbers: Sequence[int]) -> str:
    """The seeds themselves, so that a single one is not taken for their number.

    >>> seeds((0,)), seeds((0, 1, 2))
    ('seed 0', 'seeds 0, 1, 2')
    """
    return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"


def limit(bound: Limit, value: float | None) -> str:
    """A limit in its own unit, with its share of dense where it was given as one.

    >>> limit(Limit("macs", 0.5, relative=True), 20e6)
    'MACs ≤ 20.0 M (50 % of dense)'
    >>> limit(Limit("latency_ms", 1000 / 30, fps=30.0), 1000 / 30)
    'latency ≤ 33.3 ms (30 frames per second)'
    """
    given = f"{100 * bound.value:g} % of dense" if bound.relative else ""
    if bound.fps is not None:
        given = f"{bound.fps:g} frames per second"
    if value is None:
        return f"{label(bound.field)} ≤ {given}"
    note = f" ({given})" if given else ""
    return f"{label(bound.field)} ≤ {cost(bound.field, value)}{note}"


def limit_of_predictions(bound: Limit, most: float, dense: float | None, margin: float) -> str:
    """The limit that predictions were held against, and what it was made of.

    >>> limit_of_predictions(Limit("macs", 0.5, relative=True), 9.6e6, 20e6, 0.042)
    'predicted MACs ≤ 9.60 M (50 % of the predicted 20.0 M, less a margin of 4.2 %)'
    """
    parts = []
    if bound.relative:
        parts.append(f"{100 * bound.value:g} % of the predicted {cost(bound.field, dense)}")
    if margin:
        parts.append(f"less a margin of {100 * margin:.2g} %")
    note = f" ({', '.join(parts)})" if parts else ""
    return f"predicted {label(bound.field)} ≤ {cost(bound.field, most)}{note}"


def last_line(error: str | None) -> str:
    """The line that says what went wrong: the last one of a traceback, else the first.

    >>> last_line("Traceback (most recent call last):\\n  ...\\nValueError: loss is nan")
    'ValueError: loss is nan'
    """
    lines = (error or "").strip().splitlines() or ["no reason was recorded"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def optimizer(name: str) -> str:
    """The class of a built-in optimizer, as trials record it; other names as they are.

    >>> optimizer("adamw"), optimizer("Lion")
    ('AdamW', 'Lion')
    """
    return {"sgd": "SGD", "adamw": "AdamW"}.get(name, name)
