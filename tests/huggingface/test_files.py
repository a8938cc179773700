from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import Config, Net
from torch import nn

import autoprune
from autoprune import UsageError
from autoprune.architecture import Architecture
from autoprune.graph.blocks import Slot
from autoprune.graph.outputs import answers_in
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.pruning.depth import Removed
from autoprune.pruning.verification import prunable

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "vocab_size": 50,
}


def words(**more: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 50, (2, 7))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def pixels() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**WIDTHS)).eval()


def llama() -> Any:
    config = transformers.LlamaConfig(**WIDTHS, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()


def phi3() -> Any:
    config = transformers.Phi3Config(**WIDTHS, num_key_value_heads=2, pad_token_id=0)
    return transformers.Phi3ForCausalLM(config).eval()


def vit() -> Any:
    held = {k: v for k, v in WIDTHS.items() if k not in ("vocab_size", "max_position_embeddings")}
    config = transformers.ViTConfig(**held, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config).eval()


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config).eval()


def bart() -> Any:
    config = transformers.BartConfig(
        vocab_size=50,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=40,
        max_position_embeddings=32,
    )
    return transformers.BartForConditionalGeneration(config).eval()


def t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=50, **sizes, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


def both() -> dict[str, torch.Tensor]:
    return words(decoder_input_ids=torch.randint(3, 50, (2, 5), generator=torch.Generator()))


def same(one: nn.Module, other: nn.Module, inputs: dict[str, torch.Tensor]) -> bool:
    with torch.no_grad():
        pairs = zip(answers_in(one(**inputs)), answers_in(other(**inputs)), strict=True)
        return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def without(model: nn.Module, inputs: Any, dropped: list[str], ratio: float = 0.0) -> nn.Module:
    """The model without some blocks, and with less of every group."""
    graph = prunable(model, inputs)
    widths = {
        n: s - int(ratio * s) for n, s in graph.sizes().items() if n not in graph.lost(dropped)
    }
    scores = importance.scores(model, graph, "l2")
    return build(model, graph, Architecture(widths, dropped), scores=scores).model.eval()


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(bert, words), (llama, words), (phi3, words), (vit, pixels), (gpt2, words), (bart, both)],
    ids=["bert", "llama", "phi3", "vit", "gpt2", "bart"],
)
def test_a_pruned_model_comes_back_from_pretrained(make: Any, inputs: Any, tmp_path: Path) -> None:
    model, x = make(), inputs()
    small = autoprune.prune_model(model, x, 0.5)
    small.save_pretrained(tmp_path / "plain")
    assert same(type(model).from_pretrained(tmp_path / "plain").eval(), small, x)
    saved = autoprune.save_hf(small, tmp_path / "saved", x)
    assert saved.has_config
    assert same(autoprune.load_hf(saved.path), small, x)
    card = (saved.path / "README.md").read_text()
    dense, pruned = (sum(p.numel() for p in net.parameters()) for net in (model, small))
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| parameters | {dense:,} | {pruned:,} |" in card
    assert f"from transformers import {type(model).__name__}\n" in card


def test_layers_that_are_gone_leave_the_list_and_the_count(tmp_path: Path) -> None:
    model, x = llama(), words()
    gone = [b.name for b in prunable(model, x).blocks if ".layers.1." in b.name]
    assert len(gone) == 2
    small = without(model, x, gone, 0.5)
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert saved.has_config
    again = transformers.LlamaForCausalLM.from_pretrained(saved.path).eval()
    assert len(again.model.layers) == again.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in again.model.layers] == [0, 1]
    assert same(again, small, x)


def test_an_encoder_may_have_fewer_layers_than_its_decoder(tmp_path: Path) -> None:
    model, x = t5(), both()
    gone = [b.name for b in prunable(model, x).blocks if b.name.startswith("encoder.block.1.")]
    assert len(gone) == 2
    small = without(model, x, gone)
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert saved.has_config
    again = transformers.T5ForConditionalGeneration.from_pretrained(saved.path).eval()
    assert len(again.encoder.block) == again.config.num_layers == 1
    assert len(again.decoder.block) == again.config.num_decoder_layers == 2
    assert same(again, small, x)


