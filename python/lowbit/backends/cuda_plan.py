"""Which CUDA kernel a product runs with, as the library itself says; no GPU is needed to ask.

Of a weight only its description is looked at, and which of its tensors there are.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from ctypes import c_int64, c_size_t
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowbit._build import LIBRARIES
from lowbit.backends.base import KernelChoice
from lowbit.backends.cuda_flags import fp16_accumulation
from lowbit.backends.cuda_interface import Channel, Device, Scalar, Signs, Vector

LIBRARY = LIBRARIES / "liblowbit_cuda.so"
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SOME_ADDRESS = 256  # of a tensor that is there
_CAPACITY = 1 << 14

Arguments = Mapping[str, Any]


class Gpu(NamedTuple):
    """`architecture` is 10 * major + minor compute capability."""

    architecture: int
    multiprocessors: int


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


def _bits(named: Arguments, widths: tuple[int, ...]) -> Signs:
    part = Signs()
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


def _channel(named: Arguments) -> Channel:
    weight, labels, low = named["weight"], named["labels"], named["low_rank_in"]
    axis = named["axis"]
    return Channel(
        *(named["out_features"], named["in_features"], axis, weight.shape[axis]),
        *(_SOME_ADDRESS, _SOME_ADDRESS, labels.element_size()),
        *(0 if low is None else low.shape[0], _address(named["low_rank_out"]), _address(low)),
        *(_dtype(weight), _SOME_ADDRESS if axis == 1 else None),
    )


def _scalar(named: Arguments) -> Scalar:
    tables, values = named["tables"], named["outlier_values"]
    return Scalar(
        *(tables.shape[0], named["in_features"], tables.shape[1].bit_length() - 1, _SOME_ADDRESS),
        *(_SOME_ADDRESS, _dtype(tables), _address(named["outlier_offsets"])),
        *(_address(named["outlier_columns"]), _address(values), _dtype(values)),
    )


def _vector(named: Arguments) -> Vector:
    codebooks, out_scales = named["codebooks"], named["out_scales"]
    return Vector(
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
    # torch's, which the operators lend on the same condition
    device = Device(*gpu, matmul=None if fp16_accumulation() else _SOME_ADDRESS)
    if getattr(library, entry)(ctypes.byref(device), ctypes.byref(weight), *rest, *end) != 0:
        return KernelChoice("none", library.lowbit_cuda_last_error().decode())
    answer = json.loads(text.value)
    rejected = {other["kernel"]: other["reason"] for other in answer["rejected"]}
    return KernelChoice(answer["kernel"], answer["reason"], rejected)
