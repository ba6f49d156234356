"""What the gradients of all operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit.errors import LowbitError
from lowbit.formats import PackedWeight


def times_weight(dy: Tensor, packed: PackedWeight, expand: Callable[[Tensor], Tensor]) -> Tensor:
    """dy W, with the rows of W from `expand`, some at a time: a large head is never expanded as a whole."""
    dx = dy.new_zeros(dy.shape[0], packed.in_features)
    for rows in packed._chunks():
        dx = dx.addmm(dy[:, rows], expand(rows))
    return dx


def register(
    name: str,
    bias: int,
    gradient: Callable[[Tensor, Tensor, Sequence[Any]], Tensor],
) -> None:
    """Registers the gradient of an operator in x and in the bias.

    Args:
        name: the operator, with its namespace; its first argument is x.
        bias: position of the bias among the arguments.
        gradient: (x float32 [M, K], dy float32 [M, N], all arguments) -> dx float32 [M, K], in plain torch.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensors = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.save_for_backward(*(inputs[i] for i in tensors))
        ctx.tensor_positions = tensors
        ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.others)
        for position, tensor in zip(ctx.tensor_positions, ctx.saved_tensors, strict=True):
            inputs[position] = tensor
        grads: list[Tensor | None] = [None] * len(inputs)
        if any(needed for i, needed in enumerate(ctx.needs_input_grad) if i not in (0, bias)):
            raise LowbitError(f"{name} has gradients in x and bias only; detach the packed tensors")
        dy = grad.reshape(-1, grad.shape[-1]).float()
        if ctx.needs_input_grad[0]:
            x = inputs[0]
            dx = gradient(x.reshape(-1, x.shape[-1]).float(), dy, inputs)
            grads[0] = dx.reshape(x.shape).to(x.dtype)
        if ctx.needs_input_grad[bias]:
            grads[bias] = dy.sum(dim=0).to(inputs[bias].dtype)
        return tuple(grads)

    torch.library.register_autograd(name, backward, setup_context=setup_context)