class Counting(Net):
    """Its code relies on the number of layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place in range(4):
            x = self.layers[place](x)
        return x


def test_a_model_that_needs_its_empty_layers_keeps_them(tmp_path: Path) -> None:
    model, x = Counting(Config()).eval(), torch.randn(3, 4)
    model.layers[1].body = Removed(model.layers[1].body, Slot())
    saved = autoprune.save_hf(model, tmp_path / "model", x)
    assert not saved.has_config
    again = autoprune.load_hf(saved.path, model_class=Counting)
    assert len(again.layers) == 4
    assert torch.equal(again(x), model(x))


def test_an_encoder_without_layers_is_saved_too(tmp_path: Path) -> None:
    model, x = t5(), both()
    gone = [b.name for b in prunable(model, x).blocks if b.name.startswith("encoder.")]
    small = without(model, x, gone)
    assert same(autoprune.load_hf(autoprune.save_hf(small, tmp_path / "model", x).path), small, x)


def test_a_decoder_without_its_first_attention_still_generates(tmp_path: Path) -> None:
    model, x = llama(), words()
    gone = [b.name for b in prunable(model, x).blocks if b.name.endswith("layers.0.self_attn")]
    assert len(gone) == 1
    small = without(model, x, gone)
    wanted = small.generate(**x, max_new_tokens=6, do_sample=False, use_cache=False)
    assert small.generate(**x, max_new_tokens=6, do_sample=False).tolist() == wanted.tolist()
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert not saved.has_config
    again = autoprune.load_hf(saved.path)
    assert again.generate(**x, max_new_tokens=6, do_sample=False).tolist() == wanted.tolist()


@pytest.mark.parametrize(("make", "inputs"), [(bert, words), (t5, both)], ids=["bert", "t5"])
def test_what_no_configuration_gives_is_a_recipe_that_from_pretrained_refuses(
    make: Any, inputs: Any, tmp_path: Path
) -> None:
    model, x = make(), inputs()
    graph = prunable(model, x)
    ratios = {group.name: 0.5 if n % 2 else 0.25 for n, group in enumerate(graph.groups)}
    small = autoprune.prune_model(model, x, ratios)
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert not saved.has_config
    assert "autoprune.load_hf(folder)" in (saved.path / "README.md").read_text()
    again = autoprune.load_hf(saved.path)
    assert same(again, small, x)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in small.parameters())
    for load in (type(model), transformers.AutoModel):
        with pytest.raises((OSError, ValueError, KeyError), match="autoprune"):
            load.from_pretrained(saved.path)


def test_dropped_parts_of_layers_come_back_with_the_recipe(tmp_path: Path) -> None:
    model, x = bert(), words()
    names = [block.name for block in prunable(model, x).blocks]
    small = without(model, x, [names[0], names[3]], 0.5)
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert not saved.has_config
    again = autoprune.load_hf(saved.path)
    assert same(again, small, x)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in small.named_parameters()
    }
    assert same(autoprune.load_hf(autoprune.save_hf(again, tmp_path / "2", x).path), small, x)


def modernbert() -> Any:
    config = transformers.ModernBertConfig(**WIDTHS, pad_token_id=0, attn_implementation="sdpa")
    return transformers.ModernBertForSequenceClassification(config).eval()


def test_a_model_of_which_no_layer_is_left_has_a_recipe(tmp_path: Path) -> None:
    model, x = modernbert(), words()  # its class cannot draw weights for no layer
    small = without(model, x, [block.name for block in prunable(model, x).blocks])
    saved = autoprune.save_hf(small, tmp_path / "model", x)
    assert not saved.has_config
    assert same(autoprune.load_hf(saved.path), small, x)
    card = (saved.path / "README.md").read_text()
    assert "No configuration of its class gives its sizes" in card
    with pytest.raises((OSError, ValueError, KeyError), match="no configuration of its class"):
        type(model).from_pretrained(saved.path)


def test_a_saved_model_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    model, x = bert(), words()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    saved = autoprune.save_hf(model, tmp_path / "model", x)
    assert saved.has_config
    assert "old" not in {file.name for file in saved.path.iterdir()}
    assert json.loads((saved.path / "config.json").read_text())["hidden_size"] == 32
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a Linear"):
        autoprune.save_hf(nn.Linear(2, 2), tmp_path / "model", torch.zeros(1, 2))
