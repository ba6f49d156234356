"""Family signs on the emulated device: BinaryMoS, OneBit, group scales, signs alone; layers and segments."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS, Signs
from torch import Tensor

from tests.cuda.bits import A100, DeviceBits, describe, last_error, reference
from tests.cuda.codebook import DTYPE_CODES, Matrix, Vector
from tests.emulated.device import Device, DeviceError, load
from tests.ops.cases import DTYPES, Layer, activations, check, make

TOKENS = (1, 2, 5, 8, 9, 16, 17, 33)
# (kind, group_size): "signs" has scales per group, -1 per row.
KINDS = {
    "mos": ("mos", -1),
    "onebit": ("onebit", -1),
    "row scales": ("signs", -1),
    "Q1_0": ("signs", 128),
    "groups of 32": ("signs", 32),
    "groups of 96": ("signs", 96),
    "groups of 256": ("signs", 256),
}


def layer(kind: str, n: int, k: int, seed: int = 0, **options: object) -> Layer:
    name, group_size = KINDS[kind]
    return make(name, n, k, seed, group_size=group_size, **options)  # type: ignore[arg-type]


def plain(n: int, k: int, seed: int = 0) -> Layer:
    """Signs alone: no scales of any kind."""
    packed = make("signs", n, k, seed, group_size=-1).packed
    assert isinstance(packed, Signs)
    return Layer(Signs(packed.weight, k), None)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(emulated: Device, kind: str, precision: str) -> None:
    for n, k, m in ((1, 1, 1), (33, 77, 3), (40, 1100, 2), (16, 257, 17)):
        subject, x = layer(kind, n, k), activations(m, k, torch.float32, seed=m)
        check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m", TOKENS)
def test_tokens(emulated: Device, m: int, precision: str) -> None:
    for kind in ("mos", "Q1_0"):
        subject, x = layer(kind, 35, 300), activations(m, 300, torch.float16, seed=m)
        check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale_dtype", DTYPES, ids=str)
def test_dtypes(emulated: Device, dtype: torch.dtype, scale_dtype: torch.dtype) -> None:
    for kind in ("mos", "Q1_0"):
        subject = layer(kind, 18, 130, scale_dtype=scale_dtype)
        for precision in PRECISIONS:
            x = activations(3, 130, dtype)
            check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_signs_alone(emulated: Device, precision: str) -> None:
    subject, x = plain(21, 150), activations(4, 150, torch.float32)
    check(subject, x, DeviceBits(emulated, subject)(x, precision), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["mos", "onebit", "Q1_0"])
def test_segments(emulated: Device, kind: str, precision: str) -> None:
    """Queries, keys and values: rows that fill no tile, one result side by side."""
    k = 200
    layers = [layer(kind, n, k, seed) for seed, n in enumerate((50, 17, 16, 1))]
    x = activations(3, k, torch.float16)
    y = DeviceBits(emulated, *layers)(x, precision, y_gap=7)
    column = 0
    for part in layers:
        check(part, x, y[:, column : column + part.n], precision)
        column += part.n


def test_segments_of_all_sorts(emulated: Device) -> None:
    """What one launch cannot serve takes several: other units, other dtypes, more than eight segments."""
    k, narrow, wide = 160, torch.bfloat16, torch.float32
    layers = [layer(kind, 20, k) for kind in ("onebit", "mos")]
    layers += [layer("mos", 9 + i, k, i, scale_dtype=narrow) for i in range(9)]
    layers += [layer("row scales", 12, k), layer("row scales", 13, k, scale_dtype=wide)]
    layers += [layer("Q1_0", 3, k), layer("groups of 32", 17, k)]
    x = activations(2, k, torch.float32)
    y = DeviceBits(emulated, *layers)(x, "high")
    column = 0
    for part in layers:
        check(part, x, y[:, column : column + part.n], "high")
        column += part.n


@pytest.mark.parametrize("strides", ["rows apart", "one row"])
def test_strides(emulated: Device, strides: str) -> None:
    subject = layer("mos", 19, 77)
    for dtype in (torch.float32, torch.float16):
        x = activations(4, 77, dtype, strides=strides)
        check(subject, x, DeviceBits(emulated, subject)(x, "high", y_gap=3), "high")


def test_other_dtype_of_the_result(emulated: Device) -> None:
    subject, x = layer("mos", 19, 77), activations(2, 77, torch.float16)
    narrow = DeviceBits(emulated, subject)(x, "high")
    wide = DeviceBits(emulated, subject)(x, "high", y_dtype=torch.float32)
    assert torch.equal(wide.half(), narrow)


def test_more_tokens_than_a_turn_takes() -> None:
    subject, x = layer("mos", 3, 20), activations(4100, 20, torch.float16)
    check(subject, x, DeviceBits(load("lowbit_emulated"), subject)(x, "fast", y_gap=1), "fast")


def test_no_tokens(emulated: Device) -> None:
    for precision in PRECISIONS:
        y = DeviceBits(emulated, layer("mos", 5, 40))(torch.zeros(0, 40), precision)
        assert y.shape == (0, 5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_token(emulated: Device, bad: float, precision: str) -> None:
    for kind in ("mos", "Q1_0", "row scales"):
        subject, x = layer(kind, 20, 140), activations(3, 140, torch.float32)
        x[1, 139] = bad
        y = DeviceBits(emulated, subject)(x, precision)
        assert bool(y[1].isnan().all())
        check(subject, x[::2], y[::2], precision)


def test_gates_that_are_no_numbers(emulated: Device) -> None:
    """Finite activations whose logits overflow: the token is NaN, as in fp32 arithmetic it is."""
    subject = layer("mos", 20, 64)
    packed = subject.packed
    assert isinstance(packed, Signs)
    assert packed.router is not None
    subject.packed = replace(packed, router=torch.full_like(packed.router, 60000.0))
    x = torch.full((2, 64), 1e35)
    x[0] = 1.0
    y = DeviceBits(emulated, subject)(x, "high")
    assert bool(y[1].isnan().all())
    assert bool(y[0].isfinite().all())


def rows_alone(subject: DeviceBits, x: Tensor, precision: str) -> Iterator[Tensor]:
    for m in range(x.shape[0]):
        yield subject(x[m : m + 1], precision)[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["mos", "Q1_0", "groups of 32"])
@pytest.mark.parametrize("gpu", [interface.Device(90, 132), A100], ids=["H100", "A100"])
def test_rows_have_the_same_bits_for_every_number_of_tokens(
    emulated: Device, gpu: interface.Device, kind: str, precision: str
) -> None:
    # Three spans of inputs: the order in which their sums meet is a partition's.
    subject = DeviceBits(emulated, layer(kind, 33, 2500), gpu=gpu)
    x = activations(16, 2500, torch.float32)
    together = subject(x, precision)
    for m in (1, 2, 7, 8, 9):
        assert torch.equal(subject(x[:m], precision), together[:m])
    assert torch.equal(subject(x[9:10], precision)[0], together[9])


def test_both_orders_give_the_same_bits() -> None:
    device = load("lowbit_emulated")
    for kind in ("mos", "Q1_0"):
        for precision in PRECISIONS:
            subject, x = DeviceBits(device, layer(kind, 40, 1300)), activations(5, 1300, torch.float32)
            forward = subject(x, precision)
            device.set_order(True)
            backward = subject(x, precision)
            device.set_order(False)
            assert torch.equal(forward, backward)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_as_it_was(emulated: Device, kind: str) -> None:
    for n, k in ((1, 1), (17, 1030), (40, 384)):
        subject = layer(kind, n, k)
        packed = subject.packed
        assert isinstance(packed, Signs)
        weight, scales, _ = DeviceBits(emulated, subject).restored()
        assert torch.equal(weight, packed.weight)
        assert scales is None if packed.scales is None else torch.equal(scales, packed.scales)


def test_two_launches() -> None:
    """Router, both scale mixes and the product of fused segments."""
    device = load("lowbit_emulated")
    layers = [layer("mos", n, 200, n) for n in (50, 17, 17)]
    x = activations(3, 200, torch.float16)
    subject = DeviceBits(device, *layers)
    for precision in PRECISIONS:
        before = device.library.lowbit_emulated_launches()
        subject(x, precision)
        assert device.library.lowbit_emulated_launches() - before == 2


@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(KINDS)),
    n=st.integers(1, 50),
    k=st.integers(1, 300),
    m=st.integers(0, 18),
    dtype=st.sampled_from(DTYPES),
    precision=st.sampled_from(PRECISIONS),
    gpu=st.sampled_from([(90, 132), (80, 108), (120, 170), (89, 1)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_shape(
    kind: str, n: int, k: int, m: int, dtype: torch.dtype, precision: str, gpu: tuple[int, int], seed: int
) -> None:
    device = load("lowbit_emulated")
    subject, x = layer(kind, n, k, seed), activations(m, k, dtype, seed)
    check(subject, x, DeviceBits(device, subject, gpu=interface.Device(*gpu))(x, precision), precision)


class Call:
    """A valid call, of which single arguments can be spoilt."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.subject = DeviceBits(device, layer("mos", 20, 64))
        self.gpu = interface.Device(90, 132)
        self.segments, self.count, self.precision = self.subject.structs, 1, 1
        self.values = {
            "x": device.array(torch.ones(2, 64)),
            "y": device.empty((2, 20)),
            "bias": device.array(torch.ones(20)),
        }
        self.x = Matrix(self.values["x"].address, 0, 2, 64, 64)
        self.y = Matrix(self.values["y"].address, 0, 2, 20, 20)
        self.bias = Vector(self.values["bias"].address, DTYPE_CODES[torch.float32], 20)
        self.workspace_bytes = self.subject.workspace(2, "high")
        self.workspace = device.empty(self.workspace_bytes, torch.uint8)
        self.workspace_address = self.workspace.address

    def run(self) -> str:
        try:
            self.device.run(
                "lowbit_cuda_signs_linear", reference(self.gpu), self.segments, self.count, reference(self.x),
                reference(self.bias), self.precision, reference(self.y), self.workspace_address,
                self.workspace_bytes, 0,
            )  # fmt: skip
        except DeviceError:
            return last_error(self.device)
        return ""


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("", ""),
        ("gpu.architecture = 75", "the GPU has compute capability 7.5; the CUDA kernels need 8.0 or newer"),
        ("gpu.multiprocessors = 0", "device.multiprocessors is 0; allowed: 1 to 2147483647"),
        ("count = 0", "num_segments is 0; allowed: 1 to 2147483647"),
        ("segments = None", "segments is a null pointer"),
        ("precision = 3", "precision is 3; allowed: 0 to 2"),
        ("x.dtype = 7", "x has dtype 7; allowed: 0 (fp32), 1 (fp16), 2 (bf16)"),
        ("x.rows = -1", "x has -1 rows; allowed: 0 or more"),
        ("x.cols = 63", "x has 63 columns; allowed: 64, the in_features of the weight"),
        ("x.data = None", "x.data is a null pointer"),
        ("y.cols = 21", "y is [2, 21]; allowed: [2, 20]"),
        ("y.row_stride = 19", "y has row_stride 19; allowed: at least its 20 columns"),
        ("y.dtype = -1", "y has dtype -1; allowed: 0 (fp32), 1 (fp16), 2 (bf16)"),
        ("bias.size = 19", "bias has 19 values; allowed: 20"),
        ("workspace_bytes = 16", "workspace has 16 bytes; allowed: "),
        ("workspace_address = 0", "workspace is a null pointer"),
        ("workspace_address += 4", "allowed: multiples of 16"),
        ("segments[0].experts = 33", "segment 0 has 33 experts; allowed: 0 to 32"),
        ("segments[0].experts = -1", "segment 0 has -1 experts; allowed: 0 to 32"),
        ("segments[0].router = None", "segment 0 has 4 experts, but router is a null pointer"),
        ("segments[0].in_scales = None", "segment 0 has 4 experts, but in_scales is a null pointer"),
        ("segments[0].out_scales = None", "segment 0 has 4 experts, but out_scales is a null pointer"),
        (
            "segments[0].out_scales_stride = 19",
            "segment 0 has out_scales_stride 19; allowed: at least its 20",
        ),
        ("segments[0].dtype = 5", "segment 0 has dtype 5; allowed"),
        ("segments[0].bits.tiles = None", "segment 0: tiles is a null pointer"),
        (
            "segments[0].bits.out_features = 0",
            "segment 0 has 0 outputs and 64 inputs; allowed: 1 or more of each",
        ),
        ("segments[0].bits.in_features = 65537", "65537 inputs; allowed: up to 1073741824 and 65536"),
        (
            "segments[0].bits.group_size = 33",
            "segment 0 has group_size 33; allowed: -1 or a positive multiple of 32",
        ),
        ("segments[0].bits.bits = 2", "segment 0 has 2 bits, but its digits have 1"),
        ("segments[0].bits.bits = 9", "segment 0 has 9 bits; allowed: 1 to 8"),
        ("segments[0].bits.num_digits = 9", "segment 0 has 9 digits; allowed: 1 to 8"),
        ("segments[0].bits.digits[0] = 3", "segment 0 has a digit of 3 bits; allowed: 1, 2 or 4"),
    ],
)
def test_errors(spoil: str, sentence: str) -> None:
    call = Call(load("lowbit_emulated"))
    if spoil:
        exec(f"call.{spoil}", {"call": call})
    said = call.run()
    assert (sentence in said) if sentence else said == ""


def test_errors_between_segments() -> None:
    device = load("lowbit_emulated")
    size = ctypes.c_size_t()
    structs = (interface.Signs * 2)(interface.Signs(describe(8, 64)), interface.Signs(describe(8, 65)))
    arguments = (reference(A100), structs, 2, 1, 1, reference(size))
    with pytest.raises(DeviceError):
        device.run("lowbit_cuda_signs_workspace", *arguments)
    assert last_error(device) == "segment 1 has 65 inputs; allowed: 64, as segment 0"
    structs[1] = interface.Signs(describe(8, 64, (2,)))
    with pytest.raises(DeviceError):
        device.run("lowbit_cuda_signs_workspace", *arguments)
    assert last_error(device) == "segment 1 has 2 bits; allowed: 1"
