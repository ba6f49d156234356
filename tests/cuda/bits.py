"""The C entries of the families `signs` and `planes` through ctypes, for layers of tests/ops/cases.py."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from ctypes import c_char_p, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS, Planes, Signs
from torch import Tensor

from tests.cuda.codebook import DTYPE_CODES, Matrix, Vector
from tests.emulated.device import Device, DeviceArray
from tests.ops.cases import Layer

H100 = interface.Device(90, 132)
A100 = interface.Device(80, 108)
FORMS = ("columns", "planes", "floats", "halves")


class StagedStruct(ctypes.Structure):
    _fields_ = [
        ("form", c_int32),
        ("sets", c_int32),
        ("per_token", c_int32),
        ("scale_groups", c_int32),
        ("units", c_int32),
        ("experts", c_int32),
        ("tokens", c_int64),
        ("padded_inputs", c_int64),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("totals", c_void_p),
        ("gates", c_void_p),
    ]


@dataclass
class Staged:
    """Activations as a product sees them, read back to the host. Per set; inputs in their own order."""

    form: str
    values: Tensor  # int64 [sets, M, K] (columns, planes), float32 (floats) or float16 (halves)
    padding: Tensor  # what lies beyond K, the same way
    scales: Tensor | None  # [sets, M, groups]
    sums: Tensor | None  # [sets, M, units]
    totals: Tensor | None  # int64 [sets, M]
    gates: Tensor | None  # [sets, M, experts]


def digits_of(bits: int, plan: str) -> list[int]:
    """`packed`: as few digits as there are; `planes`: one bit each."""
    if plan == "planes":
        return [1] * bits
    return {1: [1], 2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [4, 4]}[bits]


def describe(n: int, k: int, digits: Sequence[int] = (1,), group_size: int = -1) -> interface.Bits:
    """A weight without pointers: enough to choose a kernel for it."""
    return interface.Bits(n, k, sum(digits), len(digits), (c_int32 * 8)(*digits), group_size)


def reference(array: Any) -> Any:
    return ctypes.byref(array)


class DeviceBits:
    """Layers over bits in the memory of the device, as segments of one call."""

    def __init__(
        self,
        device: Device,
        *layers: Layer,
        digits: str = "packed",
        gpu: interface.Device = H100,
    ) -> None:
        self.device, self.layers, self.digits, self.gpu = device, layers, digits, gpu
        self.arrays: list[DeviceArray] = []
        self.structs = (interface.Signs * len(layers))(*(self._struct(layer.packed) for layer in layers))
        biases = [layer.bias for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers))
        self.bias = torch.cat(biases) if biases else None
        self.n, self.k = sum(layer.n for layer in layers), layers[0].k

    def put(self, values: Tensor | None) -> int | None:
        if values is None:
            return None
        self.arrays.append(self.device.array(values.contiguous()))
        return self.arrays[-1].address

    def _struct(self, packed: Any) -> interface.Signs:
        assert isinstance(packed, Signs | Planes)
        bits = 1 if isinstance(packed, Signs) else packed.bits
        n, k = packed.out_features, packed.in_features
        struct = interface.Signs(describe(n, k, digits_of(bits, self.digits), packed.group_size))
        self._repack(struct.bits, packed)
        if isinstance(packed, Signs) and packed.in_scales is not None and packed.out_scales is not None:
            struct.experts = packed.experts
            struct.router = self.put(packed.router)
            struct.in_scales, struct.out_scales = self.put(packed.in_scales), self.put(packed.out_scales)
            struct.out_scales_stride = n
            struct.dtype = DTYPE_CODES[packed.in_scales.dtype]
        return struct

    def _repack(self, bits: interface.Bits, packed: Signs | Planes) -> None:
        tiles, scales = sizes(self.device, bits)
        target = self.device.empty(tiles, torch.uint8)
        self.device.run("lowbit_cuda_repack_bits", reference(bits), self._source(packed.weight), target, 0)
        bits.tiles = self._keep(target)
        if packed.scales is not None:
            bits.scales_dtype = DTYPE_CODES[packed.scales.dtype]
            target = self.device.empty(scales, packed.scales.dtype)
            self.device.run(
                "lowbit_cuda_repack_scales", reference(bits), self._source(packed.scales), target, 0
            )
            bits.scales = self._keep(target)
        if isinstance(packed, Planes) and packed.offsets is not None:
            target = self.device.empty(scales, torch.int16)
            self.device.run(
                "lowbit_cuda_repack_offsets", reference(bits), self._source(packed.offsets), target, 0
            )
            bits.offsets = self._keep(target)

    def _source(self, values: Tensor) -> DeviceArray:
        self.arrays.append(self.device.array(values.contiguous()))
        return self.arrays[-1]

    def _keep(self, array: DeviceArray) -> int:
        self.arrays.append(array)
        return array.address

    def restored(self, segment: int = 0) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Canonical weight, scales and offsets, back from the layout of the kernels."""
        bits, packed = self.structs[segment].bits, self.layers[segment].packed
        assert isinstance(packed, Signs | Planes)
        found: list[Tensor | None] = []
        for name, tensor, address in (
            ("bits", packed.weight, bits.tiles),
            ("scales", packed.scales, bits.scales),
            ("offsets", getattr(packed, "offsets", None), bits.offsets),
        ):
            if tensor is None:
                found.append(None)
                continue
            target = self.device.empty(tuple(tensor.shape), tensor.dtype)
            self.device.run(f"lowbit_cuda_restore_{name}", reference(bits), c_void_p(address), target, 0)
            found.append(target.tensor())
        return found[0], found[1], found[2]  # type: ignore[return-value]

    def _matrix(self, x: Tensor) -> tuple[Matrix, DeviceArray]:
        """x in device memory with the stride that its rows have."""
        assert x.shape[1] <= 1 or x.stride(1) == 1
        m, k = x.shape
        stride = x.stride(0) if m > 1 else k
        reach = (m - 1) * stride + k if m else 0
        copy = self.device.array(x.as_strided((reach,), (1,)) if reach else x.reshape(0))
        return Matrix(copy.address, DTYPE_CODES[x.dtype], m, k, stride), copy

    def workspace(self, tokens: int, precision: str, active_bits: int = 0, activation_bits: int = 0) -> int:
        size = c_size_t()
        code = PRECISIONS.index(precision)
        gpu, first = reference(self.gpu), reference(self.structs[0].bits)
        if self.is_planes:
            self.device.run(
                "lowbit_cuda_planes_workspace", gpu, first, active_bits or self.structs[0].bits.bits, tokens,
                activation_bits, code, reference(size),
            )  # fmt: skip
        else:
            self.device.run(
                "lowbit_cuda_signs_workspace",
                gpu,
                self.structs,
                len(self.layers),
                tokens,
                code,
                reference(size),
            )
        return size.value

    @property
    def is_planes(self) -> bool:
        return isinstance(self.layers[0].packed, Planes)

    def __call__(
        self,
        x: Tensor,
        precision: str,
        *,
        active_bits: int | None = None,
        activation_bits: int = 0,
        y_dtype: torch.dtype | None = None,
        y_gap: int = 0,
    ) -> Tensor:
        """y, whose rows lie `y_gap` elements apart; the gap must stay as it is."""
        m, dtype = x.shape[0], y_dtype or x.dtype
        active = active_bits or self.structs[0].bits.bits
        size = self.workspace(m, precision, active, activation_bits)
        workspace = self.device.empty(size, torch.uint8)
        matrix, held = self._matrix(x)
        wide = self.n + y_gap
        y = self.device.empty((m, wide), dtype)
        untouched = y.view[:, self.n :].clone()
        result = Matrix(y.address, DTYPE_CODES[dtype], m, self.n, wide)
        bias, vector = None, None
        if self.bias is not None:
            bias = self.device.array(self.bias)
            vector = reference(Vector(bias.address, DTYPE_CODES[self.bias.dtype], self.n))
        code = PRECISIONS.index(precision)
        end = (reference(result), workspace, size, 0)
        if self.is_planes:
            self.device.run(
                "lowbit_cuda_planes_linear", reference(self.gpu), reference(self.structs[0].bits), active,
                reference(matrix), activation_bits, vector, code, *end,
            )  # fmt: skip
        else:
            self.device.run(
                "lowbit_cuda_signs_linear", reference(self.gpu), self.structs, len(self.layers),
                reference(matrix), vector, code, *end,
            )  # fmt: skip
        assert torch.equal(y.view[:, self.n :].view(torch.uint8), untouched.view(torch.uint8))
        del held, bias
        return y.tensor()[:, : self.n]

    def explain(
        self, tokens: int, precision: str, active_bits: int = 0, activation_bits: int = 0
    ) -> dict[str, Any]:
        active = active_bits or self.structs[0].bits.bits
        return explain(self.device, self.structs, tokens, precision, active, activation_bits, self.gpu)

    def stage(
        self, x: Tensor, precision: str, *, active_bits: int | None = None, activation_bits: int = 0
    ) -> Staged:
        active = active_bits or self.structs[0].bits.bits
        size = self.workspace(x.shape[0], precision, active, activation_bits)
        workspace = self.device.empty(size, torch.uint8)
        matrix, _held = self._matrix(x)
        staged, code = StagedStruct(), PRECISIONS.index(precision)
        self.device.run(
            "lowbit_cuda_stage", reference(self.gpu), self.structs, len(self.layers), active,
            reference(matrix), activation_bits, code, reference(staged), workspace, size, 0,
        )  # fmt: skip
        return read_staged(staged, self.k, activation_bits)


