"""Models of Hugging Face's transformers: as tasks, and saved so that they can be loaded again."""

from autoprune.huggingface.files import load_hf, save_hf
from autoprune.huggingface.task import wrap_hf

__all__ = ["load_hf", "save_hf", "wrap_hf"]
