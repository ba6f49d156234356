"""The kernels behind `signs` and `planes` where the C interface's own tests do not reach: how tiles lie in
memory, every loop and every partition of it, the largest sums, weights read out one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS, Planes
from lowbit.formats.bits import pack_codes, unpack_codes
from torch import Tensor

from tests.cuda.bits import DeviceBits, digits_of, last_error
from tests.emulated.device import Device, DeviceError, load
from tests.ops.cases import DTYPES, Layer, activations, check, make

PLANS = ("packed", "planes")


def planes(codes: Tensor, bits: int, scales: Tensor | None = None, group_size: int = -1) -> Layer:
    n, k = codes.shape
    if scales is None:
        scales = torch.ones(n, 1)
    return Layer(Planes(pack_codes(codes, bits), scales, k, group_size), None)


def tiles_of(codes: Tensor, digits: list[int]) -> Tensor:
    """The tiles of codes [N, K], byte by byte from the drawing in csrc/cuda/bits/bits.h."""
    n, k = codes.shape
    rest, pieces = sum(digits), []
    for width in digits:
        rest -= width
        fields, count = 8 // width, -(-n // 16)
        inputs = 128 * fields
        blocks = -(-k // inputs)
        digit = torch.zeros(16 * count, inputs * blocks, dtype=torch.int64)
        digit[:n, :k] = (codes.long() >> rest) & (2**width - 1)
        tiles = torch.zeros(count, blocks, 4, 32, 16, dtype=torch.int64)
        q, lane, r, i = torch.meshgrid(*(torch.arange(e) for e in (4, 32, 4, 4)), indexing="ij")
        row, first = lane // 4 + 8 * (r % 2), 32 * q + 8 * (lane % 4) + 4 * (r // 2) + i
        cut = digit.reshape(count, 16, blocks, fields, 128).permute(0, 2, 3, 1, 4)
        for field in range(fields):
            tiles |= cut[:, :, field, row, first].flatten(-2) << (width * field)
        pieces.append(tiles.flatten())
    return torch.cat(pieces).to(torch.uint8)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_tiles_lie_as_drawn(emulated: Device, bits: int, plan: str) -> None:
    for n, k in ((1, 1), (17, 1029)):
        packed = make("planes", n, k, bits, bits=bits, group_size=-1).packed
        assert isinstance(packed, Planes)
        layer = DeviceBits(emulated, Layer(packed, None), digits=plan)
        expected = tiles_of(unpack_codes(packed.weight, k), digits_of(bits, plan))
        target = next(a for a in layer.arrays if a.address == layer.structs[0].bits.tiles)
        assert torch.equal(target.view[: expected.numel()], expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_one_input_reads_a_column_of_the_weight(emulated: Device, bits: int, plan: str) -> None:
    """fp32: a product with 1 at one input and 0 elsewhere is that column, to the last bit."""
    for k, group_size in ((7, 32), (300, 96), (1100, 128), (129, -1)):
        layer = make("planes", 19, k, bits, bits=bits, group_size=group_size, bias=False)
        inputs = [0, k // 2, k - 1]
        x = torch.nn.functional.one_hot(torch.tensor(inputs), k).float()
        y = DeviceBits(emulated, layer, digits=plan)(x, "exact")
        assert isinstance(layer.packed, Planes)
        assert torch.equal(y, layer.packed.dequantize()[:, inputs].T)


# Shapes and multiprocessors for which a block of scaled groups has so many (row_warps, input_warps).
PARTITIONS = {
    (1, 1): (16, 300, 132),
    (1, 2): (40, 1900, 132),
    (1, 4): (40, 3100, 132),
    (1, 8): (18, 9000, 132),
}


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
@pytest.mark.parametrize("group_size", [-1, 128, 32])
@pytest.mark.parametrize("bits", [1, 2, 4, 3])
def test_every_partition(emulated: Device, bits: int, group_size: int, partition: tuple[int, int]) -> None:
    n, k, multiprocessors = PARTITIONS[partition]
    subject = make("planes", n, k, bits, bits=bits, group_size=group_size)
    for plan in PLANS if bits == 3 else ("packed",):
        layer = DeviceBits(emulated, subject, digits=plan, gpu=interface.Device(90, multiprocessors))
        chosen = layer.explain(2, "high")
        if group_size != -1:
            assert (chosen["row_warps"], chosen["input_warps"]) == partition
        x = activations(2, k, torch.float32, seed=bits)
        for precision in ("fast", "high"):
            check(subject, x, layer(x, precision), precision)


@pytest.mark.parametrize("group_size", [-1, 128, 32])
@pytest.mark.parametrize("bits", [1, 2])
def test_rows_that_share_a_block(emulated: Device, bits: int, group_size: int) -> None:
    """With many columns a block has several row tiles, the last block not all of them."""
    subject = make("planes", 147, 1900, bits, bits=bits, group_size=group_size)
    layer = DeviceBits(emulated, subject, digits="packed", gpu=interface.Device(90, 4))
    x = activations(8, 1900, torch.float32, seed=bits)
    for precision in ("fast", "high"):
        chosen = layer.explain(8, precision)
        assert chosen["input_warps"] == 2
        assert chosen["row_warps"] > 1
        check(subject, x, layer(x, precision), precision)


def test_any_number_of_warps_copies_columns(emulated: Device) -> None:
    """Whole rows of one bit on one multiprocessor, whose blocks have as many row warps as there are rows."""
    found = set()
    for n in (16, 33, 70, 100, 140, 170, 200, 230):
        subject = make("planes", n, 2100, n, bits=1, group_size=-1)
        layer = DeviceBits(emulated, subject, gpu=interface.Device(80, 1))
        x = activations(8, 2100, torch.float32, seed=n)
        for m in (4, 8):
            found.add(layer.explain(m, "high")["row_warps"])
            check(subject, x[:m], layer(x[:m], "high"), "high")
    assert found == set(range(1, 9))


# Bits, digits, group size and inputs of layers that some GPU of a few multiprocessors divides over blocks.
SHARED_ROWS = {
    "one": (1, "packed", -1, 9000, interface.Device(90, 4)),
    "two": (2, "packed", -1, 9000, interface.Device(90, 4)),
    "four": (4, "packed", -1, 9000, interface.Device(90, 4)),
    "mixed": (3, "packed", -1, 9000, interface.Device(90, 4)),
    "planes": (3, "planes", -1, 9000, interface.Device(90, 4)),
    "one by 128": (1, "packed", 128, 9000, interface.Device(90, 2)),
    "four by 128": (4, "packed", 128, 9000, interface.Device(90, 2)),
    "two by 32": (2, "packed", 32, 17000, interface.Device(87, 2)),
}


@pytest.mark.parametrize("kind", SHARED_ROWS)
def test_blocks_that_share_rows(emulated: Device, kind: str) -> None:
    """Their sums meet in memory; sums of whole rows are the same as where one block has a row for itself."""
    bits, plan, group_size, k, gpu = SHARED_ROWS[kind]
    subject = make("planes", 33, k, bits, bits=bits, group_size=group_size)
    shared = DeviceBits(emulated, subject, digits=plan, gpu=gpu)
    alone = DeviceBits(emulated, subject, digits=plan, gpu=interface.Device(89, 1))
    x = activations(8, k, torch.float32, seed=bits)
    shares = 0
    for m in (1, 3, 8):
        shares += shared.explain(m, "high")["splits"] > 1
        assert alone.explain(m, "high")["splits"] == 1
        y = shared(x[:m], "high")
        check(subject, x[:m], y, "high")
        assert torch.equal(y, shared(x, "high")[:m])
        if group_size == -1:
            assert torch.equal(y, alone(x[:m], "high"))
    assert shares > 0


# Bits, digits, group size and precision of layers whose sums leave the integers inside a row.
CUT_ROWS = [
    (1, "packed", 128, "high"),
    (2, "packed", 32, "high"),
    (4, "packed", 128, "fast"),
    (3, "packed", 128, "high"),
    (2, "planes", -1, "fast"),
]


def test_parts_add_up_in_one_order(emulated: Device) -> None:
    """On some GPUs of a few multiprocessors, warps and blocks divide the same parts of a row otherwise for
    other numbers of tokens: a row's bits are the same."""
    numbers = set()
    for bits, digits, group_size, precision in CUT_ROWS:
        subject = make("planes", 70, 13000, bits, bits=bits, group_size=group_size)
        layer = DeviceBits(emulated, subject, digits=digits)
        x = activations(16, 13000, torch.float32, seed=bits)
        gpus: dict[int, interface.Device] = {}
        for architecture, multiprocessors in itertools.product((80, 90, 100), range(1, 13)):
            layer.gpu = interface.Device(architecture, multiprocessors)
            plans = [layer.explain(m, precision) for m in (1, 4, 8, 16)]
            if len({(plan["input_warps"], plan["splits"]) for plan in plans}) > 1:
                gpus[plans[0]["input_warps"] * plans[0]["splits"]] = layer.gpu
        assert gpus
        for layer.gpu in gpus.values():
            together = layer(x, precision)
            check(subject, x, together, precision)
            for m in (1, 4, 8):
                assert torch.equal(layer(x[-m:], precision), together[-m:])
        numbers |= gpus.keys()
    assert {2, 4, 8} & numbers
    assert {6, 12} & numbers  # not all of them can be added in pairs


