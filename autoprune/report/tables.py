"""The page's tables of models: beside dense, retrained, and their settings.

On a phone their rows become cards, where each cell carries its column's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoprune.budget import Cost
from autoprune.cost_fields import FILE, MEMORY, field_at, split_field
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView, speedup
from autoprune.report.markup import cell, escape, heads, section
from autoprune.report.style import colors
from autoprune.report.terminal import device_line
from autoprune.store import DenseReport, RetrainingSummary

_TIMES = re.compile(r"^[\d.]+× ")
_HEADS = {
    **{"params": "params", "macs": "MACs", "weight_bytes": "weights"},
    **{FILE: "file", MEMORY: "peak memory"},
}


def models(view: RunView) -> str:
    """Dense, members and baselines in one table, predicted and measured apart."""
    name = view.metric.name if view.metric else "metric"
    shades = colors(len(view.members))
    rows = [_dense_row(view, name)]
    for record, shade in zip(view.members, shades, strict=True):
        mark = f'<span class="dot" style="background:{shade}"></span>'
        tags = _tags(view, record)
        tag = "".join(f'<span class="tag">{word}</span>' for word in tags)
        kind = f'<span class="tag base">{record.baseline}</span>' if record.baseline else ""
        kind += '<span class="tag base">int8</span>' if view.is_int8(record) else ""
        who = f"{mark}trial {record.number}{tag}{kind}"
        rows.append(_row(view, record, name, who, "chosen" if "recommended" in tags else ""))
    others = [record for record in view.baselines if record not in view.members]
    if others:
        rows.append(
            f'<tr class="head"><td colspan="{_width(view)}" class="full">'
            "Baselines with the same recovery: uniform pruning (one ratio for every group), random "
            "widths, from scratch (random weights), smaller dense models</td></tr>"
        )
        mark = '<span class="dot square"></span>'
        rows += [
            _row(view, record, name, f"{mark}{record.baseline}, {record.title}", "")
            for record in others
        ]
    predicted = " Predicted is the predictor's estimate." if view.has_predicted_latency else ""
    if view.limits_of_predictions:
        predicted += f" Candidates were trained where {' and '.join(view.limits_of_predictions)}."
    return section(
        "Models vs. dense",
        f'<div class="scroll"><table class="cards{" several" if len(view.latencies) > 1 else ""}">'
        f"<thead>{_model_head(view)}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">{escape(device_line(view))}. Latencies are medians in milliseconds for '
        "one forward pass; the speed-up is the ratio to the dense model, in turns of a few calls."
        f"{escape(_sureness(view))}{predicted} Measured is the trained model, after the "
        "search and one at a time."
        f"{_over_note(view)}{_predicted_only_note(view)}{_goal_notes(view)}{_uniform_note(view)}</p>",
    )


def retrained(view: RunView) -> str:
    """Retrained members: test metrics over seeds, never used for selection."""
    if not view.retrained:
        return ""
    columns = (
        "model",
        "epochs",
        "trained with",
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
        "selection. ± is the sample standard deviation over the seeds. Retrained models start from "
        "the dense model's weights and are trained for these epochs on top; the dense model is as "
        "it was before the search, so that a part of a gain may come from longer training."
        f"{_rates(view)}</p>",
    )


def _rates(view: RunView) -> str:
    """The learning rates that were tried before a retraining, each with its validation metric."""
    metric = view.metric
    parts = []
    for result in view.retrained:
        if result.found_rate is None or metric is None:
            continue
        tried = ", ".join(
            f"{trial.lr:.3g} for {trial.epochs:.3g} epochs: {_score(metric, trial.score)}"
            for trial in result.found_rate.tried
        )
        parts.append(
            f" Learning rates tried for trial {result.number}, with {metric.name} on validation: "
            f"{tried}; taken was {result.found_rate.lr:.3g}."
        )
    return escape("".join(parts))


def _score(metric: Objective, score: float | None) -> str:
    """A validation score, of which more is better, as the metric."""
    return "diverged" if score is None else text.metric(metric.name, -metric.sign * score)


def _tags(view: RunView, record: TrialRecord) -> list[str]:
    """What a member is picked as."""
    found, knee = view.recommendation, view.front.knee if view.front else None
    picks = {"recommended": found.record if found else None, "knee": knee}
    return [word for word, picked in picks.items() if picked and picked.number == record.number]


def _sureness(view: RunView) -> str:
    """How well the measured medians are known, and which of them are noisy: once for all."""
    costs = [view.dense.measured, *(r.measured for r in (*view.members, *view.baselines))]
    names = [split_field(field)[1] for field in view.latencies]
    known = [c.confidence_of(n) for c in costs if c for n in names]
    halves = sorted(sure.half_width for sure in known if sure is not None)
    if not halves:
        return ""
    found = f" Medians are known to ±{100 * halves[0]:.2g} %"
    if halves[-1] > halves[0]:
        found = f" Medians are known to ±{100 * halves[0]:.2g} to {100 * halves[-1]:.2g} %"
    found += " (95 % confidence)."
    noisy = sorted({note for cost in costs if cost and (note := text.noise(cost))}, key=len)
    if noisy:
        found += f" ~ marks noisy ones, for example: {noisy[-1].replace('noisy: ', '')}."
    return found


def _width(view: RunView) -> int:
    """How many columns the table of models has."""
    several = len(view.latencies) > 1
    return 7 + len(view.counts) + several + view.has_predicted_latency + _has_gain(view)


def _has_gain(view: RunView) -> bool:
    """Whether any model of the table lies between uniform ones, to be compared with them."""
    records = (*view.members, *view.baselines)
    return any(view.gain(r) is not None for r in records if r not in view.uniform)


def _value_names(view: RunView) -> tuple[str, ...]:
    """The columns of the metric."""
    name = view.metric.name if view.metric else "metric"
    return (f"val {name}", "to dense", *(("to uniform",) if _has_gain(view) else ()))


def _goal_notes(view: RunView) -> str:
    return "".join(f" {note}." for note in view.goal_notes)


def _uniform_note(view: RunView) -> str:
    if view.cost is None or not _has_gain(view):
        return ""
    cost = f"{view.gain_source} {text.label(view.cost.name)}"
    return f" To uniform: the difference to uniform pruning at equal {cost}, interpolated."


def _over_note(view: RunView) -> str:
    over = any(map(view.over_budget, (*view.members, *view.baselines)))
    return " Over: above a limit of the budget as measured." if over else ""


def _predicted_only_note(view: RunView) -> str:
    away = [split_field(field)[1] for field in view.latencies if view.is_predicted_only(field)]
    if not any(away):
        return ""
    is_are = "is another machine" if len(away) == 1 else "are other machines"
    return (
        f" {escape(', '.join(away))} {is_are} than the one of the search: latency predicted only."
    )


def _model_head(view: RunView) -> str:
    device = '<th class="l">device</th>' if len(view.latencies) > 1 else ""
    above = '<th class="span"></th>' if device else ""
    is_predicted = view.has_predicted_latency
    span = '<th class="span predicted">predicted</th>' if is_predicted else ""
    ms = '<th class="predicted">ms</th>' if is_predicted else ""
    groups = (
        f'<tr><th class="l span" colspan="{1 + len(_value_names(view))}"></th>'
        f'<th class="span" colspan="{len(view.counts)}"></th>'
        f'{above}{span}<th class="span measured" colspan="3">measured</th>'
        '<th class="span"></th></tr>'
    )
    counts = [_HEADS[field] for field in view.counts]
    plain = (*_value_names(view), *counts)
    return (
        f'{groups}<tr><th class="l">model</th>{heads(plain, left=False)}{device}'
        f'{ms}<th class="measured">ms</th><th>p95 ms</th>'
        '<th>speed-up</th><th class="l">verdict</th></tr>'
    )


def _dense_row(view: RunView, name: str) -> str:
    measured = view.dense.measured
    speed = "<br>".join(
        "1.00×" if measured and measured.value(field) else text.NONE for field in view.latencies
    )
    value = text.metric(name, view.dense.metrics.get(name))
    who = '<span class="dot diamond"></span>dense'
    cells = _cells(view, who, (value, "", ""), view.dense)
    cells += _latencies(view, view.dense.predicted, measured)
    last = cell("", "", "l full empty")
    return f'<tr class="dense">{cells}{cell(speed, "speed-up")}{last}</tr>'


def _row(view: RunView, record: TrialRecord, name: str, who: str, kind: str) -> str:
    value = view.metric_of(record)
    ratios = [view.speedup(record, field) for field in view.latencies]
    speed = "<br>".join(f"{ratio:.2f}×" if ratio else text.NONE for ratio in ratios)
    gain = view.gain(record) if record not in view.uniform else None
    cells = _cells(
        view,
        who,
        (
            text.metric(name, value),
            text.change(name, view.change(value)),
            text.change(name, gain) if gain is not None else "",
        ),
        record,
    )
    cells += _latencies(view, record.predicted, record.measured)
    return (
        f'<tr class="{kind}" id="trial-{record.number}">{cells}'
        f"{cell(speed, 'speed-up')}{_verdict(view, record)}</tr>"
    )


def _verdict(view: RunView, record: TrialRecord) -> str:
    """A line for each device, short enough not to wrap beside all other columns."""
    verdict, over = view.verdict(record), view.over_budget(record)
    words = verdict.text.replace(" than dense", "").split("; ")  # as the heading says
    words = [_TIMES.sub("", each) for each in words]  # which has a column
    if over:  # of a share of dense without the latency, which has a column
        words = [f"over: {over.rpartition(', ')[2].replace(' of dense', '')}"]
    tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
    lines = "<br>".join(map(escape, words))
    return f'<td class="l full verdict {tone}" title="{escape(verdict.text)}">{lines}</td>'


def _cells(
    view: RunView, who: str, values: tuple[str, str, str], model: TrialRecord | DenseReport
) -> str:
    """Who it is, its metric, and its counts, each of which says its share of dense."""
    names = _value_names(view)
    parts = [cell(who, "", "l full")]
    parts += [
        cell(escape(value), label, "" if value else "empty")
        for value, label in zip(values[: len(names)], names, strict=True)
    ]
    for field in view.counts:
        amount, whole = view.count(model, field), view.count(view.dense, field)
        of = text.share(amount, whole) if model is not view.dense else ""
        label = _HEADS[field]
        parts.append(f'<td data-label="{label}" title="{of}">{text.cost(field, amount)}</td>')
    return "".join(parts)


def _latencies(view: RunView, predicted: Cost | None, measured: Cost | None) -> str:
    """Predicted, measured and its p95, in a line for each device; of several, their names first."""
    names = [split_field(field)[1] for field in view.latencies]
    parts = [cell("<br>".join(map(escape, names)), "device", "l")] if len(names) > 1 else []
    if view.has_predicted_latency:
        parts.append(cell(_ms(predicted, "latency_ms", names), "predicted ms", "predicted"))
    parts.append(cell(_ms(measured, "latency_ms", names), "measured ms", "measured"))
    parts.append(cell(_ms(measured, "latency_p95_ms", names), "measured p95"))
    return "".join(parts)


def _ms(cost: Cost | None, field: str, names: Sequence[str]) -> str:
    """A line for each device; a noisy median has a mark."""
    lines = []
    for name in names:
        value = cost.value(field_at(field, name)) if cost else None
        noisy = cost is not None and field == "latency_ms" and bool(cost.note(name))
        number = text.NONE if value is None else text.three_digits(value)
        lines.append(f"~{number}" if noisy else number)
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
        + cell(text.seeds(result.seeds), "trained with")
        + cell(test or text.NONE, "test, mean ± std")
        + cell(dense or text.NONE, "dense, test")
        + cell("<br>".join(changes) or text.NONE, "difference")
        + cell("<br>".join(_speeds(result)) or text.NONE, "measured")
        + "</tr>"
    )
