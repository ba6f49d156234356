"""Calls noted while they run, to be made again on the same memory (csrc/torch/tape.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from lowbit.ops._library import LIBRARY


class Tape:
    """See csrc/torch/tape.h. Memory that the calls work on must stay alive."""

    def __init__(self) -> None:
        self._native = _library()
        self._handle = self._native.lowbit_tape_new()

    def __del__(self) -> None:
        self._native.lowbit_tape_delete(self._handle)

    def __len__(self) -> int:
        return int(self._native.lowbit_tape_size(self._handle))

    @property
    def refusal(self) -> str:
        """Empty, or why the calls on it cannot be made again."""
        text: bytes = self._native.lowbit_tape_refusal(self._handle)
        return text.decode()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Native operators that this thread calls meanwhile are noted."""
        self._native.lowbit_tape_record(self._handle)
        try:
            yield
        finally:
            self._native.lowbit_tape_record(None)

    def add(self, address: int, values: Sequence[int]) -> bool:
        """Notes a C function of pointers and 64-bit integers; False: it has too many of them."""
        array = (ctypes.c_int64 * len(values))(*values)
        return bool(self._native.lowbit_tape_add(self._handle, address, array, len(values)))

    def play(self, begin: int, end: int) -> None:
        """Makes the calls begin .. end - 1 again.

        Raises:
            RuntimeError: what a call failed with.
        """
        self._check(self._native.lowbit_tape_play(self._handle, begin, end, None))

    def time(self, begin: int, end: int) -> list[int]:
        """`play`; returns the nanoseconds of every call."""
        nanoseconds = (ctypes.c_int64 * (end - begin))()
        self._check(self._native.lowbit_tape_play(self._handle, begin, end, nanoseconds))
        return list(nanoseconds)

    @staticmethod
    def _check(error: bytes | None) -> None:
        if error is not None:
            raise RuntimeError(error.decode())


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    pointer, integers, integer = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64
    for name, result, arguments in (
        ("new", pointer, []),
        ("delete", None, [pointer]),
        ("record", None, [pointer]),
        ("add", ctypes.c_int, [pointer, pointer, integers, integer]),
        ("size", integer, [pointer]),
        ("refusal", ctypes.c_char_p, [pointer]),
        ("play", ctypes.c_char_p, [pointer, integer, integer, integers]),
    ):
        function = getattr(library, f"lowbit_tape_{name}")
        function.restype, function.argtypes = result, arguments
    return library
