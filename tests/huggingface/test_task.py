"""`wrap_hf`: a model of transformers and a data set of dictionaries as a task."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import autoprune
from autoprune import QuantizationSettings, TaskError
from autoprune.quantization import twin_of

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

GOOD, BAD = ("good film", "a good one"), ("bad film", "a bad bad one")
ROWS = [
    *({"text": text, "label": 1, "idx": n} for n, text in enumerate(GOOD * 8)),
    *({"text": text, "label": 0, "idx": n} for n, text in enumerate(BAD * 8)),
]
DATA = {"train": ROWS, "validation": ROWS[8:24], "test": ROWS[:6]}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ("[PAD]", "[UNK]", "a", "bad", "film", "good", "one")
    made = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


@pytest.fixture(scope="module")
def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        vocab_size=7,
    )
    return transformers.BertForSequenceClassification(config).eval()


def test_texts_are_tokenized_and_padded(bert: Any, tokenizer: Any) -> None:
    task = autoprune.wrap_hf(bert, DATA, tokenizer, batch_size=4)
    batch = next(iter(task.val_loader()))
    assert set(batch) <= {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, 3)
    assert batch["labels"].tolist() == [row["label"] for row in DATA["validation"][:4]]
    assert task.example_input()["input_ids"].shape[0] == 1
    assert task.loss(bert, batch).requires_grad


def tokens(bert: Any, tokenizer: Any, row: dict[str, Any], **options: Any) -> list[int]:
    """What the model is given of one example, without the padding."""
    data = {"train": [row], "val": [row]}
    batch = next(iter(autoprune.wrap_hf(bert, data, tokenizer, **options).val_loader()))
    return batch["input_ids"][0].tolist()


FILM, ONE = [5, 4], [2, 6]  # "good film", "a one"


@pytest.mark.parametrize(
    ("row", "options", "wanted"),
    [
        ({"text": "good film"}, {}, FILM),
        ({"guid": "bad", "text": "good film"}, {}, FILM),  # an identifier before the text
        ({"promptID": "bad", "doc_id": "bad", "body": "good film"}, {}, FILM),
        ({"premise": "good film", "hypothesis": "a one"}, {}, FILM + ONE),
        ({"idx": "bad", "hypothesis": "a one", "premise": "good film"}, {}, FILM + ONE),
        ({"question": "good film", "sentence": "a one", "genre": "bad"}, {}, FILM + ONE),
        ({"title": "a one", "body": "good film"}, {"text_columns": "body"}, FILM),
        (
            {"title": "a one", "body": "good film"},
            {"text_columns": ("body", "title")},
            FILM + ONE,
        ),
        ({"id": "good film"}, {"text_columns": "id"}, FILM),
        ({"text": "bad", "input_ids": [2, 6]}, {}, ONE),
    ],
)
def test_the_text_is_the_only_one_a_usual_pair_or_named(
    bert: Any, tokenizer: Any, row: dict[str, Any], options: dict[str, Any], wanted: list[int]
) -> None:
    assert tokens(bert, tokenizer, {**row, "label": 1}, **options) == wanted


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        (
            {"title": "a", "body": "good"},
            {},
            "which of the columns title, body is the text cannot be told · say "
            "text_columns='title', or two for a pair: text_columns=('title', 'body')",
        ),
        (
            {"sentence1": "a", "sentence2": "a", "question": "a", "sentence": "a"},
            {},
            "which of the columns sentence1, sentence2, question, sentence is the text",
        ),
        (
            {"title": "a", "n": 3},
            {"text_columns": ("title", "n")},
            "one or two columns of strings, got title, n · strings: title",
        ),
        ({"title": "a"}, {"text_columns": ()}, "one or two columns of strings, got none"),
        ({"title": "a"}, {"text_columns": "a", "collate": list}, "exclude each other"),
    ],
)
def test_texts_that_cannot_be_told_are_refused(
    bert: Any, tokenizer: Any, row: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(TaskError, match=re.escape(says)):
        tokens(bert, tokenizer, {**row, "label": 1}, **options)


def test_an_example_without_the_text_is_named(bert: Any, tokenizer: Any) -> None:
    data = {"train": ROWS, "val": [{"text": None, "label": 0}]}
    with pytest.raises(TaskError, match="an example has no text 'text'"):
        autoprune.wrap_hf(bert, data, tokenizer)


def test_training_order_follows_the_seed(bert: Any, tokenizer: Any) -> None:
    task = autoprune.wrap_hf(bert, DATA, tokenizer, batch_size=32)

    def order(seed: int) -> list[int]:
        return next(iter(task.train_loader(seed)))["labels"].tolist()

    assert order(0) == order(0) != order(1)


def test_metrics_are_those_of_trainer(bert: Any, tokenizer: Any) -> None:
    given: list[Any] = []

    def metrics(p: Any) -> dict[str, float]:
        given.append(p)
        predictions, labels = p
        return {"f1": float((np.argmax(predictions, 1) == labels).mean())}

    task = autoprune.wrap_hf(bert, DATA, tokenizer, compute_metrics=metrics, metric="f1")
    found = task.evaluate(bert, "test")
    plain = autoprune.wrap_hf(bert, DATA, tokenizer).evaluate(bert, "test")
    assert found["f1"] == pytest.approx(plain["accuracy"])
    assert given[0].predictions.shape == (6, 2)
    assert given[0].label_ids.tolist() == [row["label"] for row in DATA["test"]]


def test_labels_of_tokens_are_padded_to_one_length(bert: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**bert.config.to_dict(), "num_labels": 3})
    model = transformers.BertForTokenClassification(config).eval()
    rows = [
        {"input_ids": [2] * n, "attention_mask": [1] * n, "labels": [n % 3] * n}
        for n in (3, 5, 2, 4)
    ]
    seen: list[Any] = []

    def metrics(p: Any) -> dict[str, float]:
        seen.append(p)
        mask = p.label_ids != -100
        return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids)[mask].mean())}

    task = autoprune.wrap_hf(
        model,
        {"train": rows, "val": rows},
        tokenizer,
        compute_metrics=metrics,
        batch_size=2,
    )
    assert 0.0 <= task.evaluate(model, "val")["accuracy"] <= 1.0
    assert seen[0].predictions.shape == (4, 5, 3)
    assert (seen[0].label_ids != -100).sum() == 14
    with pytest.raises(TaskError, match="no test split"):
        task.test_loader()


def test_images_are_stacked() -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=2,
    )
    model = transformers.ViTForImageClassification(config).eval()
    rows = [{"pixel_values": torch.rand(1, 8, 8), "labels": n % 2} for n in range(4)]
    task = autoprune.wrap_hf(model, {"train": rows, "validation": rows})
    assert task.example_input()["pixel_values"].shape == (1, 1, 8, 8)
    assert set(task.evaluate(model, "val")) == {"accuracy", "loss"}


def test_what_does_not_fit_is_said(bert: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="split 'validation', got train"):
        autoprune.wrap_hf(bert, {"train": ROWS}, tokenizer)
    with pytest.raises(TaskError, match="must be a mapping"):
        autoprune.wrap_hf(bert, ROWS, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="give the tokenizer"):
        autoprune.wrap_hf(bert, DATA)
    with pytest.raises(TaskError, match="must have one of labels"):
        autoprune.wrap_hf(bert, {"train": ROWS, "val": [{"text": "good"}]}, tokenizer)
    with pytest.raises(TaskError, match="takes none of the columns x, label"):
        autoprune.wrap_hf(bert, {name: [{"x": [1.0], "label": 0}] for name in ("train", "val")})


@pytest.mark.parametrize("method", ["percentile", "minmax"])
def test_int8_takes_padded_batches_of_any_length(bert: Any, tokenizer: Any, method: str) -> None:
    task = autoprune.wrap_hf(bert, DATA, tokenizer, batch_size=6)
    shapes = {tuple(batch["input_ids"].shape) for batch in task.val_loader()}
    assert len(shapes) > 1
    twin = twin_of(bert, task, QuantizationSettings(method, samples=32), threads=1)
    expected = task.evaluate(bert, "val")
    assert task.evaluate(twin.float32, "val") == pytest.approx(expected, abs=1e-5)
    assert task.evaluate(twin.int8, "val") == pytest.approx(expected, abs=0.01)


def test_it_is_searched_in_other_processes(bert: Any, tokenizer: Any, tmp_path: Any) -> None:
    task = autoprune.wrap_hf(bert, DATA, tokenizer, batch_size=8)
    result = autoprune.search(
        task,
        budget={"params": "95%"},
        space={"ratios": {"max": 0.5}, "schedule": {"kind": "one_shot"}},
        trials=1,
        epochs=0.25,
        rungs=0,
        concurrent=1,
        screen=0,
        baselines={"uniform": 0, "random": 0},
        calibration_samples=16,
        output=tmp_path / "run",
    )
    (record,) = [record for record in result.records if record.is_counted]
    assert record.state == "complete"
    saved = autoprune.save_hf(
        result.model(record),
        tmp_path / "saved",
        task.example_input(),
        run=result.path,
        pick=f"trial={record.number}",
    )
    card = (saved.path / "README.md").read_text()
    assert f"Trial {record.number} of the search run" in card
    assert f"| {100 * record.metrics['accuracy']:.2f} % |\n" in card
    assert "metrics:\n- accuracy\n" in card
    assert "| `bert.encoder.layer." in card
