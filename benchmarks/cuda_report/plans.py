"""The library's own choice of kernel and grid, asked through its C interface; needs no GPU."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_DIGITS = 8
PRECISIONS = {"fast": 0, "high": 1, "exact": 2}
F16 = 1
_SOME_ADDRESS = 256  # what is not looked at must still not be null


class _Device(ctypes.Structure):
    _fields_ = (("architecture", ctypes.c_int32), ("multiprocessors", ctypes.c_int32))


class _Bits(ctypes.Structure):
    _fields_ = (
        ("out_features", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("num_digits", ctypes.c_int32),
        ("digits", ctypes.c_int32 * MAX_DIGITS),
        ("group_size", ctypes.c_int64),
        ("tiles", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("scales_dtype", ctypes.c_int32),
        ("offsets", ctypes.c_void_p),
    )


class _Signs(ctypes.Structure):
    _fields_ = (
        ("bits", _Bits),
        ("experts", ctypes.c_int32),
        ("router", ctypes.c_void_p),
        ("in_scales", ctypes.c_void_p),
        ("out_scales", ctypes.c_void_p),
        ("out_scales_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    )


@dataclass(frozen=True)
class BitsCase:
    """A kind of layer on bit tiles and how its activations are taken."""

    title: str
    digits: Sequence[int]
    group_size: int = -1
    experts: int = 0
    precision: str = "high"
    activation_bits: int = 0

    @property
    def bits(self) -> int:
        return sum(self.digits)


class Planner:
    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.lowbit_cuda_last_error.restype = ctypes.c_char_p

    def explain(
        self,
        case: BitsCase,
        out_features: int,
        in_features: int,
        tokens: int,
        architecture: int,
        multiprocessors: int,
    ) -> dict[str, Any]:
        """The JSON of lowbit_cuda_explain.

        Raises:
            RuntimeError: the library refuses; the message is its own.
        """
        part = _Signs()
        part.bits.out_features, part.bits.in_features = out_features, in_features
        part.bits.bits, part.bits.num_digits = case.bits, len(case.digits)
        part.bits.digits[: len(case.digits)] = list(case.digits)
        part.bits.group_size = case.group_size
        part.bits.tiles, part.bits.scales_dtype = _SOME_ADDRESS, F16
        if case.experts == 0:
            part.bits.scales = _SOME_ADDRESS
        else:
            part.experts, part.dtype, part.out_scales_stride = case.experts, F16, out_features
            part.router = part.in_scales = part.out_scales = _SOME_ADDRESS
        device = _Device(architecture, multiprocessors)
        text, length = ctypes.create_string_buffer(1 << 14), ctypes.c_size_t()
        status = self._library.lowbit_cuda_explain(
            ctypes.byref(device),
            ctypes.byref(part),
            1,
            case.bits,
            ctypes.c_int64(tokens),
            case.activation_bits,
            PRECISIONS[case.precision],
            text,
            ctypes.c_size_t(len(text)),
            ctypes.byref(length),
        )
        if status != 0:
            raise RuntimeError(self._library.lowbit_cuda_last_error().decode())
        answer: dict[str, Any] = json.loads(text.value)
        return answer
