"""Models of Hugging Face's transformers: small, from random configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scripts.benchmarks.zoo.entry import Entry, Inputs

WORDS = 99
_ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_GROUPED = {**_ENCODER, "num_attention_heads": 8, "num_key_value_heads": 4}
_EXPERTS = {"num_experts_per_tok": 2, "router_jitter_noise": 0.0}
_SEQ2SEQ = {
    "vocab_size": WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_SPEECH = {
    **_ENCODER,
    "conv_dim": (32, 32, 48),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
_GPT2 = {"vocab_size": WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_T5 = {
    "vocab_size": WORDS,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_SWIN = {"image_size": 64, "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 4]}
_SWIN_WINDOWS = {**_SWIN, "window_size": 4}
_HIDDEN = {"hidden_sizes": [32, 48, 64, 96]}


def _text(*, decoder: bool = False, length: int = 12) -> Callable[[], Inputs]:
    def draw() -> Inputs:
        words = torch.randint(3, WORDS, (2, length))
        found = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        if decoder:
            found["decoder_input_ids"] = torch.randint(3, WORDS, (2, 8))
        return found

    return draw


def _pixels(size: int = 32, **more: Callable[[], torch.Tensor]) -> Callable[[], Inputs]:
    def draw() -> Inputs:
        given = {"pixel_values": torch.randn(2, 3, size, size)}
        return {**given, **{name: made() for name, made in more.items()}}

    return draw


def _both() -> Inputs:
    words = torch.randint(3, WORDS, (2, 8))
    return {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "pixel_values": torch.randn(2, 3, 32, 32),
    }


def _sound() -> Inputs:
    return {"input_values": torch.randn(2, 800)}


def _spectrogram() -> Inputs:
    return {
        "input_features": torch.randn(2, 16, 64),
        "decoder_input_ids": torch.randint(3, WORDS, (2, 8)),
    }


def _build(model: str, config: str, options: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        made = getattr(transformers, config)(**options)
        return getattr(transformers, model)(made)

    return build


def _entry(model: str, draw: Callable[[], Inputs], **options: Any) -> tuple[str, Entry]:
    config = options.pop("config", None) or model.split("For")[0].removesuffix("Model") + "Config"
    name = options.pop("name", model)
    return name, Entry(_build(model, config, options), draw)


_PAD = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

MODELS: dict[str, Entry] = dict(
    [
        # encoders
        _entry("BertForSequenceClassification", _text(), **_ENCODER),
        _entry(
            "DistilBertForSequenceClassification",
            _text(),
            vocab_size=WORDS,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=96,
            max_position_embeddings=64,
        ),
        _entry("RobertaForMaskedLM", _text(), **_ENCODER, **_PAD),
        _entry("AlbertForSequenceClassification", _text(), **_ENCODER, embedding_size=32),
        _entry("ElectraForSequenceClassification", _text(), **_ENCODER, embedding_size=32),
        _entry("DebertaForSequenceClassification", _text(), **_ENCODER),
        _entry(
            "DebertaV2ForSequenceClassification",
            _text(),
            **_ENCODER,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
        ),
        _entry("MPNetForSequenceClassification", _text(), **_ENCODER),
        _entry(
            "MobileBertForSequenceClassification",
            _text(),
            **{**_ENCODER, "intermediate_size": 64},
            embedding_size=32,
            intra_bottleneck_size=32,
            num_feedforward_networks=2,
        ),
        _entry("SqueezeBertForSequenceClassification", _text(), **_ENCODER, embedding_size=64),
        _entry("ModernBertForSequenceClassification", _text(), **_ENCODER, **_PAD),
        _entry("XLMRobertaForSequenceClassification", _text(), **_ENCODER, **_PAD),
        _entry("EsmForSequenceClassification", _text(), **_ENCODER, **_PAD),
        _entry("ConvBertForSequenceClassification", _text(), **_ENCODER, embedding_size=64),
        _entry(
            "NystromformerForSequenceClassification",
            _text(length=64),
            **_ENCODER,
            segment_means_seq_len=64,
            num_landmarks=8,
        ),
        # decoders
        _entry("GPT2LMHeadModel", _text(), config="GPT2Config", **_GPT2),
        _entry(
            "GPTNeoForCausalLM",
            _text(),
            vocab_size=WORDS,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            intermediate_size=96,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]],
        ),
        _entry("GPTNeoXForCausalLM", _text(), **_ENCODER),
        _entry("GPTJForCausalLM", _text(), **_GPT2, rotary_dim=8),
        _entry(
            "OPTForCausalLM",
            _text(),
            vocab_size=WORDS,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=96,
            max_position_embeddings=64,
            word_embed_proj_dim=64,
        ),
        _entry("BloomForCausalLM", _text(), vocab_size=WORDS, hidden_size=64, n_layer=2, n_head=4),
        _entry("LlamaForCausalLM", _text(), **_GROUPED),
        _entry("MistralForCausalLM", _text(), **_GROUPED),
        _entry("Qwen2ForCausalLM", _text(), **_GROUPED),
        _entry("Qwen3ForCausalLM", _text(), **_GROUPED, head_dim=8),
        _entry("GemmaForCausalLM", _text(), **_GROUPED, head_dim=8),
        _entry("Gemma2ForCausalLM", _text(), **_GROUPED, head_dim=8),
        _entry("Gemma3ForCausalLM", _text(), config="Gemma3TextConfig", **_GROUPED, head_dim=8),
        _entry("PhiForCausalLM", _text(), **_ENCODER),
        _entry("Phi3ForCausalLM", _text(), **_GROUPED, **_PAD),
        _entry("FalconForCausalLM", _text(), **_ENCODER, alibi=False),
        _entry("StableLmForCausalLM", _text(), **_GROUPED),
        _entry("Starcoder2ForCausalLM", _text(), **_GROUPED),
        _entry("OlmoForCausalLM", _text(), **_GROUPED),
        _entry("Olmo2ForCausalLM", _text(), **_GROUPED),
        _entry("CohereForCausalLM", _text(), **_GROUPED),
        _entry("GraniteForCausalLM", _text(), **_GROUPED),
        _entry("MixtralForCausalLM", _text(), **_GROUPED, num_local_experts=4, **_EXPERTS),
        _entry(
            "Qwen2MoeForCausalLM",
            _text(),
            **_GROUPED,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=48,
            shared_expert_intermediate_size=48,
        ),
        _entry("OlmoeForCausalLM", _text(), **_GROUPED, num_experts=4, num_experts_per_tok=2),
        _entry(
            "MambaForCausalLM",
            _text(),
            vocab_size=WORDS,
            hidden_size=64,
            num_hidden_layers=2,
            state_size=8,
        ),
        # encoders with decoders
        _entry("T5ForConditionalGeneration", _text(decoder=True), **_T5),
        _entry(
            "T5ForConditionalGeneration",
            _text(decoder=True),
            name="T5ForConditionalGeneration (gated)",
            **_T5,
            feed_forward_proj="gated-gelu",
        ),
        _entry("BartForConditionalGeneration", _text(decoder=True), **_SEQ2SEQ),
        _entry("MBartForConditionalGeneration", _text(decoder=True), **_SEQ2SEQ),
        _entry("MarianMTModel", _text(decoder=True), config="MarianConfig", **_SEQ2SEQ),
        _entry("PegasusForConditionalGeneration", _text(decoder=True), **_SEQ2SEQ),
        # sound
        _entry(
            "WhisperForConditionalGeneration",
            _spectrogram,
            **{k: v for k, v in _SEQ2SEQ.items() if k != "max_position_embeddings"},
            num_mel_bins=16,
            max_source_positions=32,
            max_target_positions=32,
        ),
        _entry("Wav2Vec2ForCTC", _sound, **_SPEECH),
        _entry("HubertForCTC", _sound, **_SPEECH),
        # images
        _entry("ViTForImageClassification", _pixels(), **_VISION),
        _entry("DeiTForImageClassification", _pixels(), **_VISION),
        _entry("BeitForImageClassification", _pixels(), **_VISION),
        _entry("Dinov2ForImageClassification", _pixels(), **_VISION),
        _entry(
            "YolosForObjectDetection",
            _pixels(),
            **{**_VISION, "image_size": [32, 32]},
            num_detection_tokens=5,
        ),
        _entry("SwinForImageClassification", _pixels(64), **_SWIN_WINDOWS),
        _entry("Swinv2ForImageClassification", _pixels(64), **_SWIN_WINDOWS),
        _entry("ConvNextForImageClassification", _pixels(64), **_HIDDEN, depths=[1, 1, 2, 1]),
        _entry("ConvNextV2ForImageClassification", _pixels(64), **_HIDDEN, depths=[1, 1, 2, 1]),
        _entry(
            "SegformerForSemanticSegmentation",
            _pixels(64),
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 4, 8],
            decoder_hidden_size=48,
        ),
        _entry(
            "ResNetForImageClassification",
            _pixels(64),
            **_HIDDEN,
            depths=[1, 1, 2, 1],
            embedding_size=32,
        ),
        _entry(
            "PoolFormerForImageClassification",
            _pixels(64),
            config="PoolFormerConfig",
            **_HIDDEN,
            depths=[1, 1, 2, 1],
        ),
        _entry(
            "CLIPModel",
            _both,
            config="CLIPConfig",
            text_config={**_ENCODER, "eos_token_id": 2},
            vision_config=_VISION,
            projection_dim=32,
        ),
        _entry(
            "SiglipModel",
            _both,
            config="SiglipConfig",
            text_config={**_ENCODER, "projection_size": 64},
            vision_config=_VISION,
        ),
    ]
)
