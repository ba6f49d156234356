"""What the tests of a family run on: a backend, the device of its tensors, and what it promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from lowbit import backends, ops
from lowbit.backends import cuda_flags
from lowbit.backends.cuda import KINDS_OF_BITS
from lowbit.ops import _layouts
from torch import Tensor

from tests.emulated.device import BUILD, KIND
from tests.native import needs_emulated, needs_native

EXAMPLES = 40  # of a property, on the fastest target
EMULATED_LIBRARY = BUILD / "_torch_emulated.so"


@dataclass(frozen=True)
class Target:
    """Attributes:
    backend: its name.
    operators: what stands before <kind>_linear in torch.ops; "" where it has functions instead.
    device: of all tensors.
    examples: share of the examples that it runs.
    sizes: of N and K that it is given.
    large: N and K where many tokens meet a layer of some size.
    alone: up to how many tokens a row has the bits that it has without the others.
    rounds: kinds whose kernels round tables or products to the precision of `high`.
    halves_above: for more tokens than that `high` rounds activations and weights of bits to fp16.
    truncates: output dtypes that it does not round to. Triton's interpreter cuts float32 off to bfloat16;
        compiled kernels round.
    """

    backend: str
    operators: str
    device: str = "cpu"
    examples: float = 1.0
    # 1, odd, prime, around a byte, a block of 32, a tile of 64 rows and a group of 128.
    sizes: tuple[int, ...] = (
        1,
        2,
        3,
        7,
        8,
        9,
        31,
        32,
        33,
        63,
        64,
        65,
        97,
        127,
        128,
        129,
        131,
        200,
        257,
        384,
        515,
    )
    large: tuple[int, int] = (33, 150)
    alone: int = 16
    rounds: tuple[str, ...] = ("codebook_scalar", "codebook_vector")
    halves_above: float = math.inf
    truncates: tuple[torch.dtype, ...] = ()

    def operator(self, kind: str, suffix: str = "") -> Callable[..., Any]:
        """<kind>_linear<suffix>, with its arguments."""
        if not self.operators:
            return backends.get(self.backend).operator(kind)
        namespace, prefix = self.operators.split("::")
        return getattr(getattr(torch.ops, namespace), f"{prefix}{kind}_linear{suffix}").default

    def prepare(self, packed: Any, any_bits: bool) -> dict[str, Tensor]:
        """The tensors of a packed weight as the operators take them."""
        tensors = {name: tensor.to(self.device) for name, tensor in packed.tensors().items()}
        return backends.get(self.backend).prepare(tensors, packed.metadata(), any_bits)

    def eps(self, kind: str, precision: str, tokens: int = 0) -> float:
        """Relative to the norms, against fp64 on the activations as they are quantised.

        Args:
            tokens: whose activations are of 16 bits.
        """
        halves = kind in KINDS_OF_BITS and precision == "high" and tokens > self.halves_above
        return 1e-3 if halves or (kind in self.rounds and precision != "exact") else 1e-5

    def given(self, **strategies: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
        """Hypothesis' `given`, with this target's share of the examples."""

        def decorate(test: Callable[..., None]) -> Callable[[], None]:
            few = settings(max_examples=max(2, round(self.examples * EXAMPLES)))
            return few(given(**strategies)(test))

        return decorate


SLOW_SIZES = (1, 7, 33, 65, 131, 200)
TORCH = Target("torch", "", examples=0.25, alone=1, rounds=())
CPU = Target("cpu", "lowbit::", alone=32, rounds=())
EMULATED = Target("cuda", "lowbit_emulated::", examples=0.1, sizes=SLOW_SIZES, halves_above=256)
TRITON = Target("triton", "lowbit::triton_", examples=0.15, sizes=SLOW_SIZES, truncates=(torch.bfloat16,))
LARGE = (1031, 4100)
CUDA = Target("cuda", "lowbit::", "cuda", large=LARGE, halves_above=256)
TRITON_GPU = Target("triton", "lowbit::triton_", "cuda", large=LARGE)

_PARAMETERS = {
    "torch": pytest.param(TORCH, id="torch"),
    "cpu": pytest.param(CPU, id="cpu", marks=needs_native),
    "emulated": pytest.param(
        EMULATED,
        id="emulated",
        marks=[
            needs_emulated,
            pytest.mark.skipif(KIND != "", reason="torch's allocator is no sanitizer's"),
        ],
    ),
    "triton": pytest.param(
        TRITON,
        id="triton",
        marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="runs compiled on the GPU, not interpreted"
        ),
    ),
    "cuda": pytest.param(CUDA, id="cuda", marks=pytest.mark.gpu),
    "triton_gpu": pytest.param(TRITON_GPU, id="triton_gpu", marks=pytest.mark.gpu),
}
ALL = tuple(_PARAMETERS)


def on(*names: str) -> pytest.MarkDecorator:
    """Runs a test on each of these targets; load them by the fixture in conftest.py."""
    return pytest.mark.parametrize("target", [_PARAMETERS[name] for name in names])


_ATEN = torch.library.Library("aten", "IMPL")


def product(a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
    """fp16 with fp32 sums: torch has it on GPUs alone, the emulated device takes CPU tensors."""
    assert a.dtype == b.dtype == torch.float16
    assert out.dtype == out_dtype == torch.float32
    return torch.mm(a.float(), b.float(), out=out)


@cache
def load(target: Target) -> str | None:
    """Loads the operators of a target. Returns None, or why they cannot be had."""
    if target is EMULATED:
        torch.ops.load_library(str(EMULATED_LIBRARY))
        _ATEN.impl("mm.dtype_out", lambda *args, **out: product(*args, **out), "CPU")
        _layouts.register("lowbit_emulated")
        cuda_flags.register()
        for module in (ops.signs, ops.planes, ops.codebook):
            module.register(target.operators)
        return None
    return None if (answer := backends.get(target.backend).available()).ok else answer.reason
