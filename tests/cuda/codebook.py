"""The C entries of the family `codebook` through ctypes, for layers of tests/ops/cases.py."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_size_t, c_void_p

import torch
from lowbit.backends import cuda_interface as interface
from lowbit.formats import PRECISIONS, CodebookChannel, CodebookScalar, CodebookVector
from torch import Tensor

from tests.emulated.device import Device, DeviceArray
from tests.ops.cases import Layer, half_ulp

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Matrix(ctypes.Structure):
    """lowbit_input and lowbit_output."""

    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_int32),
        ("rows", c_int64),
        ("cols", c_int64),
        ("row_stride", c_int64),
    ]


class Vector(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int32), ("size", c_int64)]


class DeviceLayer:
    """A packed layer in the memory of the device, repacked."""

    def __init__(self, device: Device, layer: Layer) -> None:
        self.device, self.layer = device, layer
        self.arrays: list[DeviceArray] = []
        packed = layer.packed
        if isinstance(packed, CodebookScalar):
            self.kind, self.struct = "scalar", self._scalar(packed)
        elif isinstance(packed, CodebookChannel):
            self.kind, self.struct = "channel", self._channel(packed)
        else:
            assert isinstance(packed, CodebookVector)
            self.kind, self.struct = "vector", self._vector(packed)

    def put(self, values: Tensor | None) -> int | None:
        """Address of a copy on the device that lives as long as the layer."""
        if values is None:
            return None
        # torch has no uint16 arithmetic, and numpy no bfloat16: the bytes alone count here.
        if values.dtype == torch.uint16:
            values = values.view(torch.int16)
        self.arrays.append(self.device.array(values.contiguous()))
        return self.arrays[-1].address

    def _repack(self, struct: ctypes.Structure, canonical: Tensor, kind: str) -> None:
        size = c_size_t()
        self.device.run(f"lowbit_cuda_codebook_{kind}_size", ctypes.byref(struct), ctypes.byref(size))
        packed = self.device.empty(size.value, torch.uint8)
        self.arrays.append(packed)
        source = self.device.array(canonical.contiguous())
        self.device.run(
            f"lowbit_cuda_repack_codebook_{kind}", ctypes.byref(struct), source, packed, c_void_p()
        )
        struct.packed = packed.address

    def _scalar(self, packed: CodebookScalar) -> interface.Scalar:
        struct = interface.Scalar(packed.out_features, packed.in_features, packed.bits)
        struct.tables, struct.tables_dtype = self.put(packed.tables), DTYPE_CODES[packed.tables.dtype]
        if packed.outlier_values is not None:
            struct.outlier_offsets = self.put(packed.outlier_offsets)
            struct.outlier_columns = self.put(packed.outlier_columns)
            struct.outlier_values = self.put(packed.outlier_values)
            struct.outlier_values_dtype = DTYPE_CODES[packed.outlier_values.dtype]
        self._repack(struct, packed.weight, "scalar")
        return struct

    def _channel(self, packed: CodebookChannel) -> interface.Channel:
        struct = interface.Channel(packed.out_features, packed.in_features, packed.axis, packed.clusters)
        struct.weight, struct.dtype = self.put(packed.weight), DTYPE_CODES[packed.weight.dtype]
        struct.labels, struct.label_bytes = self.put(packed.labels), packed.labels.dtype.itemsize
        struct.rank = packed.rank
        struct.low_rank_out, struct.low_rank_in = self.put(packed.low_rank_out), self.put(packed.low_rank_in)
        if packed.axis == 1:
            order = self.device.empty(packed.clusters + 1 + packed.in_features, torch.int32)
            self.arrays.append(order)
            self.device.run("lowbit_cuda_order_codebook_channel", ctypes.byref(struct), order, c_void_p())
            struct.order = order.address
        return struct

    def _vector(self, packed: CodebookVector) -> interface.Vector:
        books, size = packed.weight.shape[0], packed.vector_size
        struct = interface.Vector(packed.out_features, packed.in_features, books, size)
        struct.codebooks, struct.dtype = self.put(packed.codebooks), DTYPE_CODES[packed.codebooks.dtype]
        struct.out_scales = self.put(packed.out_scales)
        self._repack(struct, packed.weight, "vector")
        return struct

    def restored(self) -> Tensor:
        """The canonical codes back from the device's layout."""
        codes = self.layer.packed.tensors()["weight"]
        out = self.device.empty(tuple(codes.shape), codes.dtype)
        self.device.run(
            f"lowbit_cuda_restore_codebook_{self.kind}", ctypes.byref(self.struct), out, c_void_p()
        )
        return out.tensor()

    def linear(
        self,
        x: Tensor,
        precision: str,
        multiprocessors: int = 4,
        architecture: int = 90,
        apart: int = 0,
        gpu: interface.Device | None = None,
    ) -> Tensor:
        """y of x, whose rows are `apart` elements further apart than they are long (and misaligned then)."""
        device, n, (m, k) = self.device, self.layer.n, x.shape
        info = gpu or interface.Device(architecture, multiprocessors)
        code = c_int32(PRECISIONS.index(precision))
        size = c_size_t()
        device.run(
            f"lowbit_cuda_codebook_{self.kind}_workspace",
            ctypes.byref(info),
            ctypes.byref(self.struct),
            m,
            code,
            ctypes.byref(size),
        )
        wide = torch.full((m, k + apart), torch.nan, dtype=x.dtype)
        wide[:, apart:] = x
        x_memory = device.array(wide)
        y_memory = device.empty((m, n + apart), x.dtype, alignment=x.dtype.itemsize)
        before = y_memory.tensor()
        workspace = device.empty(size.value, torch.uint8)
        bias = self.layer.bias
        bias_memory = device.array(bias) if bias is not None else None
        itemsize = x.dtype.itemsize
        x_struct = Matrix(x_memory.address + apart * itemsize, DTYPE_CODES[x.dtype], m, k, k + apart)
        y_struct = Matrix(y_memory.address, DTYPE_CODES[x.dtype], m, n, n + apart)
        bias_struct = (
            Vector(bias_memory.address, DTYPE_CODES[bias.dtype], n)
            if bias_memory is not None and bias is not None
            else Vector()
        )
        device.run(
            f"lowbit_cuda_codebook_{self.kind}_linear",
            ctypes.byref(info),
            ctypes.byref(self.struct),
            ctypes.byref(x_struct),
            ctypes.byref(bias_struct),
            code,
            ctypes.byref(y_struct),
            workspace,
            c_size_t(size.value),
            c_void_p(),
        )
        y = y_memory.tensor()
        assert same_bits(y[:, n:], before[:, n:]), "written between the rows of y"
        return y[:, :n].clone()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def assert_close(y: Tensor, reference: Tensor, bound: Tensor, halves: int = 1) -> None:
    """|y - reference| <= bound + so many halves of an ulp of y's dtype, element by element."""
    assert y.shape == reference.shape
    excess = (y.double() - reference).abs() - bound - halves * half_ulp(reference.abs() + bound, y.dtype)
    assert bool((excess <= 0).all()), f"excess {excess.max():.3e}, bound {bound.max():.3e}"
