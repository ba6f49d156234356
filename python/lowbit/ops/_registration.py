"""What torch must know of an operator besides its kernel: shapes without data, and the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit.ops import _gradients


def register(
    name: str,
    fake: Callable[..., Tensor],
    bias: int,
    gradient: Callable[[Tensor, Tensor, Sequence[Any]], Tensor],
    out: bool,
) -> None:
    """Registers the fake and the gradient of an operator, and the fake of its `_out` twin where there is one.

    Args:
        name: the operator, with its namespace.
        fake: the operator's arguments -> a result of the right shape and dtype, without data.
        bias, gradient: see `_gradients.register`.
    """
    torch.library.register_fake(name, fake)
    if out:
        torch.library.register_fake(f"{name}_out", fake_out)
    _gradients.register(name, bias, gradient)


def fake_out(*args: Any) -> None:
    """Writes its last argument; nothing to infer."""
