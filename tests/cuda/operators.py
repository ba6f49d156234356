"""Layers of every kind as the torch operators of the GPU kernels take them: on a GPU, or on the emulated
device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lowbit.backends.cuda import CudaBackend
from torch import Tensor

from tests.ops import cases

# What the kernels themselves round, against fp64 on their own quantised activations: the fixed point entries
# of scalar codebooks and the fp16 products of vector codebooks count to their precision, which is that of
# `high`.
ROUNDED = {"codebook_scalar": 1e-3, "codebook_vector": 1e-3}


@dataclass
class GpuLayer(cases.Layer):
    namespace: str = "lowbit"
    device: str = "cuda"

    def operator(self, suffix: str = "") -> Callable[..., Any]:
        return getattr(getattr(torch.ops, self.namespace), f"{self.packed.kind}_linear{suffix}").default

    def runtime(self, active_bits: int | None) -> dict[str, Tensor]:
        tensors = {name: tensor.to(self.device) for name, tensor in self.packed.tensors().items()}
        return CudaBackend().prepare(tensors, self.packed.metadata(), any_bits=active_bits is not None)

    def arguments(
        self, precision: str, activation_bits: int = 0, active_bits: int | None = None
    ) -> tuple[Any, ...]:
        arguments = super().arguments(precision, activation_bits, active_bits)
        return tuple(a.to(self.device) if isinstance(a, Tensor) else a for a in arguments)

    def check(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        """Runs the operator on x, compares it with the reference, and returns its result."""
        y = self.native(x.to(self.device), precision, **quantised)
        eps = 1e-5 if precision == "exact" else ROUNDED.get(self.packed.kind, 1e-5)
        cases.check(self, x, y.cpu(), precision, eps, **quantised)
        return y


def make(
    kind: str, n: int, k: int, seed: int = 0, *, namespace: str, device: str, **options: Any
) -> GpuLayer:
    layer = cases.make(kind, n, k, seed, **options)
    return GpuLayer(layer.packed, layer.bias, namespace, device)
