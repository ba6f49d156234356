"""Attention of a single token over the cache as it lies there.

transformers' own under torch.compile copies keys and values once for every query head that shares them, which
costs more than everything else around the linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lowbit.errors import UnsupportedLayerError
from lowbit.ops import _library
from lowbit.ops.attention import attention

NAME = "lowbit_decode"
_HARMLESS = (
    "position_ids",
    "sliding_window",
    "is_causal",
    "use_cache",
    "cache_position",
    "output_attentions",
)


def decode_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """`lowbit.ops.attention` behind transformers' interface of attention functions.

    Args:
        query: [batch, heads, 1, width]; heads = shared * groups.
        key, value: [batch, groups, length, width].
        attention_mask: bool, True where a position is seen: broadcastable to [batch, heads, 1, length].
        softcap: c in c tanh(score / c).

    Returns:
        [batch, 1, heads, width] and None.

    Raises:
        UnsupportedLayerError: the model asks for a variant of attention that is none of these.
    """
    unknown = sorted(name for name in others if name not in _HARMLESS and others[name] is not None)
    if unknown or dropout or query.shape[2] != 1:
        raise UnsupportedLayerError(
            "fast_decode does not know this kind of attention",
            layer=type(module).__name__,
            found=", ".join(unknown) or f"{query.shape[2]} tokens at once, dropout {dropout}",
            allowed="grouped-query attention of one token, with mask, scaling and softcap",
        )
    batch = query.shape[0]
    seen = None if attention_mask is None else attention_mask.reshape(batch, -1)
    return attention(query, key, value, seen, scaling, softcap or 0.0).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(NAME, decode_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


@contextmanager
def attention_of_a_token(config: Any) -> Iterator[None]:
    """Models of this configuration attend with `decode_attention` meanwhile."""
    _library.load()  # before torch.compile looks at `attention`
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
