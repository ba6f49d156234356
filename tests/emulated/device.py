"""Kernels on the emulated CUDA device: its library, arrays in its memory, the fixture `emulated`."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native import without_emulated

BUILD = Path(__file__).resolve().parents[2] / "build" / "emulated"
# "_sanitized": the library that AddressSanitizer and UBSan watch, which takes libasan preloaded.
KIND = os.environ.get("LOWBIT_EMULATED_KIND", "")


class DeviceError(RuntimeError):
    """What the emulated device, or the entry that was called, says went wrong."""


class Device:
    """One library of kernels with an emulated device of its own."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.lowbit_emulated_malloc.restype = ctypes.c_void_p
        self.library.lowbit_emulated_malloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        self.library.lowbit_emulated_free.argtypes = [ctypes.c_void_p]
        self.library.lowbit_emulated_last_error.restype = ctypes.c_char_p
        self.library.lowbit_emulated_set_shared_limit.argtypes = [ctypes.c_size_t]

    def error(self) -> str:
        return self.library.lowbit_emulated_last_error().decode()

    def set_order(self, descending: bool) -> None:
        """Order in which threads and blocks run: ascending, or descending."""
        self.library.lowbit_emulated_set_order(int(descending))

    def set_shared_limit(self, kib: int = 227) -> None:
        """What a block may have of it: 163 KB on sm_80, 99 on sm_86, 89 and 120, 227 on sm_90 and 100."""
        self.library.lowbit_emulated_set_shared_limit(kib << 10)

    def run(self, name: str, *arguments: Any) -> None:
        """Calls a C entry that returns a status. An array is passed as its address, an int as 64 bits (which
        narrower parameters take too), anything of ctypes as it is; floats must be (ctypes.c_float)."""
        if getattr(self.library, name)(*map(_argument, arguments)) != 0:
            raise DeviceError(self.error())

    def array(self, values: Any, front: bool = False, alignment: int = 16) -> DeviceArray:
        """A copy in device memory. Behind its end (up to `alignment`) lies memory that no access survives;
        with `front`, before its start."""
        host = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        copy = DeviceArray(self, tuple(host.shape), host.dtype, front, alignment)
        copy.view.copy_(host)
        return copy

    def empty(
        self,
        shape: int | tuple[int, ...],
        dtype: Any = torch.float32,
        front: bool = False,
        alignment: int = 16,
    ) -> DeviceArray:
        """Device memory that holds the bytes 0xCB; `dtype` of torch or numpy."""
        if not isinstance(dtype, torch.dtype):
            dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        return DeviceArray(self, (shape,) if isinstance(shape, int) else shape, dtype, front, alignment)


class DeviceArray:
    """Memory of the device. `view` is a tensor of it that the host may read and write."""

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: torch.dtype, front: bool, alignment: int
    ) -> None:
        size = torch.Size(shape).numel() * dtype.itemsize
        self.address = device.library.lowbit_emulated_malloc(size, alignment, front)
        if not self.address:
            raise DeviceError(device.error())
        weakref.finalize(self, device.library.lowbit_emulated_free, self.address)
        if size == 0:
            self.view = torch.empty(shape, dtype=dtype)
        else:
            memory = (ctypes.c_char * size).from_address(self.address)
            self.view = torch.frombuffer(memory, dtype=dtype).reshape(shape)

    @property
    def pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.address)

    def tensor(self) -> Tensor:
        """A copy on the host, which outlives the array."""
        return self.view.clone()

    def numpy(self) -> np.ndarray:
        return self.tensor().numpy()


def _argument(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.pointer
    if isinstance(value, bool | int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        raise TypeError("say which: ctypes.c_float or ctypes.c_double")
    return value


@functools.cache
def load(name: str) -> Device:
    """Library build/emulated/lib<name>.so; skips the test, with the reason, where none was to be built."""
    if without_emulated:
        pytest.skip(without_emulated)
    return Device(BUILD / f"lib{name}{KIND}.so")


def in_order(device: Device, order: str) -> Iterator[Device]:
    device.set_order(order == "reversed")
    yield device
    device.set_order(False)
    device.set_shared_limit()


@pytest.fixture(params=["forward", "reversed"])
def emulated(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The library of all kernels, its threads and blocks running in either order."""
    yield from in_order(load("lowbit_emulated"), request.param)
