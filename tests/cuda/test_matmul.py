"""More than 256 tokens: the weight expanded tile by tile, and a matrix product that the caller has."""

from __future__ import annotations

from itertools import accumulate, product

import pytest
import torch
from lowbit.formats import Planes
from torch import Tensor

from tests.cuda.bits import DeviceBits, Matmul, digits_of, last_error
from tests.emulated.device import Device, DeviceError, load
from tests.ops.cases import DTYPES, Layer, activations, check, make

M = 257
DIGITS = ("packed", "planes")  # of one bit they are the same
EPS = 1e-3  # of `high`
EXACT = 1e-6  # of fp32 sums, where both factors are exact in fp16


def run(
    device: Device, *layers: Layer, x: Tensor, digits: str = "packed", multiprocessors: int = 1, **how: object
):
    """y and the products that were asked for. With one multiprocessor a tile has 128 rows."""
    matmul = Matmul()
    subject = DeviceBits(device, *layers, digits=digits, gpu=matmul.device(multiprocessors))
    assert subject.explain(x.shape[0], "high")["kernel"] == "matmul"
    return subject(x, "high", **how), matmul.products


def expanded(products: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The rows of the weight, each times a power of two."""
    return torch.cat([b for _, b in products]).double()


def whole(n: int, k: int, bits: int, offsets: bool = False) -> Layer:
    layer = make("planes", n, k, bits, bits=bits, group_size=-1, scale_dtype=torch.float32)
    packed = layer.packed
    assert isinstance(packed, Planes)
    return Layer(Planes(packed.weight, packed.scales, k, -1, packed.offsets if offsets else None), None)


@pytest.mark.parametrize(("bits", "digits"), [(1, "packed"), *product(range(2, 9), DIGITS)])
def test_whole_rows_are_exact(bits: int, digits: str) -> None:
    """Prefixes of a code (of 8 bits all) and offsets: integers in the tile, scales behind the product."""
    device = load("lowbit_emulated")
    k = 1100 if bits == 8 else 515
    x = activations(M, k, torch.float16, bits).float()
    ends = list(accumulate(digits_of(bits, digits)))
    ends = ends if bits == 8 else sorted({ends[0], bits})
    for offsets in (False, True):
        layer = whole(19, k, bits, offsets)
        packed = layer.packed
        assert isinstance(packed, Planes)
        for active in ends if not offsets else [bits]:
            y, products = run(device, layer, x=x, digits=digits, active_bits=active)
            integers = (packed.dequantize(active).double() / packed.scales.double()).round()
            tile = expanded(products)[:, :k]
            power = tile.abs().amax(1, keepdim=True) / integers.abs().amax(1, keepdim=True)
            assert torch.equal(tile, integers * power)
            assert bool((torch.frexp(power).mantissa == 0.5).all())
            check(layer, x, y, "high", EPS, active_bits=active)
            reference = x.double() @ packed.dequantize(active).double().T
            bound = EXACT * layer.norms(x, active)
            assert bool(((y.double() - reference).abs() <= bound).all())


@pytest.mark.parametrize("group_size", [32, 96, 128, 256])
@pytest.mark.parametrize(("bits", "digits"), [(1, "packed"), *product((3, 4, 8), DIGITS)])
def test_scales_inside_a_row(emulated: Device, bits: int, group_size: int, digits: str) -> None:
    """Every weight of the tile is the specification's, rounded once to fp16."""
    layer = make("planes", 35, 1131, bits, bits=bits, group_size=group_size, scale_dtype=torch.float32)
    packed = layer.packed
    assert isinstance(packed, Planes)
    packed.scales[3] *= 2.0 ** torch.randint(-6, 6, packed.scales[3].shape)
    x = activations(M, 1131, torch.float16, bits).float()
    y, products = run(emulated, layer, x=x, digits=digits)
    tile, weight = expanded(products)[:, :1131], packed.dequantize().double()
    power = 2.0 ** torch.log2(tile.abs().amax(1) / weight.abs().amax(1)).round()[:, None]
    bound = summands(packed)
    assert bool((bound * power).amax(1).ge(2.0**14 * 0.9).all())
    assert bool((bound * power).amax(1).le(2.0**15).all())
    assert bool(((tile / power - weight).abs() <= weight.abs() * 2.0**-11 + 2.0**-24 / power).all())
    check(layer, x, y, "high", EPS)


def summands(packed: Planes) -> Tensor:
    """A bound of the magnitudes of a row's weights, as large as codes and offsets could make them."""
    assert packed.offsets is not None
    groups = (2**packed.bits - 1 + packed.offsets.abs().double()) * packed.scales.double().abs()
    return groups


@pytest.mark.parametrize(
    ("n", "k"),
    [*product([1, 127, 128, 129], [1, 65]), *product([17, 300], [63, 64]), (1, 1030), (129, 1030)],
)
def test_shapes(emulated: Device, n: int, k: int) -> None:
    """Around a tile of rows and the padding of inputs, and more tokens than a block of the last launch."""
    layer, x = make("planes", n, k, 5, bits=4, group_size=-1), activations(M + 43, k, torch.float32, 5)
    y, products = run(emulated, layer, x=x, y_gap=3)
    assert [b.shape[0] for _, b in products] == [128] * (n // 128) + [n % 128] * (n % 128 > 0)
    assert all(b.shape[1] == -(-k // 64) * 64 for _, b in products)
    check(layer, x, y, "high", EPS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["signs", "onebit", "mos"])
def test_signs(emulated: Device, kind: str, dtype: torch.dtype) -> None:
    """Siblings one by one, each with the activations of its experts."""
    layers = [make(kind, n, 515, n, scale_dtype=dtype) for n in (130, 5, 64)]
    x = activations(M, 515, dtype, 1, "rows apart")
    y, products = run(emulated, *layers, x=x)
    assert [b.shape[0] for _, b in products] == [128, 2, 5, 64]
    begin = 0
    for layer in layers:
        check(layer, x, y[:, begin : begin + layer.n], "high", EPS)
        begin += layer.n


@pytest.mark.parametrize("k", [5, 1024, 1030, 17000])
def test_activations(k: int) -> None:
    """fp16 is kept as it is; what was mixed is rounded."""
    layer = make("mos", 1, k, bias=False)
    plain = make("signs", 1, k, group_size=-1, bias=False)
    device, matmul = load("lowbit_emulated"), Matmul()
    x = activations(M, k, torch.float16, k)
    x[1] *= 2.0**-9
    staged = DeviceBits(device, plain, gpu=matmul.device()).stage(x, "high")
    assert staged.form == "halves"
    assert staged.scales is not None
    assert torch.equal(staged.values.double() * staged.scales, x.double()[None])
    assert bool((staged.padding == 0).all())
    top = staged.values[0].double().abs().amax(1)
    assert bool((top >= 2.0**14).all() and (top < 2.0**15).all())

    some = 16  # tokens to compare; `exact` takes any number
    floats = DeviceBits(device, layer).stage(x[:some], "exact").values.double()
    mixed = DeviceBits(device, layer, gpu=matmul.device()).stage(x, "high")
    assert mixed.scales is not None
    assert mixed.gates is not None
    scales = mixed.scales[:, :some]
    error = (mixed.values[:, :some].double() * scales - floats).abs()
    assert bool((error <= floats.abs() * 2.0**-11 + scales * 2.0**-25).all())


@pytest.mark.parametrize("magnitude", [1e-32, 1e-20, 1e20, 1e34])
def test_any_range(emulated: Device, magnitude: float) -> None:
    """Powers of two keep activations and scales of any size in fp16."""
    layer = make("planes", 17, 200, 3, bits=3, group_size=32, scale_dtype=torch.bfloat16, bias=False)
    x = activations(M, 200, torch.float32, 3)
    for packed, tokens in ((layer.packed.scales * magnitude, x), (layer.packed.scales, x * magnitude)):
        assert isinstance(layer.packed, Planes)
        scaled = Layer(Planes(layer.packed.weight, packed, 200, 32, layer.packed.offsets), None)
        y, _ = run(emulated, scaled, x=tokens)
        check(scaled, tokens, y, "high", EPS)


def test_non_finite_tokens(emulated: Device) -> None:
    for layer in (make("mos", 20, 150, 7), make("planes", 20, 150, 7)):
        x = activations(M, 150, torch.float32, 7)
        clean, _ = run(emulated, layer, x=x)
        x[1, 149], x[256, 0] = torch.nan, -torch.inf
        y, _ = run(emulated, layer, x=x)
        bad = torch.zeros(M, dtype=torch.bool)
        bad[[1, 256]] = True
        assert bool(y[bad].isnan().all())
        assert torch.equal(y[~bad], clean[~bad])


def test_turns(emulated: Device) -> None:
    """More tokens than the workspace holds, in memory used again."""
    layer, x = make("planes", 3, 40, 2), activations(4100, 40, torch.float16, 2)
    y, products = run(emulated, layer, x=x)
    assert [a.shape[0] for a, _ in products] == [4096, 4]
    check(layer, x, y, "high", EPS)


def test_a_product_that_fails() -> None:
    matmul = Matmul(status=4)
    layer = DeviceBits(load("lowbit_emulated"), make("planes", 3, 40, 2), gpu=matmul.device())
    with pytest.raises(DeviceError):
        layer(activations(M, 40, torch.float16), "high")
    assert last_error(layer.device) == "the caller's matrix product failed"