@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("columns", [8, 16, 24])
@pytest.mark.parametrize("group_size", [-1, 128, 32])
def test_every_loop(emulated: Device, group_size: int, columns: int, precision: str) -> None:
    """Digits of 1, 2 and 4 bits, of several widths, planes up to 4 and more; one tile of columns or two."""
    m = columns if precision == "fast" else columns // 2
    for bits, plan in (
        (1, "packed"),
        (2, "packed"),
        (4, "packed"),
        (7, "packed"),
        (3, "planes"),
        (6, "planes"),
    ):
        subject = make("planes", 17, 1200, bits, bits=bits, group_size=group_size)
        x = activations(m, 1200, torch.float32, seed=bits)
        check(subject, x, DeviceBits(emulated, subject, digits=plan)(x, precision), precision)


@pytest.mark.parametrize(
    ("bits", "plan"),
    [(1, "packed"), (2, "packed"), (4, "packed"), (7, "packed"), (3, "planes"), (6, "planes")],
)
def test_scales_of_the_activations_alone(emulated: Device, bits: int, plan: str) -> None:
    """`fast` where rows have one scale: a token has the same bits for every number of them."""
    subject = make("planes", 37, 2157, bits, bits=bits, group_size=-1)
    layer = DeviceBits(emulated, subject, digits=plan)
    x = activations(17, 2157, torch.float32, seed=bits)
    together = layer(x[:16], "fast")
    for m in range(1, 18):
        y = layer(x[:m], "fast")
        check(subject, x[:m], y, "fast")
        assert m == 17 or torch.equal(y, together[:m])


