"""Fused siblings: layers of the families signs and planes with the same input, in one call on the CPU.

Every layer keeps tensors of its own; the call reads them where they are. What is saved is the quantisation of
the activations, and a call's fixed cost, for all layers but one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowbit.ops import _registration

TENSORS = ("tiles", "scales", "offsets", "router", "in_scales", "out_scales", "bias")


class Member(NamedTuple):
    """One layer of a fused call, taken from the arguments of its own operator.

    Attributes:
        tensors: of TENSORS, in that order; None where the layer has none.
        out_features, group_size: of the layer.
        shared: (in_features, active_bits, activation_bits, precision), which all layers of a call have alike.
    """

    tensors: tuple[Any, ...]
    out_features: int
    group_size: int
    shared: tuple[int, int, int, int]


def signs_member(arguments: Sequence[Any]) -> Member | None:
    """From what follows x in a call of signs_linear; None if that is several layers already."""
    tiles, scales, router, in_scales, out_scales, bias, segments, *numbers = arguments
    in_features, out_features, group_size, precision = numbers
    if segments:
        return None
    tensors = (tiles, scales, None, router, in_scales, out_scales, bias)
    return Member(tensors, out_features, group_size, (in_features, 1, 0, precision))


def planes_member(arguments: Sequence[Any]) -> Member | None:
    """From what follows x in a call of planes_linear."""
    tiles, scales, offsets, bias, *numbers = arguments
    in_features, out_features, group_size, active_bits, activation_bits, precision = numbers
    tensors = (tiles, scales, offsets, None, None, None, bias)
    shared = (in_features, active_bits, activation_bits, precision)
    return Member(tensors, out_features, group_size, shared)


MEMBERS: dict[str, Callable[[Sequence[Any]], Member | None]] = {
    "signs": signs_member,
    "planes": planes_member,
}


def fused_arguments(members: Sequence[Member]) -> tuple[Any, ...]:
    """What follows x in the call of siblings_linear that stands for those of all members."""
    lists = [list(column) for column in zip(*(member.tensors for member in members), strict=True)]
    in_features, *numbers = members[0].shared
    return (
        *(column if any(tensor is not None for tensor in column) else [] for column in lists),
        in_features,
        [member.out_features for member in members],
        [member.group_size for member in members],
        *numbers,
    )


def register() -> None:
    """Fakes of the native operator. It has no gradient: nothing fuses layers that need one."""
    for name, fake in (("siblings_linear", _fake), ("siblings_linear_out", _registration.fake_out)):
        torch.library.register_fake(f"lowbit::{name}", fake)


def _fake(x: Tensor, *args: Any) -> Tensor:
    out_features: Sequence[int] = args[len(TENSORS) + 1]
    return x.new_empty(*x.shape[:-1], sum(out_features))
