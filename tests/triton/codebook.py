"""Layers of the family `codebook` as the Triton kernels take them, and their products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lowbit.backends import triton_codebook_layout
from lowbit.backends.arguments import ARGUMENTS
from lowbit.triton_kernels import codebook
from lowbit.triton_kernels.codebook import dense, scalar, vector
from lowbit.triton_kernels.gpu import Gpu
from torch import Tensor

from tests.cuda.codebook import assert_close as assert_close_to
from tests.ops import cases, targets

PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "codebook_channel": codebook.channel_linear,
    "codebook_scalar": codebook.scalar_linear,
    "codebook_vector": codebook.vector_linear,
}
TOKENS = (0, 1, 9)  # for which a row's bits are those that it has with 16


@dataclass
class TritonLayer(cases.Layer):
    def runtime(self, active_bits: int | None) -> dict[str, Tensor]:
        return triton_codebook_layout.lay_out(self.packed.tensors(), self.packed.metadata())

    def native(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        kind = self.packed.kind
        return PRODUCTS[kind](ARGUMENTS[kind](x, *self.arguments(precision, **quantised)))

    def restored(self) -> dict[str, Tensor]:
        """The canonical tensors back from the layout."""
        return triton_codebook_layout.restore(self.runtime(None), self.packed.metadata())


def of(packed: Any, bias: Tensor | None = None) -> TritonLayer:
    packed.validate()
    return TritonLayer(packed, bias)


def make(kind: str, n: int, k: int, seed: int = 0, **options: Any) -> TritonLayer:
    layer = cases.make(kind, n, k, seed, **options)
    return TritonLayer(layer.packed, layer.bias)


def set_multiprocessors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What plans take the device for: with few of them a program loops, with many inputs are split."""
    for module in (dense, scalar, vector):
        monkeypatch.setattr(module, "gpu_of", lambda device: Gpu(count))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def halves(y: Tensor) -> int:
    """Of an ulp that an output may miss: Triton's interpreter cuts bfloat16 off, compiled code rounds."""
    return 2 if y.dtype in targets.TRITON.truncates else 1


def assert_close(y: Tensor, reference: Tensor, bound: Tensor) -> None:
    """The comparison of the CUDA kernels."""
    assert_close_to(y, reference, bound, halves(y))


def check_tokens(
    layer: TritonLayer, precision: str, check: Callable[[Tensor, Tensor], None], many: int = 17
) -> None:
    """Any number of tokens, and up to 16 the same bits for a token whatever comes with it."""
    x = cases.activations(many, layer.k, torch.float32, seed=layer.k)
    whole = layer.native(x[:16], precision)
    check(x[:16], whole)
    for m in TOKENS:
        assert same_bits(layer.native(x[16 - m : 16], precision), whole[16 - m :])
    check(x, layer.native(x, precision))


def check_not_finite(layer: TritonLayer, precision: str) -> None:
    """Tokens with a NaN or an infinity give rows of NaN, and do not touch the others."""
    x = cases.activations(4, layer.k, torch.float32)
    clean = layer.native(x, precision)
    x[1, layer.k - 1], x[2, 0] = torch.nan, -torch.inf
    y = layer.native(x, precision)
    assert bool(y[1:3].isnan().all())
    assert same_bits(y[[0, 3]], clean[[0, 3]])


def check_one_hot(layer: TritonLayer) -> None:
    """`exact` gives the weights themselves."""
    y = layer.native(torch.eye(layer.k), "exact")
    assert torch.equal(y.T, layer.packed.dequantize())


def check_strides(layer: TritonLayer, precision: str) -> None:
    """Views of activations give what copies give."""
    for strides in ("rows apart", "every second", "transposed", "one row"):
        x = cases.activations(2, layer.k, torch.float16, 1, strides)
        assert same_bits(layer.native(x, precision), layer.native(x.contiguous(), precision))


def check_restored(layer: TritonLayer) -> None:
    """The layout is undone bit by bit, and for some rows alone."""
    ids = torch.tensor([layer.n - 1, 0, layer.n // 2, 0])
    some = triton_codebook_layout.rows(layer.runtime(None), layer.packed.metadata(), ids)
    assert torch.equal(some, layer.packed.dequantize()[ids])
    canonical, restored = layer.packed.tensors(), layer.restored()
    assert canonical.keys() == restored.keys()
    for name, tensor in canonical.items():
        assert restored[name].dtype == tensor.dtype
        assert same_bits(restored[name], tensor)
