"""A task from a model of transformers and a data set of dictionaries, in one call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from autoprune.errors import TaskError
from autoprune.graph.replica import plain
from autoprune.tasks.base import Task
from autoprune.tasks.batch_forms import LABELS, logits_of
from autoprune.tasks.wrap import wrap

_SPLITS = {"train": ("train",), "val": ("validation", "val", "dev"), "test": ("test",)}
_LABEL_NAMES = ("labels", "label", "label_ids")
# of the usual data sets of pairs: MRPC, RTE, STS-B, PAWS; MNLI, SNLI, ANLI; QQP; QNLI; BoolQ
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
)
_IDENTIFIER = re.compile(r"^(?i:id|idx|index|g?uid|uuid)$|_(?i:id)$|[a-z]I[Dd]$")
_IGNORED = -100  # a label that counts for no metric

Example = Mapping[str, Any]


class Predictions(NamedTuple):
    """What `compute_metrics` is given: logits and labels of a whole split, as arrays.

    Sequences of several lengths are padded with -100.
    """

    predictions: NDArray[Any]
    label_ids: NDArray[Any]


def wrap_hf(
    model: nn.Module,
    dataset: Mapping[str, Sequence[Any]],
    tokenizer: Any = None,
    *,
    collate: Callable[[list[Any]], Mapping[str, Any]] | None = None,
    compute_metrics: Callable[[Any], Mapping[str, float]] | None = None,
    metric: str = "accuracy",
    direction: Literal["maximize", "minimize"] = "maximize",
    batch_size: int = 32,
    example_input: Any = None,
    ignored_layers: tuple[str, ...] = (),
    num_heads: Mapping[str, int] | None = None,
    text_columns: str | Sequence[str] | None = None,
) -> Task:
    """A task of a trained transformers model, as `Trainer` would be given it.

    Args:
        model: the trained model; it is copied and never changed.
        dataset: `train`, `validation` and perhaps `test`: sequences of mappings, such as a
            `datasets.DatasetDict`, with the target under `label` or `labels`. Columns that the
            model's `forward` does not take are left out.
        tokenizer: pads; and tokenizes the texts of a data set without `input_ids`, cut to what the
            model takes.
        collate: makes a batch of a list of examples, instead of padding or stacking.
        compute_metrics: as `Trainer`'s: a function of `(predictions, label_ids)` that returns a
            mapping with `metric`. By default accuracy.
        metric: the name of the metric that the search optimizes.
        direction: "maximize" or "minimize" that metric.
        batch_size: of training and evaluation.
        example_input: keyword arguments of one input, whose latency is measured; by default the
            first validation example at its own length.
        ignored_layers: module paths whose outputs are not pruned.
        num_heads: attention module path -> number of heads, where it cannot be seen.
        text_columns: the column that is tokenized, or two that are a pair. By default the only
            column of strings that is no identifier (`id`, `guid`, `pairID`), or a usual pair:
            `sentence1` and `sentence2`, `premise` and `hypothesis`, `question1` and `question2`,
            `question` and `sentence`, `question` and `passage`.

    Raises TaskError where a split is missing or an argument does not fit.
    """
    train, val, test = (_split(dataset, name) for name in _SPLITS)
    if collate is None:
        collate = _Collate(_columns(model), tokenizer, _text_columns(train[0], text_columns))
    elif text_columns is not None:
        raise TaskError("wrap_hf: text_columns and collate exclude each other")

    def loader(rows: Sequence[Any]) -> DataLoader[Any]:
        return DataLoader(rows, batch_size, collate_fn=collate)  # type: ignore[arg-type]

    return wrap(
        model,
        _Shuffled(train, batch_size, collate),
        loader(val),
        test_loader=loader(test) if test is not None else None,
        evaluate=_Evaluate(compute_metrics) if compute_metrics else None,
        metric=metric,
        direction=direction,
        example_input=example_input,
        ignored_layers=ignored_layers,
        num_heads=num_heads,
    )


def _split(dataset: Mapping[str, Sequence[Any]], split: str) -> Any:
    if not isinstance(dataset, Mapping):
        raise TaskError(
            "wrap_hf: dataset must be a mapping with train and validation, such as a DatasetDict, "
            f"got {type(dataset).__name__}"
        )
    for name in _SPLITS[split]:
        if name in dataset:
            if not len(dataset[name]):
                raise TaskError(f"wrap_hf: dataset[{name!r}] must hold at least one example, got 0")
            return dataset[name]
    if split == "test":
        return None
    raise TaskError(
        f"wrap_hf: dataset must have a split {_SPLITS[split][0]!r}, got {', '.join(dataset)}"
    )


def _columns(model: nn.Module) -> frozenset[str] | None:
    """The arguments of the model's forward; None where it takes any."""
    parameters = inspect.signature(plain(model).forward).parameters
    if any(it.kind is it.VAR_KEYWORD for it in parameters.values()) and len(parameters) == 1:
        return None
    return frozenset(parameters)


