"""The operators as torch sees them: gradients through mixes, torch.compile, torch.export, errors."""

from __future__ import annotations

import pytest
import torch
from lowbit import ops
from lowbit.errors import LowbitError
from lowbit.formats import PRECISIONS, Signs
from torch import nn

from tests.native import needs_native
from tests.ops import cases

pytestmark = needs_native

N, K = 70, 150


def layer_and_input(kind: str, m: int = 3) -> tuple[cases.Layer, torch.Tensor]:
    return cases.make(kind, N, K, 11, scale_dtype=torch.float32), cases.activations(m, K, torch.float32, 11)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradient_through_the_router(precision):
    """Straight through the quantiser, and through the gates on both sides."""
    layer, x = layer_and_input("mos")
    dy = torch.randn(3, N, generator=cases.generator(2))
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer.native(x1, precision).backward(dy)
    layer.packed.linear(x2, layer.bias, precision=precision).backward(dy)
    torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-3, atol=1e-3)


def test_gradient_of_segments():
    layers = [cases.make("mos", n, K, n, scale_dtype=torch.float32) for n in (5, 64, 70)]
    x = cases.activations(4, K, torch.float32)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    packed = [layer.packed for layer in layers]
    y = ops.signs_linear(
        x1,
        torch.cat([p.weight for p in packed]),
        router=torch.stack([p.router for p in packed]),
        in_scales=torch.stack([p.in_scales for p in packed]),
        out_scales=torch.cat([p.out_scales for p in packed], dim=1),
        segments=[5, 64, 70],
        precision="exact",
        backend="cpu",
    )
    y.square().sum().backward()
    torch.cat([p.linear(x2) for p in packed], dim=-1).square().sum().backward()
    torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-3, atol=1e-2)


def test_packed_tensors_have_no_gradient():
    layer, x = layer_and_input("onebit")
    arguments = list(layer.arguments("exact"))
    arguments[3] = arguments[3].requires_grad_()
    y = layer.operator()(x, *arguments)
    with pytest.raises(LowbitError, match="gradients in x and bias only"):
        y.sum().backward()


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    yield
    torch.compiler.reset()


class Linear(nn.Module):
    def __init__(self, layer: cases.Layer, precision: str) -> None:
        super().__init__()
        self.layer = layer
        self.values = layer.arguments(precision)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.operator()(x * 2, *self.values) + 1


@pytest.mark.parametrize("kind", ["mos", "planes", "channel0", "outliers", "vector"])
def test_compile(kind):
    layer, x = layer_and_input(kind)
    module = Linear(layer, "fast")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for m in (3, 40):
            x = cases.activations(m, K, torch.float32)
            assert torch.equal(compiled(x), module(x))
    y = compiled(x.requires_grad_())
    y.sum().backward()
    assert x.grad is not None


def test_compile_with_inductor():
    layer, x = layer_and_input("mos")
    module = Linear(layer, "fast")
    with torch.no_grad():
        assert torch.equal(torch.compile(module, fullgraph=True)(x), module(x))


def test_compile_the_functional_form():
    """With the choice of the backend and the tiling inside the graph."""
    layer, x = layer_and_input("signs")
    packed = layer.packed
    assert isinstance(packed, Signs)

    def call(x: torch.Tensor) -> torch.Tensor:
        return ops.signs_linear(x, packed.weight, scales=packed.scales, group_size=128, bias=layer.bias)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), call(x))


@pytest.mark.parametrize("kind", ["mos", "planes", "scalar"])
def test_export_with_dynamic_batch(kind):
    """One program for few tokens and for many."""
    layer, x = layer_and_input(kind)
    module = Linear(layer, "exact")
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: batch}}).module()
    for m in (2, 33):
        x = cases.activations(m, K, torch.float32)
        assert torch.equal(program(x), module(x))


ERRORS = {
    "shape of x": (
        lambda x, a: (x[:, 1:], *a),
        r"x must be .* dimension of 150; found float32 \[3, 149\]",
    ),
    "dtype of x": (lambda x, a: (x.double(), *a), "x must be a float32, float16 or bfloat16"),
    "dtype of tiles": (
        lambda x, a: (x, a[0].char(), *a[1:]),
        r"tiles must be a contiguous uint8 .* \[2, 1",
    ),
    "tiles too small": (lambda x, a: (x, a[0][:1], *a[1:]), r"found uint8 \[1, 1, 5, 64, 4\]"),
    "strides of tiles": (lambda x, a: (x, a[0].mT.contiguous().mT, *a[1:]), "with strides"),
    "scales not tiled": (lambda x, a: (x, a[0], torch.ones(N, 2), *a[2:]), r"scales must .* \[2, 2, 64\]"),
    "in_scales alone": (lambda x, a: (x, *a[:3], torch.ones(1, K), *a[4:]), "in_scales needs out_scales"),
    "router alone": (lambda x, a: (x, *a[:2], torch.ones(2, K), *a[3:]), "need in_scales"),
    "no router": (
        lambda x, a: (x, *a[:3], torch.ones(2, K), torch.ones(2, N), *a[5:]),
        "more than one expert needs a router",
    ),
    "two dtypes": (
        lambda x, a: (x, *a[:3], torch.ones(1, K), torch.ones(1, N).half(), *a[5:]),
        "must have one dtype",
    ),
    "bias": (lambda x, a: (x, *a[:5], torch.ones(N + 1), *a[6:]), r"bias must .* \[70\]"),
    "segments": (lambda x, a: (x, *a[:6], [10, 20], *a[7:]), "segments must add up to out_features"),
    "negative segment": (lambda x, a: (x, *a[:6], [-1, 71], *a[7:]), "segments must be positive"),
    "group_size": (lambda x, a: (x, *a[:9], 48, *a[10:]), "positive multiple of 32; found 48"),
    "precision": (lambda x, a: (x, *a[:10], 3), "precision must be 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_arguments(name):
    spoil, message = ERRORS[name]
    layer, x = layer_and_input("signs")
    with pytest.raises(RuntimeError, match="lowbit::signs_linear: .*" + message):
        layer.operator()(*spoil(x, layer.arguments("fast")))


def test_wrong_out():
    layer, x = layer_and_input("signs")
    for out in (torch.empty(3, N + 1), torch.empty(2, N), torch.empty(3, N).half(), torch.empty(3, 1, N)):
        with pytest.raises(RuntimeError, match="out must have the dtype and leading dimensions of x"):
            layer.operator("_out")(x, *layer.arguments("exact"), out)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_leading_dimensions(kind):
    layer, x = layer_and_input(kind, 6)
    expected = layer.native(x, "fast")
    assert torch.equal(layer.native(x[0], "fast"), expected[0])
    assert torch.equal(layer.native(x.reshape(2, 1, 3, K), "fast"), expected.reshape(2, 1, 3, N))
    swapped = layer.native(x.reshape(2, 3, K).transpose(0, 1), "fast")
    assert torch.equal(swapped.transpose(0, 1).reshape(6, N), expected)
    assert layer.native(x[:0].reshape(0, 4, K), "fast").shape == (0, 4, N)


def test_no_leak_on_errors():
    """Arguments are given back even when a check fails."""
    layer, x = layer_and_input("mos")
    arguments = list(layer.arguments("fast"))
    arguments[-1] = 7
    tiles = arguments[0]
    before = tiles._use_count()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            layer.operator()(x, *arguments)
    assert tiles._use_count() == before
