"""Models that look for padding among the words where no attention mask is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoprune import prune_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Deberta": WIDTHS,
    "DebertaV2": WIDTHS,
    "ConvBert": WIDTHS,
    "BigBird": {**WIDTHS, "attention_type": "original_full"},
    "RoFormer": WIDTHS,
    "LayoutLM": WIDTHS,
    "GPT2": {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "pad_token_id": 0},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_classifier_is_pruned_without_an_attention_mask(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name])
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    words = {"input_ids": torch.randint(3, 50, (2, 7))}
    small = prune_model(model, words, 0.5)
    assert small(**words).logits.shape == model(**words).logits.shape
    counts = [sum(p.numel() for p in net.parameters()) for net in (small, model)]
    assert counts[0] < 0.8 * counts[1]