def _text_columns(example: Example, named: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns to tokenize, one or two; none of an example without texts, or with `input_ids`.

    Raises TaskError where they are not named and cannot be told, or are named and not there.
    """
    if named is not None:
        found = (named,) if isinstance(named, str) else tuple(named)
        lacking = [name for name in found if not isinstance(example.get(name), str)]
        if lacking or len(found) not in (1, 2):
            raise TaskError(
                f"wrap_hf: text_columns must be one or two columns of strings, got "
                f"{', '.join(found) or 'none'} · strings: {', '.join(_strings(example)) or 'none'}"
            )
        return found
    if "input_ids" in example:
        return ()
    texts = [name for name in _strings(example) if not _IDENTIFIER.search(name)]
    if len(texts) < 2:
        return tuple(texts)
    pairs = [pair for pair in _PAIRS if set(pair) <= set(texts)]
    if len(pairs) != 1:
        raise TaskError(
            f"wrap_hf: which of the columns {', '.join(texts)} is the text cannot be told · say "
            f"text_columns={texts[0]!r}, or two for a pair: text_columns=({texts[0]!r}, "
            f"{texts[1]!r})"
        )
    return pairs[0]


def _strings(example: Example) -> list[str]:
    return [n for n, value in example.items() if isinstance(value, str) and n not in _LABEL_NAMES]


class _Collate:
    """A batch of keyword arguments and labels from a list of examples.

    `texts` are the columns that are tokenized.
    """

    def __init__(
        self, columns: frozenset[str] | None, tokenizer: Any, texts: tuple[str, ...]
    ) -> None:
        self._columns, self._tokenizer, self._texts = columns, tokenizer, texts

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        labels = [_label(example) for example in examples]
        rows = [self._inputs(example) for example in examples]
        if self._tokenizer is not None and "input_ids" in rows[0]:
            batch = dict(self._tokenizer.pad(rows, return_tensors="pt"))
        else:
            batch = _batched([{n: _array(v) for n, v in row.items()} for row in rows])
        return {**batch, LABELS: _stacked(labels)}

    def _inputs(self, example: Example) -> dict[str, Any]:
        found = {name: value for name, value in example.items() if name not in _LABEL_NAMES}
        if self._texts:
            if self._tokenizer is None:
                raise TaskError(
                    "wrap_hf: the data set holds texts · give the tokenizer, or map it over the set"
                )
            lacking = [name for name in self._texts if not isinstance(found.get(name), str)]
            if lacking:
                raise TaskError(f"wrap_hf: an example has no text {lacking[0]!r}")
            found |= self._tokenizer(*(found[name] for name in self._texts), truncation=True)
        allowed = self._columns
        taken = {
            name: value
            for name, value in found.items()
            if not isinstance(value, str) and (allowed is None or name in allowed)
        }
        if not taken:
            raise TaskError(
                f"wrap_hf: the model takes none of the columns {', '.join(example)} · rename them "
                "to the arguments of its forward, or give collate="
            )
        return taken


def _batched(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of tensors on another; TaskError for a column whose sizes differ."""
    for name in rows[0]:
        sizes = dict.fromkeys(np.shape(row[name]) for row in rows if name in row)
        if len(sizes) > 1:
            found = ", ".join("x".join(map(str, size)) or "a number" for size in sizes)
            raise TaskError(
                f"wrap_hf: the examples of a batch have several sizes of {name!r} ({found}), and "
                "nothing pads them · give tokenizer=, or collate= with a padding of its own"
            )
    return dict(default_collate(rows))


def _label(example: Example) -> Any:
    for name in _LABEL_NAMES:
        if name in example:
            return example[name]
    raise TaskError(
        f"wrap_hf: an example must have one of {', '.join(_LABEL_NAMES)}, got {', '.join(example)}"
    )


def _array(value: Any) -> Any:
    return torch.as_tensor(np.asarray(value)) if isinstance(value, (list, tuple)) else value


def _stacked(labels: list[Any]) -> Tensor:
    """Labels as one tensor; lists of several lengths are padded with -100."""
    found = [torch.as_tensor(np.asarray(label)) for label in labels]
    if found[0].dim() == 0:
        return torch.stack(found)
    return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=_IGNORED)


class _Shuffled:
    """A function of a seed that gives the training batches in an order of that seed."""

    def __init__(self, rows: Sequence[Any], batch_size: int, collate: Callable[..., Any]) -> None:
        self._rows, self._batch_size, self._collate = rows, batch_size, collate

    def __call__(self, seed: int) -> Iterable[Any]:
        return DataLoader(
            self._rows,  # type: ignore[arg-type]
            self._batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=self._collate,
        )


class _Evaluate:
    """The user's metrics of all logits and labels of a split."""

    def __init__(self, compute_metrics: Callable[[Any], Mapping[str, float]]) -> None:
        self._compute = compute_metrics

    def __call__(self, model: nn.Module, loader: Iterable[Any]) -> Mapping[str, float]:
        logits, labels = zip(*_outputs(model, loader), strict=True)
        return dict(self._compute(Predictions(_joined(logits), _joined(labels))))


def _outputs(
    model: nn.Module, loader: Iterable[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for batch in loader:
        inputs = {name: value for name, value in batch.items() if name != LABELS}
        found = logits_of(model(**inputs))
        if not isinstance(found, Tensor):
            raise TaskError(
                f"wrap_hf: the model must answer with logits, got {type(found).__name__} · write "
                "a Task with an own evaluate"
            )
        yield found.float().cpu().numpy(), batch[LABELS].cpu().numpy()


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays end to end; a second dimension of several sizes is padded with -100."""
    if parts[0].ndim < 2 or len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)

    def padded(part: NDArray[Any]) -> NDArray[Any]:
        widths = [(0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
        return np.pad(part, widths, constant_values=_IGNORED)

    return np.concatenate([padded(part) for part in parts])
