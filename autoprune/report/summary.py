"""The top of the page: title, result in words, health, models to start from, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.cost_fields import FILE, MEMORY, is_latency, split_field
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.commands import exports, retrain
from autoprune.report.data import RunView
from autoprune.report.health import Finding, findings
from autoprune.report.markup import escape
from autoprune.report.why import why
from autoprune.store import DenseReport


def head(view: RunView) -> str:
    """Title, the result in words, what is doubtful, the models to start from, and commands."""
    limits = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    kind = f"autoprune report · run <b>{escape(view.name)}</b>"
    parts = [f'<header><div class="kind">{kind}</div><h1>{escape(view.title)}</h1>']
    parts.append(f'<p class="lead">{_outcome(view, limits)}</p></header>')
    if view.not_measured:
        parts.append(
            f'<p class="warn">The front could not be measured: {escape(view.not_measured)}. It is '
            f"based on predicted latency; <code>{escape(f'autoprune resume {view.place}')}</code> "
            "measures it.</p>"
        )
    elif not view.finished:
        so_far = f"{len(view.records)} trials so far"
        parts.append(f'<p class="warn">This run is in progress: {so_far}.</p>')
    return "".join(parts) + health(findings(view)) + _tiles(view) + _commands(view)


def health(found: Sequence[Finding]) -> str:
    """What is doubtful, each with what to do."""
    if not found:
        return ""
    items = "".join(
        f'<li class="{finding.level}">{escape(finding.text)} '
        f'<span class="todo">{escape(finding.remedy)}</span></li>'
        for finding in found
    )
    title = "What to look at first" if len(found) > 1 else "Look at this first"
    return f'<section class="health" aria-label="health"><h2>{title}</h2><ul>{items}</ul></section>'


def _commands(view: RunView) -> str:
    """What to run next, to copy."""
    found = view.recommendation
    if found is None:
        return ""
    words = "Train another model in full, or write one for its runtime:"
    if not view.retrained:
        words = "Train the recommended model in full, then write it for its runtime:"
    return commands(view.folder or view.name, view.config, found.record, words, "--pick trial=N")


def commands(run: str, config: RunConfig, record: TrialRecord, words: str, *picks: str) -> str:
    """The commands for the recommended record after `words`; `picks` are further examples."""
    precision = record.candidate.architecture.precision
    lines = [retrain(run), *exports(run, config, precision)]
    code = escape("\n".join(lines))
    field = next((limit.field for limit in config.budget.limits), "latency_ms")
    *most, last = ("--pick knee", *picks, f'--pick "{field}<=N"')
    shown = ", ".join(f"<code>{escape(pick)}</code>" for pick in most)
    is_absolute = Path(run).is_absolute()
    from_where = "" if is_absolute else "; to be run where this report was written from"
    return (
        f'<div class="commands"><p>{words} <span class="dim">other models with '
        f"{shown} or <code>{escape(last)}</code>{from_where}</span>"
        f'</p><pre><code>{code}</code></pre><button type="button" class="copy">Copy</button></div>'
    )


def _outcome(view: RunView, limits: str) -> str:
    found = view.recommendation
    within = f" within {escape(limits)}" if limits else ""
    if found is None:
        reason = escape(view.without_model)
        return f"{reason[0].upper()}{reason[1:]}."
    count = len(view.members)
    name = view.metric.name if view.metric else ""
    chosen = found.record
    value = view.metric_of(chosen)
    against = [
        f"{text.change(name, difference)} to {what}"
        for what, difference in (
            ("dense", view.change(value)),
            (f"uniform pruning at equal {view.gain_source} cost", view.gain(chosen)),
        )
        if difference is not None
    ]
    beside = f" ({', '.join(against)})" if against else ""
    reduced, verdict = escape(view.reduced(chosen)), escape(view.verdict(chosen).text)
    gained = f"<b>{reduced}</b>; {verdict}" if reduced else f"<b>{verdict}</b>"
    return (
        f"{count} smaller model{'s' if count > 1 else ''}{within}. "
        f"Recommended is trial {chosen.number} with {escape(f'{name} {text.metric(name, value)}')}"
        f"{escape(beside)}: {gained}. "
        f'<span class="dim">Why: {escape(why(view))}.</span>'
    )


def _tiles(view: RunView) -> str:
    if not view.front or not view.members:
        return ""
    name = view.metric.name if view.metric else ""
    dense = view.dense
    tiles = [
        _tile(
            "dense",
            "Dense",
            text.metric(name, dense.metrics.get(name)),
            "",
            _cost_words(view, dense),
        )
    ]
    tiles += [_pick(view, *named) for named in _picks(view)]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _picks(view: RunView) -> Iterator[tuple[str, str, TrialRecord]]:
    """The models of the tiles, each once: its first kind, and all that it was picked as."""
    found = view.recommendation
    picks = [
        ("recommended", "Recommended", found.record if found else None),
        ("knee", "Knee", view.front.knee if view.front else None),
        ("fastest", lowest_cost_word(view), view.members[0]),
        ("best", "Best", view.front.best() if view.front else None),
    ]
    picks += [("level", text.limit(limit, value), best) for limit, value, best in view.levels]
    words: dict[int, list[str]] = {}
    first: dict[int, tuple[str, TrialRecord]] = {}
    for kind, word, record in picks:
        if record is not None:
            first.setdefault(record.number, (kind, record))
            words.setdefault(record.number, []).append(word)
    for number, (kind, record) in first.items():
        head, *more = words[number]
        rest = [word if word.startswith("MACs") else word[0].lower() + word[1:] for word in more]
        yield kind, ", ".join([head, *rest]), record


def _pick(view: RunView, kind: str, word: str, record: TrialRecord) -> str:
    """A model: its metric beside the dense one, its costs, and the verdict."""
    name = view.metric.name if view.metric else ""
    value = view.metric_of(record)
    verdict = view.verdict(record)
    tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
    more = f'{_cost_words(view, record)}<div class="{tone}">{escape(verdict.text)}</div>'
    title = f"{word} · trial {record.number}"
    return _tile(kind, title, text.metric(name, value), text.change(name, view.change(value)), more)


def lowest_cost_word(view: RunView) -> str:
    """What the first member is called: it has the lowest of the cost that was searched for."""
    if view.cost is None or not is_latency(view.cost.name):
        return "Smallest"
    device = split_field(view.cost.name)[1]
    return f"Fastest on {device}" if device else "Fastest"


def _tile(kind: str, who: str, value: str, change: str, more: str) -> str:
    small = f" <small>{escape(change)}</small>" if change and change != text.NONE else ""
    return (
        f'<div class="tile {kind}"><div class="who">{escape(who)}</div>'
        f'<div class="value">{escape(value)}{small}</div><div class="more">{more}</div></div>'
    )


def _cost_words(view: RunView, model: DenseReport | TrialRecord) -> str:
    measured, predicted = model.measured, model.predicted
    parts = []
    for field in view.latencies:
        device = split_field(field)[1]
        on = f" on {device}" if device else ""
        pairs = (("measured", measured), ("predicted", predicted))
        found = ((source, cost.value(field)) for source, cost in pairs if cost)
        known_by = [(source, value) for source, value in found if value is not None][:1]
        parts += [f"{text.cost(field, value)} {source}{on}" for source, value in known_by]
    known = predicted or measured
    if known and known.macs is not None:
        parts.append(f"{text.cost('macs', known.macs)} MACs")
    if known and known.weight_bytes is not None:
        parts.append(text.cost("weight_bytes", known.weight_bytes))
    for field, word in ((FILE, "file"), (MEMORY, "peak memory")):
        if (size := view.count(model, field)) is not None and field in view.counts:
            parts.append(f"{text.cost(field, size)} {word}")
    return " · ".join(f'<span class="one">{escape(part)}</span>' for part in parts)
