"""The page's tables of models: beside dense, retrained, and their settings.

On a phone their rows become cards, where each cell carries its column's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.budget import Cost
from autoprune.cost_fields import field_at, split_field
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView, speedup
from autoprune.report.markup import cell, escape, heads, section
from autoprune.report.style import colors
from autoprune.report.terminal import device_line
from autoprune.store import RetrainingSummary

_COUNTS = ("params", "macs", "weight_bytes")


def models(view: RunView) -> str:
    """Dense, members and uniform baselines in one table, predicted and measured apart."""
    name = view.metric.name if view.metric else "metric"
    shades = colors(len(view.members))
    knee = view.front.knee if view.front else None
    rows = [_dense_row(view, name)]
    for record, shade in zip(view.members, shades, strict=True):
        mark = f'<span class="dot" style="background:{shade}"></span>'
        is_knee = knee is not None and record.number == knee.number
        tag = '<span class="tag">knee</span>' if is_knee else ""
        tag += '<span class="tag base">uniform</span>' if record in view.uniform else ""
        tag += '<span class="tag base">int8</span>' if view.is_int8(record) else ""
        who = f"{mark}trial {record.number}{tag}"
        rows.append(_row(view, record, name, who, "knee" if is_knee else ""))
    others = [record for record in view.uniform if record not in view.members]
    if others:
        rows.append(
            f'<tr class="head"><td colspan="{12 + (len(view.latencies) > 1)}" class="full">'
            "Baseline: uniform pruning (one ratio for every group)</td></tr>"
        )
        mark = '<span class="dot square"></span>'
        rows += [
            _row(view, record, name, f"{mark}uniform, trial {record.number}", "")
            for record in others
        ]
    return section(
        "Models vs. dense",
        f'<div class="scroll"><table class="cards{" several" if len(view.latencies) > 1 else ""}">'
        f"<thead>{_model_head(view, name)}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">{escape(device_line(view))}. Latencies are medians in milliseconds for '
        "one forward pass, ± half of the 95 % confidence interval; the speed-up is the ratio to "
        "the dense model, measured interleaved. Predicted is the predictor's estimate; measured is "
        "the finished model, alone on the machine."
        f"{_predicted_only_note(view)}{_uniform_note(view)}</p>",
    )


def retrained(view: RunView) -> str:
    """Retrained members: test metrics over seeds, never used for selection."""
    if not view.retrained:
        return ""
    columns = (
        "model",
        "epochs",
        "seeds",
        "test, mean ± std",
        "dense, test",
        "difference",
        "measured",
    )
    rows = "".join(_retrained_row(result) for result in view.retrained)
    return section(
        "Retrained models",
        f'<div class="scroll"><table class="cards"><thead><tr>{heads(columns)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">The test split was evaluated once per finished model and never used for '
        "selection. ± is the sample standard deviation over the seeds.</p>",
    )


def settings(view: RunView) -> str:
    """The settings of each member: schedule, importance, recovery."""
    columns = (
        "model",
        "precision",
        "blocks dropped",
        "patterns",
        "schedule",
        "progress",
        "importance",
        "repair",
        "optimizer",
        "lr",
        "distillation",
        "regularizer",
        "epochs",
        "origin",
    )
    rows = []
    for record, shade in zip(view.members, colors(len(view.members)), strict=True):
        made = record.candidate
        schedule, recovery = made.schedule, made.recovery
        steps = f" in {schedule.steps}" if schedule.steps > 1 else ""
        progress = f"{schedule.begin:g} – {schedule.end:g}" if steps else f"at {schedule.begin:g}"
        values = (
            made.architecture.precision,
            view.dropped(record) or "none",
            view.patterns(record) or "none",
            schedule.kind + steps,
            progress,
            made.selection.importance,
            "yes" if made.selection.repair else "no",
            record.optimizer or recovery.optimizer,
            text.rate(recovery.lr),
            f"{recovery.distillation:.2g}",
            f"{recovery.regularizer:.2g}",
            f"{record.epochs:g}",
            record.origin,
        )
        mark = f'<span class="dot" style="background:{shade}"></span>'
        first = cell(f"{mark}trial {record.number}", "", "l full")
        rest = (cell(escape(v), c) for v, c in zip(values, columns[1:], strict=True))
        rows.append(f"<tr>{first}{''.join(rest)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{heads(columns)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _uniform_note(view: RunView) -> str:
    if view.cost is None or all(view.gain(record) is None for record in view.members):
        return ""
    cost = f"{view.gain_source} {text.label(view.cost.name)}"
    return f" To uniform: the difference to uniform pruning at equal {cost}, interpolated."


def _predicted_only_note(view: RunView) -> str:
    away = [split_field(field)[1] for field in view.latencies if view.is_predicted_only(field)]
    if not any(away):
        return ""
    is_are = "is another machine" if len(away) == 1 else "are other machines"
    return (
        f" {escape(', '.join(away))} {is_are} than the one of the search: latency predicted only."
    )


def _model_head(view: RunView, name: str) -> str:
    device = '<th class="l">device</th>' if len(view.latencies) > 1 else ""
    above = '<th class="span"></th>' if device else ""
    groups = (
        '<tr><th class="l span" colspan="4"></th><th class="span" colspan="3"></th>'
        f'{above}<th class="span predicted">predicted</th>'
        '<th class="span measured" colspan="3">measured</th><th class="span"></th></tr>'
    )
    plain = (f"val {name}", "to dense", "to uniform", "params", "MACs", "weights")
    return (
        f'{groups}<tr><th class="l">model</th>{heads(plain, left=False)}{device}'
        '<th class="predicted">ms</th><th class="measured">ms</th><th>p95 ms</th>'
        '<th>speed-up</th><th class="l">verdict</th></tr>'
    )


def _dense_row(view: RunView, name: str) -> str:
    counts, measured = view.dense.predicted or view.dense.measured, view.dense.measured
    speed = "<br>".join(
        "1.00×" if measured and measured.value(field) else text.NONE for field in view.latencies
    )
    value = text.metric(name, view.dense.metrics.get(name))
    who = '<span class="dot diamond"></span>dense'
    cells = _cells(name, who, (value, "", ""), counts, None)
    cells += _latencies(view, view.dense.predicted, measured)
    note = text.noise(measured)
    last = cell(escape(note), "", "l full verdict" if note else "l full empty")
    return f'<tr class="dense">{cells}{cell(speed, "speed-up")}{last}</tr>'


def _row(view: RunView, record: TrialRecord, name: str, who: str, kind: str) -> str:
    value = view.metric_of(record)
    verdict = view.verdict(record)
    tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
    ratios = [view.speedup(record, field) for field in view.latencies]
    speed = "<br>".join(f"{ratio:.2f}×" if ratio else text.NONE for ratio in ratios)
    gain = view.gain(record) if record not in view.uniform else None
    cells = _cells(
        name,
        who,
        (
            text.metric(name, value),
            text.change(name, view.change(value)),
            text.change(name, gain) if gain is not None else "",
        ),
        record.predicted,
        view.dense.predicted,
    )
    cells += _latencies(view, record.predicted, record.measured)
    return (
        f'<tr class="{kind}" id="trial-{record.number}">{cells}'
        f"{cell(speed, 'speed-up')}{cell(escape(verdict.text), '', f'l full verdict {tone}')}</tr>"
    )


def _cells(
    name: str,
    who: str,
    values: tuple[str, str, str],
    counts: Cost | None,
    dense: Cost | None,
) -> str:
    names = (f"val {name}", "to dense", "to uniform")
    parts = [cell(who, "", "l full")]
    parts += [
        cell(escape(value), label, "" if value else "empty")
        for value, label in zip(values, names, strict=True)
    ]
    labels = ("params", "MACs", "weights")
    for field, label in zip(_COUNTS, labels, strict=True):
        amount = getattr(counts, field, None)
        of = text.share(amount, getattr(dense, field, None)) if dense else ""
        parts.append(f'<td data-label="{label}" title="{of}">{text.cost(field, amount)}</td>')
    return "".join(parts)


def _latencies(view: RunView, predicted: Cost | None, measured: Cost | None) -> str:
    """Predicted, measured and its p95, in a line for each device; of several, their names first."""
    names = [split_field(field)[1] for field in view.latencies]
    parts = [cell("<br>".join(map(escape, names)), "device", "l")] if len(names) > 1 else []
    parts.append(cell(_ms(predicted, "latency_ms", names), "predicted ms", "predicted"))
    parts.append(cell(_ms(measured, "latency_ms", names), "measured ms", "measured"))
    parts.append(cell(_ms(measured, "latency_p95_ms", names), "measured p95"))
    return "".join(parts)


def _ms(cost: Cost | None, field: str, names: Sequence[str]) -> str:
    """A line for each device; beside a measured median, how well it is known."""
    lines = []
    for name in names:
        value = cost.value(field_at(field, name)) if cost else None
        line = text.NONE if value is None else text.three_digits(value)
        sure = text.sure(cost, name) if field == "latency_ms" else ""
        lines.append(line + (f" <small>{sure}</small>" if sure else ""))
    return "<br>".join(lines)


def _speeds(result: RetrainingSummary) -> list[str]:
    """The measured latency on each device, and how many times faster than dense that is."""
    found = []
    for name in result.devices:
        field = field_at("latency_ms", name)
        value = result.measured.value(field) if result.measured else None
        if value is not None:
            ratio, sure = (
                speedup(result.dense.measured, result.measured, field),
                text.sure(result.measured, name),
            )
            words = text.cost(field, value) + (f" ({ratio:.2f}×)" if ratio else "")
            words = escape(f"{name} {words}" if name else words)
            found.append(words + (f" <small>{sure}</small>" if sure else ""))
    return found


def _retrained_row(result: RetrainingSummary) -> str:
    test = "<br>".join(
        escape(f"{n} {text.spread(n, v.mean, v.std)}") for n, v in result.test.items()
    )
    dense = "<br>".join(escape(f"{n} {text.metric(n, v)}") for n, v in result.dense.test.items())
    changes = [
        text.change(n, found.mean - result.dense.test[n])
        for n, found in result.test.items()
        if n in result.dense.test
    ]
    return (
        "<tr>"
        + cell(f"trial {result.number}", "", "l full")
        + cell(f"{result.epochs:g}", "epochs")
        + cell(escape(", ".join(str(seed) for seed in result.seeds)), "seeds")
        + cell(test or text.NONE, "test, mean ± std")
        + cell(dense or text.NONE, "dense, test")
        + cell("<br>".join(changes) or text.NONE, "difference")
        + cell("<br>".join(_speeds(result)) or text.NONE, "measured")
        + "</tr>"
    )
