"""The torch operators of the GPU kernels and the backend's layouts, executed on the emulated device."""

from __future__ import annotations

import pytest
import torch
from lowbit.backends import cuda
from lowbit.formats import Planes, Signs
from lowbit.formats.base import group_count

from tests.cuda import operators
from tests.emulated.device import BUILD, KIND
from tests.ops import cases

LIBRARY = BUILD / "_torch_emulated.so"
NAMESPACE = "lowbit_emulated"

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} was not built (make build does)"),
    pytest.mark.skipif(KIND != "", reason="torch's allocator is no sanitizer's"),
]


@pytest.fixture(autouse=True)
def _emulated_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.ops.load_library(str(LIBRARY))
    monkeypatch.setattr(cuda, "_layouts", lambda: getattr(torch.ops, NAMESPACE))


def make(kind: str, n: int, k: int, seed: int = 0, **options) -> operators.GpuLayer:
    return operators.make(kind, n, k, seed, namespace=NAMESPACE, device="cpu", **options)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_operators(kind: str, precision: str) -> None:
    layer = make(kind, 37, 131, 3)
    for m, dtype in ((1, torch.float16), (3, torch.bfloat16)):
        layer.check(cases.activations(m, 131, dtype, m), precision)


@pytest.mark.parametrize("strides", cases.STRIDES)
def test_strides_and_out(strides: str) -> None:
    layer = make("planes", 20, 130, 5, group_size=-1)
    x = cases.activations(4, 130, torch.float32, 1, strides)
    y = layer.check(x, "high")
    out = torch.empty(4, 40)[:, ::2]
    layer.operator("_out")(x, *layer.arguments("high"), out)
    assert torch.equal(out, y)


def test_no_tokens() -> None:
    layer = make("signs", 5, 9)
    assert layer.native(torch.empty(0, 9), "high").shape == (0, 5)


def test_segments() -> None:
    layers = [make("mos", n, 70, n) for n in (5, 16, 33)]
    runtime = [layer.runtime(None) for layer in layers]
    x = cases.activations(2, 70, torch.float32)
    y = layers[0].operator()(
        x,
        torch.cat([tensors["weight"] for tensors in runtime], dim=2),
        None,
        torch.stack([tensors["router"] for tensors in runtime]),
        torch.stack([tensors["in_scales"] for tensors in runtime]),
        torch.cat([tensors["out_scales"] for tensors in runtime], dim=1),
        None,
        [5, 16, 33],
        70,
        54,
        -1,
        1,
    )
    for layer, part in zip(layers, y.split([5, 16, 33], dim=1), strict=True):
        layer.bias = None
        assert torch.equal(part, layer.check(x, "high"))


@pytest.mark.parametrize("bits", range(1, 9))
def test_active_bits(bits: int) -> None:
    layer = make("planes", 18, 65, bits, bits=bits, group_size=-1)
    x = cases.activations(2, 65, torch.float32, bits)
    for active in range(1, bits + 1):
        layer.check(x, "high", active_bits=active)
    layer.check(x, "high", activation_bits=bits)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_layout_is_undone(kind: str) -> None:
    layer = make(kind, 50, 200, 7)
    backend, packed = cuda.CudaBackend(), layer.packed
    laid_out = backend.prepare(packed.tensors(), packed.metadata())
    for name, tensor in backend.restore(laid_out, packed.metadata()).items():
        assert torch.equal(tensor, packed.tensors()[name]), name
    ids = torch.tensor([3, 49, 0, 3, 17])
    assert torch.equal(backend.rows(laid_out, packed.metadata(), ids), packed.dequantize()[ids])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("any_bits", [False, True])
def test_shape_of_tiles(bits: int, any_bits: bool) -> None:
    """That Python knows without the library."""
    n, k = 33, 1100
    planes = torch.randint(0, 256, (bits, n, (k + 7) // 8), dtype=torch.uint8)
    tiles = cuda.repack_bits(planes, k, any_bits)
    widths = cuda.digit_widths(bits, tiles.shape[1])
    assert sum(widths) == bits
    assert tiles.shape == (bits, len(widths), cuda.tile_words(n, k, widths), 16)
    assert tiles.shape[1] == (bits if any_bits else len(cuda.digit_widths(bits, 0)))


@pytest.mark.parametrize("group_size", [-1, 32, 96, 128, 256])
@pytest.mark.parametrize("k", [1, 100, 1024, 1300])
def test_groups_are_the_kernels(group_size: int, k: int) -> None:
    values = torch.randn(19, group_count(k, group_size))
    units = cuda.repack_groups(values, k, group_size)
    assert units.shape[0] == 32
    assert not units[19:].any()
    assert torch.equal(cuda.restore_groups(units[:19], k, group_size), values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 130, dtype=torch.int32)}, "x must be a float32"),
        ({1: torch.zeros(3, 7, dtype=torch.uint8)}, "tiles must be a contiguous uint8 tensor"),
        ({2: torch.zeros(3, 7)}, "scales must be"),
        ({8: 9}, "active_bits"),
        ({9: 11}, "activation_bits"),
        ({10: 7}, "precision"),
    ],
)
def test_wrong_arguments(change: dict[int, object], message: str) -> None:
    layer = make("planes", 20, 130)
    arguments = [cases.activations(2, 130, torch.float32), *layer.arguments("high")]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        layer.operator()(*arguments)


def test_kinds_are_those_of_the_formats() -> None:
    assert {Signs.kind, Planes.kind} == set(cuda.KINDS_OF_BITS)
