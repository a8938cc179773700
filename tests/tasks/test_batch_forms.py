"""Batches that are mappings, as Hugging Face's collators make them, without overriding a method."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import TaskError
from autoprune.graph import trace
from autoprune.pruning.calibration import calibrate
from autoprune.tasks import Task
from autoprune.tasks.wrap import wrap
from autoprune.training import RecoveryRun
from autoprune.training.batches import sample


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    hidden: Tensor | None = None


class Tagger(nn.Module):
    """Which of two words is more frequent? Its own loss is twice the cross-entropy."""

    def __init__(self, with_labels: bool = True) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(2, 8), nn.Linear(8, 16)
        self.head = nn.Linear(16, 2)
        if not with_labels:
            self.forward = self.predict

    def predict(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        embedded = self.embedding(input_ids) * attention_mask[..., None]
        hidden = F.relu(self.hidden(embedded.sum(1)))
        return Output(self.head(hidden))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> Output:
        output = self.predict(input_ids, attention_mask)
        if labels is not None:
            output.loss = 2.0 * F.cross_entropy(output.logits, labels)
        return output


class Words(Task):
    kind: type = dict

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return Tagger()

    def train_loader(self, seed: int) -> list[dict[str, Tensor]]:
        return batches(6, seed, self.kind)

    def val_loader(self) -> list[dict[str, Tensor]]:
        return batches(3, 100, self.kind)

    def test_loader(self) -> list[dict[str, Tensor]]:
        return batches(3, 200, self.kind)


class Encoding(UserDict):
    """Like transformers' BatchEncoding: a mapping that is no dictionary."""


class Encoded(Words):
    kind = Encoding


def batches(count: int, seed: int, kind: type = dict) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 2, (count, 16, 7), generator=generator)
    return [
        kind(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            labels=(ids.sum(1) > 3).long(),
        )
        for ids in words
    ]


def test_the_models_own_loss_is_the_loss() -> None:
    task = Words()
    model, batch = task.build_model(), task.train_loader(0)[0]
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    expected = 2.0 * F.cross_entropy(logits, batch["labels"])
    assert torch.equal(task.loss(model, batch), expected)
    assert task.outputs(model, batch).loss is None


def test_a_model_without_labels_has_the_cross_entropy_of_its_logits() -> None:
    task, batch = Words(), batches(1, 0)[0]
    model = Tagger(with_labels=False)
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    assert torch.equal(task.loss(model, batch), F.cross_entropy(logits, batch["labels"]))


def test_evaluation_and_example_do_without_overrides() -> None:
    task = Words()
    model = task.build_model()
    scores = task.evaluate(model, "val")
    whole = {k: torch.cat([b[k] for b in task.val_loader()]) for k in task.val_loader()[0]}
    logits = model(whole["input_ids"], whole["attention_mask"]).logits
    right = (logits.argmax(1) == whole["labels"]).float().mean().item()
    assert scores["accuracy"] == pytest.approx(right)
    assert scores["loss"] == pytest.approx(F.cross_entropy(logits, whole["labels"]).item())
    example = task.example_input()
    assert {name: value.shape for name, value in example.items()} == {
        "input_ids": (1, 7),
        "attention_mask": (1, 7),
    }


def test_distillation_compares_logits_and_not_losses() -> None:
    task = Words()
    logits = torch.tensor([[1.0, -1.0]])
    one = Output(logits, torch.tensor(0.0), hidden=torch.zeros(1, 4))
    other = Output(logits, torch.tensor(9.0), hidden=torch.ones(1, 4))
    assert task.distillation_loss(one, other).item() == pytest.approx(0.0, abs=1e-7)
    assert task.distillation_loss(one, Output(-logits)).item() > 0.1


@pytest.mark.parametrize("task", [Words(), Encoded()], ids=["dict", "other mapping"])
def test_a_model_of_mappings_is_calibrated_pruned_and_trained(task: Words) -> None:
    model = task.build_model().eval()
    graph = trace(model, task.example_input())
    found = sample(task, 0, samples=32)
    calibration = calibrate(model, found, max_samples=20, forward=task.loss)
    candidate = Candidate(
        Architecture({name: size // 2 for name, size in graph.sizes().items()}),
        Selection("obs"),
        recovery=Recovery(lr=0.05, distillation=0.3),
    )
    run = RecoveryRun(task, model, graph, candidate, epochs=4, seed=0, calibration=calibration)
    start = run.evaluate("val")["loss"]
    assert run.advance(4)["loss"] < start
    assert run.model.hidden.out_features == 8


def test_a_wrapped_model_may_have_mappings_and_an_own_loss() -> None:
    data = batches(3, 0)
    model = Tagger()
    assert wrap(model, data, data).evaluate(model, "val").keys() == {"accuracy", "loss"}
    task = wrap(model, data, data, lambda output, labels: output.logits.sum() * 0 + labels.sum())
    assert task.loss(model, data[0]).item() == data[0]["labels"].sum().item()


def test_a_mapping_without_labels_needs_a_loss() -> None:
    batch = {name: value for name, value in batches(1, 0)[0].items() if name != "labels"}
    with pytest.raises(TaskError, match=r"the default loss needs logits and targets, got .* None"):
        Words().loss(Tagger(), batch)


def test_a_bert_of_transformers_is_pruned_and_trained() -> None:
    transformers = pytest.importorskip("transformers")

    class Bert(Words):
        def build_model(self) -> nn.Module:
            config = transformers.BertConfig(
                vocab_size=2,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=16,
            )
            torch.manual_seed(0)
            return transformers.BertForSequenceClassification(config)

    task = Bert()
    model = task.build_model().eval()
    graph = trace(model, task.example_input())
    sizes = {name: size for name, size in graph.sizes().items() if "intermediate" in name}
    assert list(sizes.values()) == [32]
    candidate = Candidate(Architecture(dict.fromkeys(sizes, 16)), recovery=Recovery(lr=0.01))
    run = RecoveryRun(task, model, graph, candidate, epochs=4, seed=0)
    entry = run.advance(4)
    assert run.optimizer == "AdamW"
    assert run.model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    assert entry["accuracy"] > 0.6