@pytest.mark.parametrize("activation_bits", [0, 1, 2, 5, 7])
@pytest.mark.parametrize("k", [1, 128, 129, 257, 1025, 2300])
def test_one_bit_by_128(k: int, activation_bits: int) -> None:
    """Sums that are read as subnormal numbers: groups of one size, and last ones of few inputs that are all
    that counts; largest sums, a token whose codes are small but for one, tiny and huge activations."""
    device = load("lowbit_emulated")
    rng = torch.Generator().manual_seed(k)
    codes = torch.randint(0, 2, (17, k), generator=rng).byte()
    codes[:2] = torch.tensor([[0], [1]])
    x = activations(17, k, torch.float32, seed=k)
    x[1::3] = x[1::3].sign()
    x[2::3] = -1 / 64
    x[2::3, 0] = 1
    for last in (1, 1000):
        scales = torch.rand(17, -(-k // 128), generator=rng) + 0.5
        scales[:, -1] *= last
        x[::3, -1] *= last
        layer = planes(codes, 1, scales.half(), 128)
        subject = DeviceBits(device, layer)
        for m, magnitude in ((17, 1.0), (9, 2.0**-90), (9, 2.0**90), (3, 2.0**-118)):
            y = subject(x[:m] * magnitude, "fast", activation_bits=activation_bits)
            check(layer, x[:m] * magnitude, y, "fast", activation_bits=activation_bits)


@pytest.mark.parametrize("activation_bits", [0, 4])
@pytest.mark.parametrize(
    ("scale_dtype", "scale", "magnitude"),
    [
        (torch.float16, 2.0**-24, 2.0**-90),
        (torch.float16, 2.0**-24, 2.0**120),
        (torch.float16, 2.0**15, 2.0**-118),
        (torch.float16, 2.0**15, 2.0**90),
        (torch.bfloat16, 2.0**-120, 2.0**60),
        (torch.bfloat16, 2.0**125, 2.0**-40),
        (torch.float32, 2.0**-124, 2.0**60),
        (torch.float32, 2.0**125, 2.0**-40),
    ],
    ids=str,
)
def test_one_bit_by_128_with_scales_of_any_size(
    scale_dtype: torch.dtype, scale: float, magnitude: float, activation_bits: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    scales = ((torch.rand(17, 3, generator=rng) + 0.5) * scale).to(scale_dtype)
    layer = planes(torch.randint(0, 2, (17, 300), generator=rng).byte(), 1, scales, 128)
    x = activations(9, 300, torch.float32, seed=0) * magnitude
    y = DeviceBits(load("lowbit_emulated"), layer)(x, "fast", activation_bits=activation_bits)
    check(layer, x, y, "fast", activation_bits=activation_bits)


@pytest.mark.parametrize("scale_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group_size", [32, 64, 128, 1024])
def test_dtypes_of_scales_in_every_loop(group_size: int, scale_dtype: torch.dtype) -> None:
    device = load("lowbit_emulated")
    for bits, plan in ((1, "packed"), (2, "packed"), (3, "packed"), (2, "planes")):
        subject = make("planes", 17, 1300, bits, bits=bits, group_size=group_size, scale_dtype=scale_dtype)
        for m in (1, 17):
            x = activations(m, 1300, torch.float32, seed=bits)
            check(subject, x, DeviceBits(device, subject, digits=plan)(x, "high"), "high")


@pytest.mark.parametrize(
    ("bits", "plan"), [(1, "packed"), *itertools.product((2, 4, 8), PLANS)]
)  # of one bit they are the same
def test_largest_sums(bits: int, plan: str) -> None:
    """Codes all ones, activations at the end of their range and of one sign: the sums of a group are as large
    as they get, and accumulators that count as floats must still hold them. In any order of threads."""
    device = load("lowbit_emulated")
    k = 1152  # the last span is a short one
    # 32512 = 256 * 127: the lower column is 0; 32384 + 128 has -128 in it. Both signs of each: six tokens.
    values = torch.tensor([1.0, 32512 / 32639, 32384 / 32639])
    tokens = torch.cat([values, -values])[:, None].repeat(1, k)
    tokens[:, 0] = tokens[:, 0].sign()
    few, others, many = tokens[::2], tokens[1::2], tokens.repeat(3, 1)
    for low, group_size in itertools.product((0, 2**bits - 1), (128, 32)):
        codes = torch.full((16, k), low, dtype=torch.uint8)
        layer = planes(codes, bits, torch.ones(16, k // group_size), group_size)
        subject = DeviceBits(device, layer, digits=plan)
        for x, precision in itertools.product((few, others, many), ("fast", "high")):
            check(layer, x, subject(x, precision), precision)


def test_longest_rows() -> None:
    """8 bits by 8 bits at the most inputs whose integer sums fit, and one more."""
    device = load("lowbit_emulated")
    k = 65536
    layer = planes(torch.full((3, k), 255, dtype=torch.uint8), 8)
    for plan, m in (("packed", 1), ("planes", 1), ("packed", 17)):
        y = DeviceBits(device, layer, digits=plan)(-torch.ones(m, k), "exact", activation_bits=8)
        assert bool(((y / (-255.0 * k) - 1).abs() <= 2.0**-22).all())  # the scale is rounded, the sum is not
    with pytest.raises(DeviceError):
        DeviceBits(device, planes(torch.zeros(1, k + 1, dtype=torch.uint8), 8))(torch.ones(1, k + 1), "high")
    assert "65537 inputs" in last_error(device)


@pytest.mark.parametrize("group_size", [-1, 32, 128])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_has_the_same_bits_for_every_number_of_tokens_and_order(
    group_size: int, precision: str
) -> None:
    device = load("lowbit_emulated")
    x = activations(16, 2100, torch.float32)
    for bits, plan in ((1, "packed"), (2, "packed"), (4, "packed"), (7, "packed"), (6, "planes")):
        subject = DeviceBits(device, make("planes", 20, 2100, bits=bits, group_size=group_size), digits=plan)
        together = subject(x, precision)
        for m in (1, 3, 9):
            assert torch.equal(subject(x[-m:], precision), together[-m:])
        device.set_order(True)
        try:
            assert torch.equal(subject(x, precision), together)
        finally:
            device.set_order(False)


def test_many_tokens_agree_with_few_on_whole_rows(emulated: Device) -> None:
    """Sums of whole rows are integers: it cannot matter which kernel forms them."""
    x = activations(65, 1500, torch.float32)
    for bits, plan in ((1, "packed"), (4, "packed"), (7, "packed"), (3, "planes")):
        subject = DeviceBits(emulated, make("planes", 140, 1500, bits=bits, group_size=-1), digits=plan)
        many = subject(x, "high")
        for first in (0, 30, 60):
            few = x[first : first + 5]
            assert torch.equal(many[first : first + 5], subject(few, "high"))
