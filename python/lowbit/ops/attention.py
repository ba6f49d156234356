"""Attention of one token over a cache, on the CPU: what stands between a decoder's layers."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.backends.cpu import DTYPES
from lowbit.errors import ValueRangeError
from lowbit.ops import _library, _registration

_native = False  # until `register`


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """softmax(cap(scale query . keys)) values over the positions that are seen, with fp32 sums.

    Native on the CPU: positions that are not seen are not read, so that a sliding window costs what it holds,
    and the heads that share keys read them once. Elsewhere the same formula in torch. No gradient.

    Args:
        query: [batch, heads, 1, width].
        keys: [batch, groups, length, width], values: [batch, groups, length, value_width]; heads is a
            multiple of groups, and head h reads group h * groups // heads.
        seen: bool [batch, length]; None: all.
        scale: None: width ** -0.5.
        softcap: c of cap(s) = c tanh(s / c), 0 or more; 0: none.

    Returns:
        [batch, heads, 1, value_width] of query's dtype; NaN where nothing is seen.

    Raises:
        ValueRangeError: softcap is negative or NaN.
    """
    if not softcap >= 0:
        raise ValueRangeError("softcap out of range", found=softcap, allowed="0 or more")
    if not torch.compiler.is_compiling():  # which does not follow the lock; `load` comes before it
        _library.load()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    native = query.device.type == "cpu" and query.dtype in DTYPES and _native
    if native and values.stride(-1) == keys.stride(-1) == query.stride(-1) == 1:
        if seen is not None and seen.stride(-1) != 1:
            seen = seen.contiguous()
        result: Tensor = torch.ops.lowbit.attention(query, keys, values, seen, scale, softcap)
        return result
    return _formula(query, keys, values, seen, scale, softcap)


def _formula(
    query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, scale: float, softcap: float
) -> Tensor:
    batch, heads, _, width = query.shape
    groups = keys.shape[1]
    rows = query.reshape(batch, groups, heads // groups, width).float()
    scores = rows @ keys.float().mT * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    values = values.float()
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None, :], float("-inf"))
        values = values.masked_fill(~seen[:, None, :, None], 0)  # 0 times NaN would be NaN
    result = scores.softmax(dim=-1) @ values
    return result.to(query.dtype).reshape(batch, heads, 1, -1)


def register() -> None:
    """Fakes of the native operator, now that there is one."""
    global _native
    _native = True
    for name, fake in (("attention", _fake), ("attention_out", _registration.fake_out)):
        torch.library.register_fake(f"lowbit::{name}", fake)


def _fake(query: Tensor, keys: Tensor, values: Tensor, *_: object) -> Tensor:
    return query.new_empty(*query.shape[:3], values.shape[3])
