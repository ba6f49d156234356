"""A kernel with everything that it is launched with: to be launched, or compiled ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import wrap_triton

from ..compiled import Launch
from ..launch import launch

_POINTERS = {
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}
_ALIGNMENT = 16


class Call(NamedTuple):
    """`arguments` in the order of the kernel's parameters, constexprs, and options such as num_warps."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constexprs: Mapping[str, Any]
    options: Mapping[str, int]

    def run(self) -> None:
        launch(wrap_triton(self.kernel), self.grid, *self.arguments, **self.constexprs, **self.options)

    def ahead_of_time(self, name: str, weights: int = 0) -> Launch:
        """The same without data; tensors may be on the device `meta`."""
        named = dict(zip(self.kernel.arg_names, self.arguments, strict=False))
        absent = {key: None for key, value in named.items() if value is None}
        # Triton makes a constant of every integer 1 whose value it looks at.
        unseen = getattr(self.kernel, "do_not_specialize", ())
        seen = {key: value for key, value in named.items() if type(value) is int and key not in unseen}
        ones = {key: 1 for key, value in seen.items() if value == 1}
        signature = {key: _type(value) for key, value in named.items() if key not in absent | ones}
        aligned = [key for key, value in seen.items() if key not in ones and value % _ALIGNMENT == 0]
        constexprs = {**absent, **ones, **self.constexprs}
        return Launch(name, self.kernel, signature, constexprs, self.options, weights, tuple(aligned))


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"
