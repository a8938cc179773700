"""Pruned models of Hugging Face's transformers, saved so that they can be loaded again."""

from autoprune.huggingface.files import load_hf, save_hf

__all__ = ["load_hf", "save_hf"]
