"""A GGUF file small enough for any test: random weights, one layer, twelve tokens."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_TOKENS = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "c", "ab", "\u2581a", "\u2581ab", "d", "e"]
_HIDDEN, _INNER = 32, 64


def save_tiny_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(_TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_TOKENS)
    writer.add_token_scores([0.0, 0.0, 0.0, *(-float(rank) for rank in range(len(_TOKENS) - 3))])
    unknown, control, normal = 2, 3, 1
    writer.add_token_types([unknown, control, control, *[normal] * (len(_TOKENS) - 3)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(_TOKENS), _HIDDEN),
        "output": (len(_TOKENS), _HIDDEN),
        "output_norm": (_HIDDEN,),
        "blk.0.attn_norm": (_HIDDEN,),
        "blk.0.ffn_norm": (_HIDDEN,),
        **{f"blk.0.attn_{part}": (_HIDDEN, _HIDDEN) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (_INNER, _HIDDEN) for part in ("gate", "up")},
        "blk.0.ffn_down": (_HIDDEN, _INNER),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
