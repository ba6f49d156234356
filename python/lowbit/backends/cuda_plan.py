"""Which CUDA kernel a product runs with, as the library itself says; no GPU is needed to ask.

The structures are those of csrc/include/lowbit_cuda.h. Of a weight only its description is looked at, and
which of its tensors there are.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from ctypes import c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowbit._build import LIBRARIES
from lowbit.backends.base import KernelChoice

LIBRARY = LIBRARIES / "liblowbit_cuda.so"
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SOME_ADDRESS = 256  # of a tensor that is there
_CAPACITY = 1 << 14

Arguments = Mapping[str, Any]


class Gpu(NamedTuple):
    """`architecture` is 10 * major + minor compute capability."""

    architecture: int
    multiprocessors: int


class _Device(ctypes.Structure):
    _fields_ = (("architecture", c_int32), ("multiprocessors", c_int32))


class _Bits(ctypes.Structure):
    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("bits", c_int32),
        ("num_digits", c_int32),
        ("digits", c_int32 * 8),
        ("group_size", c_int64),
        ("tiles", c_void_p),
        ("scales", c_void_p),
        ("scales_dtype", c_int32),
        ("offsets", c_void_p),
    )


class _Signs(ctypes.Structure):
    _fields_ = (
        ("bits", _Bits),
        ("experts", c_int32),
        ("router", c_void_p),
        ("in_scales", c_void_p),
        ("out_scales", c_void_p),
        ("out_scales_stride", c_int64),
        ("dtype", c_int32),
    )


class _Channel(ctypes.Structure):
    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("axis", c_int32),
        ("clusters", c_int64),
        ("weight", c_void_p),
        ("labels", c_void_p),
        ("label_bytes", c_int32),
        ("rank", c_int64),
        ("low_rank_out", c_void_p),
        ("low_rank_in", c_void_p),
        ("dtype", c_int32),
        ("order", c_void_p),
    )


class _Scalar(ctypes.Structure):
    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("bits", c_int32),
        ("packed", c_void_p),
        ("tables", c_void_p),
        ("tables_dtype", c_int32),
        ("outlier_offsets", c_void_p),
        ("outlier_columns", c_void_p),
        ("outlier_values", c_void_p),
        ("outlier_values_dtype", c_int32),
    )


class _Vector(ctypes.Structure):
    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("num_codebooks", c_int32),
        ("vector_size", c_int32),
        ("packed", c_void_p),
        ("codebooks", c_void_p),
        ("out_scales", c_void_p),
        ("dtype", c_int32),
    )


def choose(kind: str, named: Arguments, gpu: Gpu, widths: tuple[int, ...] = ()) -> KernelChoice:
    """The kernel of `lowbit::<kind>_linear` for these arguments, by name, on that GPU.

    Args:
        widths: of the digits that a code of signs or planes is cut into.
    """
    x: Tensor = named["x"]
    tokens, precision = c_int64(x.shape[:-1].numel()), named["precision"]
    if kind in ("signs", "planes"):
        entry, weight = "lowbit_cuda_explain", _bits(named, widths)
        active, activation = named.get("active_bits", 1), named.get("activation_bits", 0)
        rest: tuple[Any, ...] = (1, active, tokens, activation, precision)
    else:
        entry, weight = f"lowbit_cuda_{kind}_explain", _CODEBOOKS[kind](named)
        rest = (tokens, precision, _DTYPES[x.dtype])
    return _ask(entry, gpu, weight, *rest)


def _bits(named: Arguments, widths: tuple[int, ...]) -> _Signs:
    part = _Signs()
    bits, get = part.bits, named.get
    bits.out_features, bits.in_features = named["out_features"], named["in_features"]
    bits.bits, bits.num_digits, bits.group_size = sum(widths), len(widths), named["group_size"]
    bits.digits[: len(widths)] = list(widths)
    bits.tiles, bits.scales, bits.offsets = _SOME_ADDRESS, _address(get("scales")), _address(get("offsets"))
    bits.scales_dtype = _dtype(get("scales"))
    if (out_scales := get("out_scales")) is not None:
        part.experts, part.out_scales_stride = out_scales.shape
        part.router, part.in_scales = _address(get("router")), _address(named["in_scales"])
        part.out_scales, part.dtype = _SOME_ADDRESS, _dtype(out_scales)
    return part


def _channel(named: Arguments) -> _Channel:
    weight, labels, low = named["weight"], named["labels"], named["low_rank_in"]
    axis = named["axis"]
    return _Channel(
        *(named["out_features"], named["in_features"], axis, weight.shape[axis]),
        *(_SOME_ADDRESS, _SOME_ADDRESS, labels.element_size()),
        *(0 if low is None else low.shape[0], _address(named["low_rank_out"]), _address(low)),
        *(_dtype(weight), _SOME_ADDRESS if axis == 1 else None),
    )


def _scalar(named: Arguments) -> _Scalar:
    tables, values = named["tables"], named["outlier_values"]
    return _Scalar(
        *(tables.shape[0], named["in_features"], tables.shape[1].bit_length() - 1, _SOME_ADDRESS),
        *(_SOME_ADDRESS, _dtype(tables), _address(named["outlier_offsets"])),
        *(_address(named["outlier_columns"]), _address(values), _dtype(values)),
    )


def _vector(named: Arguments) -> _Vector:
    codebooks, out_scales = named["codebooks"], named["out_scales"]
    return _Vector(
        *(out_scales.shape[0], named["in_features"], codebooks.shape[0], codebooks.shape[2]),
        *(_SOME_ADDRESS, _SOME_ADDRESS, _SOME_ADDRESS, _dtype(codebooks)),
    )


_CODEBOOKS: dict[str, Callable[[Arguments], Any]] = {
    "codebook_channel": _channel,
    "codebook_scalar": _scalar,
    "codebook_vector": _vector,
}


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else _SOME_ADDRESS


def _dtype(tensor: Tensor | None) -> int:
    return 0 if tensor is None else _DTYPES[tensor.dtype]


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.lowbit_cuda_last_error.restype = ctypes.c_char_p
    return library


def _ask(entry: str, gpu: Gpu, weight: Any, *rest: Any) -> KernelChoice:
    library = _library()
    text, length = ctypes.create_string_buffer(_CAPACITY), c_size_t()
    end = (text, c_size_t(_CAPACITY), ctypes.byref(length))
    if getattr(library, entry)(ctypes.byref(_Device(*gpu)), ctypes.byref(weight), *rest, *end) != 0:
        return KernelChoice("none", library.lowbit_cuda_last_error().decode())
    answer = json.loads(text.value)
    rejected = {other["kernel"]: other["reason"] for other in answer["rejected"]}
    return KernelChoice(answer["kernel"], answer["reason"], rejected)
