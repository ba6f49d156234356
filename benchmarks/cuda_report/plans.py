"""The library's own choice of kernel and grid, asked through its C interface; needs no GPU."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lowbit.backends.cuda_interface import Channel, Device, Scalar, Signs, Vector

PRECISIONS = {"fast": 0, "high": 1, "exact": 2}
F16 = 1
_SOME_ADDRESS = 256  # what is not looked at must still not be null


@dataclass(frozen=True)
class BitsCase:
    """A kind of layer on bit tiles and how its activations are taken."""

    title: str
    digits: Sequence[int]
    group_size: int = -1
    experts: int = 0
    precision: str = "high"
    activation_bits: int = 0
    entry: ClassVar[str] = "lowbit_cuda_explain"

    @property
    def bits(self) -> int:
        return sum(self.digits)

    def arguments(self, out_features: int, in_features: int, tokens: int) -> tuple[Any, ...]:
        """Of the C function `entry`, between the device and the text."""
        part = Signs()
        part.bits.out_features, part.bits.in_features = out_features, in_features
        part.bits.bits, part.bits.num_digits = self.bits, len(self.digits)
        part.bits.digits[: len(self.digits)] = list(self.digits)
        part.bits.group_size = self.group_size
        part.bits.tiles, part.bits.scales_dtype = _SOME_ADDRESS, F16
        if self.experts == 0:
            part.bits.scales = _SOME_ADDRESS
        else:
            part.experts, part.dtype, part.out_scales_stride = self.experts, F16, out_features
            part.router = part.in_scales = part.out_scales = _SOME_ADDRESS
        precision = PRECISIONS[self.precision]
        return ctypes.byref(part), 1, self.bits, ctypes.c_int64(tokens), self.activation_bits, precision


@dataclass(frozen=True)
class ScalarCase:
    """Look-up tables of 2^bits fp16 entries, one for each row."""

    title: str
    bits: int
    precision: str = "high"
    entry: ClassVar[str] = "lowbit_cuda_codebook_scalar_explain"

    def arguments(self, out_features: int, in_features: int, tokens: int) -> tuple[Any, ...]:
        weight = Scalar(out_features, in_features, self.bits)
        weight.tables, weight.tables_dtype = _SOME_ADDRESS, F16
        return ctypes.byref(weight), ctypes.c_int64(tokens), PRECISIONS[self.precision], F16


@dataclass(frozen=True)
class VectorCase:
    """Sums of entries of `size` fp16 numbers, one of each of `books` codebooks."""

    title: str
    books: int
    size: int
    precision: str = "high"
    entry: ClassVar[str] = "lowbit_cuda_codebook_vector_explain"

    def arguments(self, out_features: int, in_features: int, tokens: int) -> tuple[Any, ...]:
        weight = Vector(out_features, in_features, self.books, self.size)
        weight.dtype = F16
        return ctypes.byref(weight), ctypes.c_int64(tokens), PRECISIONS[self.precision], F16


@dataclass(frozen=True)
class ChannelCase:
    """fp16 channels that outputs (axis 0) or inputs (axis 1) share, and a low-rank term."""

    title: str
    clusters: int
    rank: int
    axis: int = 0
    precision: str = "high"
    entry: ClassVar[str] = "lowbit_cuda_codebook_channel_explain"

    def arguments(self, out_features: int, in_features: int, tokens: int) -> tuple[Any, ...]:
        weight = Channel(out_features, in_features, self.axis, self.clusters)
        weight.weight = weight.labels = weight.low_rank_out = weight.low_rank_in = _SOME_ADDRESS
        weight.label_bytes, weight.rank, weight.dtype = 2, self.rank, F16
        return ctypes.byref(weight), ctypes.c_int64(tokens), PRECISIONS[self.precision], F16


Case = BitsCase | ScalarCase | VectorCase | ChannelCase


class Planner:
    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.lowbit_cuda_last_error.restype = ctypes.c_char_p

    def explain(
        self,
        case: Case,
        out_features: int,
        in_features: int,
        tokens: int,
        architecture: int,
        multiprocessors: int,
    ) -> dict[str, Any]:
        """The JSON of the case's C function.

        Raises:
            RuntimeError: the library refuses; the message is its own.
        """
        device = Device(architecture, multiprocessors)
        text, length = ctypes.create_string_buffer(1 << 14), ctypes.c_size_t()
        status = getattr(self._library, case.entry)(
            ctypes.byref(device),
            *case.arguments(out_features, in_features, tokens),
            text,
            ctypes.c_size_t(len(text)),
            ctypes.byref(length),
        )
        if status != 0:
            raise RuntimeError(self._library.lowbit_cuda_last_error().decode())
        answer: dict[str, Any] = json.loads(text.value)
        return answer
