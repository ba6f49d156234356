"""Checkpoints of models with packed layers: safetensors and config.json, the layout of transformers.

config.json           the model's configuration with `quantization_config` (formats/config.py)
model.safetensors     packed tensors in the canonical layout, everything else as it is
generation_config.json, tokenizer files       where the model has them
"""

from __future__ import annotations

from lowbit.checkpoint.load import load_pretrained
from lowbit.checkpoint.save import save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