def sizes(device: Device, bits: interface.Bits) -> tuple[int, int]:
    tiles, scales = c_size_t(), c_size_t()
    device.run("lowbit_cuda_bits_sizes", reference(bits), reference(tiles), reference(scales))
    return tiles.value, scales.value


def explain(
    device: Device,
    structs: Any,
    tokens: int,
    precision: str,
    active_bits: int = 1,
    activation_bits: int = 0,
    gpu: interface.Device = H100,
) -> dict[str, Any]:
    """The object that lowbit_cuda_explain writes, for an array of segments."""
    length = c_size_t()
    text = ctypes.create_string_buffer(4096)
    device.run(
        "lowbit_cuda_explain", reference(gpu), structs, len(structs), active_bits, tokens, activation_bits,
        PRECISIONS.index(precision), text, 4096, reference(length),
    )  # fmt: skip
    assert length.value == len(text.value) + 1
    found: dict[str, Any] = json.loads(text.value)
    return found


def last_error(device: Device) -> str:
    entry = device.library.lowbit_cuda_last_error
    entry.restype = c_char_p
    return str(entry().decode())


def _view(address: int, dtype: torch.dtype, *shape: int) -> Tensor:
    memory = (ctypes.c_char * (torch.Size(shape).numel() * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def _read(address: int | None, dtype: torch.dtype, *shape: int) -> Tensor | None:
    if not address or torch.Size(shape).numel() == 0:
        return None
    return _view(address, dtype, *shape).clone()


class Matmul:
    """The caller's matrix product: torch's, with sums in fp32. Keeps what it is given."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.products: list[tuple[Tensor, Tensor]] = []
        self._entry = interface.MATMUL(self._multiply)

    def device(self, multiprocessors: int = 132) -> interface.Device:
        return interface.Device(90, multiprocessors, ctypes.cast(self._entry, c_void_p))

    def _multiply(self, _context: int | None, pointer: Any) -> int:
        product = pointer.contents
        a = _view(product.a, torch.float16, product.a_rows, product.inputs)
        b = _view(product.b, torch.float16, product.b_rows, product.inputs)
        self.products.append((a.clone(), b.clone()))
        _view(product.c, torch.float32, product.a_rows, product.b_rows).copy_(a.float() @ b.float().T)
        return self.status


def _read_tokens(address: int | None, sets: int, tokens: int, each: int) -> Tensor | None:
    """[sets, tokens, each]"""
    if each == 1:
        return _read(address, torch.float32, sets, tokens, 1)
    tiles = _read(address, torch.float32, sets, -(-tokens // 8), each // 4, 8, 4)
    return None if tiles is None else tiles.transpose(2, 3).reshape(sets, -1, each)[:, :tokens]


def read_staged(staged: StagedStruct, k: int, activation_bits: int) -> Staged:
    """Undoes the orders that lowbit_cuda.h describes, by its formulas."""
    form, sets, m, wide = FORMS[staged.form], staged.sets, staged.tokens, staged.padded_inputs
    inputs = torch.arange(wide)
    if form == "columns":
        count = m * staged.per_token
        raw = _read(staged.codes, torch.int8, sets, -(-count // 8), wide // 128, 2, 8, 4, 2, 8)
        assert raw is not None
        tiles = raw.permute(0, 1, 4, 2, 3, 6, 5, 7).reshape(sets, -1, wide)
        columns = tiles[:, :count].reshape(sets, m, staged.per_token, wide).long()
        values = columns[:, :, 0] if staged.per_token == 1 else 256 * columns[:, :, 0] + columns[:, :, 1]
        totals = _read(staged.totals, torch.int32, sets, m, staged.per_token)
        if totals is not None:
            assert torch.equal(totals.long(), columns.sum(dim=-1))
            totals = totals.long() @ torch.tensor([1] if staged.per_token == 1 else [256, 1])
    elif form == "planes":
        raw = _read(staged.codes, torch.int32, sets, m, staged.per_token, wide // 32)
        assert raw is not None
        s, f, q, t = inputs // 1024, inputs // 128 % 8, inputs // 32 % 4, inputs // 8 % 4
        h, i = inputs // 4 % 2, inputs % 4
        bits = (raw[..., 32 * s + 8 * q + 2 * t + h].long() >> (8 * i + f)) & 1
        powers = 1 << torch.arange(staged.per_token)
        if activation_bits:
            powers *= 2
            powers[-1] = -(2**activation_bits - 1)
        else:
            powers[-1] *= -1
        values = (bits * powers[:, None]).sum(dim=2)
        totals = _read(staged.totals, torch.int64, sets, m)
    elif form == "halves":
        raw = _read(staged.codes, torch.float16, sets, m, wide)
        assert raw is not None
        values, totals = raw, None
    else:
        raw = _read(staged.codes, torch.float32, sets, m, wide)
        assert raw is not None
        values, totals = raw, None
    return Staged(
        form,
        values[..., :k],
        values[..., k:],
        _read_tokens(staged.scales, sets, m, staged.scale_groups),
        _read_tokens(staged.sums, sets, m, staged.units),
        totals,
        _read(staged.gates, torch.float32, sets, m, staged.experts),
    )
