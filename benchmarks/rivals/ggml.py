"""ggml's CPU backend in this process: one product per prebuilt graph, over shared libraries of a package.

Only ggml's public C interface is used (ggml.h, ggml-backend.h, ggml-cpu.h).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rivals import Missing

Pointer = int


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class _TypeTraits(ctypes.Structure):
    """The head of ggml.h's ggml_type_traits."""

    _fields_ = (
        ("type_name", c_char_p),
        ("block", c_int64),
        ("block_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    )


# Name, result, arguments.
_BASE = (
    ("ggml_get_type_traits", ctypes.POINTER(_TypeTraits), (c_int,)),
    ("ggml_row_size", c_size_t, (c_int, c_int64)),
    ("ggml_quantize_chunk", c_size_t, (c_int, c_void_p, c_void_p, *[c_int64] * 3, c_void_p)),
    ("ggml_tensor_overhead", c_size_t, ()),
    ("ggml_graph_overhead_custom", c_size_t, (c_size_t, c_bool)),
    ("ggml_init", c_void_p, (_InitParams,)),
    ("ggml_free", None, (c_void_p,)),
    ("ggml_new_tensor_2d", c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    ("ggml_mul_mat", c_void_p, (c_void_p, c_void_p, c_void_p)),
    ("ggml_new_graph_custom", c_void_p, (c_void_p, c_size_t, c_bool)),
    ("ggml_build_forward_expand", None, (c_void_p, c_void_p)),
    ("ggml_backend_alloc_ctx_tensors", c_void_p, (c_void_p, c_void_p)),
    ("ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, (c_void_p, c_void_p)),
    ("ggml_backend_buffer_free", None, (c_void_p,)),
    ("ggml_backend_buft_name", c_char_p, (c_void_p,)),
    ("ggml_backend_tensor_set", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    ("ggml_backend_tensor_get", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    ("ggml_backend_supports_op", c_bool, (c_void_p, c_void_p)),
    ("ggml_backend_graph_compute", c_int, (c_void_p, c_void_p)),
    ("ggml_backend_get_device", c_void_p, (c_void_p,)),
    ("ggml_backend_dev_backend_reg", c_void_p, (c_void_p,)),
    ("ggml_backend_reg_get_proc_address", c_void_p, (c_void_p, c_char_p)),
)
_CPU = (
    ("ggml_backend_cpu_init", c_void_p, ()),
    ("ggml_backend_cpu_set_n_threads", None, (c_void_p, c_int)),
)
_FLOAT32 = 0  # GGML_TYPE_F32


class Ggml:
    """The libraries and a CPU backend with ``threads`` threads.

    Raises:
        Missing: the libraries are not in ``folder`` or lack a function.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        try:
            self._functions = _bind(folder, "ggml-base", _BASE) | _bind(folder, "ggml-cpu", _CPU)
        except (OSError, AttributeError) as error:
            raise Missing(error) from error
        self.backend: Pointer = self("ggml_backend_cpu_init")
        self("ggml_backend_cpu_set_n_threads", self.backend, threads)

    def __call__(self, name: str, *arguments: Any) -> Any:
        return self._functions[name](*arguments)

    @cached_property
    def repacked(self) -> Pointer | None:
        """The buffer type that re-lays weights for its kernels, llama.cpp's first choice on a CPU."""
        device = self("ggml_backend_get_device", self.backend)
        register = self("ggml_backend_dev_backend_reg", device)
        address = self("ggml_backend_reg_get_proc_address", register, b"ggml_backend_dev_get_extra_bufts")
        if address is None:
            return None
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(device)
        for kind in _until_null(kinds):
            if b"REPACK" in self("ggml_backend_buft_name", kind):
                return kind
        return None

    def quantize(self, kind: int, weight: NDArray[np.float32]) -> NDArray[np.uint8]:
        """[rows, bytes per row] of float32 [rows, columns], by ggml's own quantiser.

        Args:
            kind: a number of ggml's ``enum ggml_type``.

        Raises:
            Missing: the type's blocks do not divide the columns.
        """
        rows, columns = weight.shape
        traits = self("ggml_get_type_traits", kind).contents
        if columns % traits.block:
            raise Missing(f"{columns} inputs are not a multiple of its blocks of {traits.block}")
        source = np.ascontiguousarray(weight)
        packed = np.empty((rows, self("ggml_row_size", kind, columns)), dtype=np.uint8)
        importance = np.ones(columns, dtype=np.float32)  # some types refuse to quantise without
        ends = source.ctypes.data, packed.ctypes.data
        self("ggml_quantize_chunk", kind, *ends, 0, rows, columns, importance.ctypes.data)
        return packed

    def dequantize(self, kind: int, packed: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
        """float32 [rows, columns] of :meth:`quantize`'s result."""
        weight = np.empty((packed.shape[0], columns), dtype=np.float32)
        to_float = self("ggml_get_type_traits", kind).contents.to_float
        for row, bytes_ in zip(weight, packed, strict=True):
            to_float(bytes_.ctypes.data, row.ctypes.data, columns)
        return weight


def _until_null(pointers: Any) -> Iterator[Pointer]:
    index = 0
    while pointers and pointers[index]:
        yield pointers[index]
        index += 1


def _bind(folder: Path, library: str, functions: Any) -> dict[str, Callable[..., Any]]:
    # By the name the libraries know each other by: under another one a second copy would be loaded.
    names = sorted(folder.glob(f"lib{library}.so.*"), key=lambda path: len(path.name))
    loaded = ctypes.CDLL(str(names[0] if names else folder / f"lib{library}.so"))
    bound = {}
    for name, result, arguments in functions:
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
        bound[name] = function
    return bound


class Product:
    """``y = x W^T`` for copies of one quantised weight, each with a graph of its own.

    Args:
        kind: the weight's number in ggml's ``enum ggml_type``.
        packed: [rows, bytes per row], as :meth:`Ggml.quantize` gives them.
        x: float32 [tokens, in_features].
        repack: hold the weight in the buffer that re-lays it.

    Raises:
        Missing: ``repack`` is asked for, and ggml has no such form of this type and shape here.
    """

    def __init__(
        self,
        ggml: Ggml,
        kind: int,
        packed: NDArray[np.uint8],
        x: NDArray[np.float32],
        copies: int,
        *,
        repack: bool,
    ) -> None:
        self._ggml, self._rows, self._tokens = ggml, packed.shape[0], x.shape[0]
        self._held: list[tuple[str, Pointer]] = []
        if repack and ggml.repacked is None:
            raise Missing("this build of ggml does not re-lay weights")
        columns = x.shape[1]
        tensors = 2 * copies + 1
        size = tensors * ggml("ggml_tensor_overhead") + copies * ggml("ggml_graph_overhead_custom", 4, False)
        weights = self._context(copies * ggml("ggml_tensor_overhead"))
        work = self._context(size)
        own = [ggml("ggml_new_tensor_2d", weights, kind, columns, self._rows) for _ in range(copies)]
        source = ggml("ggml_new_tensor_2d", work, _FLOAT32, columns, self._tokens)
        self._results = [ggml("ggml_mul_mat", work, weight, source) for weight in own]
        self._graphs = []
        for result in self._results:
            graph = ggml("ggml_new_graph_custom", work, 4, False)
            ggml("ggml_build_forward_expand", graph, result)
            self._graphs.append(graph)
        if repack:
            buffer = ggml("ggml_backend_alloc_ctx_tensors_from_buft", weights, ggml.repacked)
        else:
            buffer = ggml("ggml_backend_alloc_ctx_tensors", weights, ggml.backend)
        self._held.append(("ggml_backend_buffer_free", buffer))
        self._held.append(
            ("ggml_backend_buffer_free", ggml("ggml_backend_alloc_ctx_tensors", work, ggml.backend))
        )
        if not ggml("ggml_backend_supports_op", ggml.backend, self._results[0]):
            self.close()
            raise Missing("ggml has no such kernel for this shape here")
        for weight in own:
            ggml("ggml_backend_tensor_set", weight, packed.ctypes.data, 0, packed.nbytes)
        inputs = np.ascontiguousarray(x)
        ggml("ggml_backend_tensor_set", source, inputs.ctypes.data, 0, inputs.nbytes)

    def __call__(self, copy: int) -> None:
        status = self._ggml("ggml_backend_graph_compute", self._ggml.backend, self._graphs[copy])
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute: status {status}")

    def result(self, copy: int) -> NDArray[np.float32]:
        """float32 [tokens, rows] of the copy's last call."""
        y = np.empty((self._tokens, self._rows), dtype=np.float32)
        self._ggml("ggml_backend_tensor_get", self._results[copy], y.ctypes.data, 0, y.nbytes)
        return y

    def close(self) -> None:
        for free, pointer in reversed(self._held):
            self._ggml(free, pointer)
        self._held.clear()

    def __del__(self) -> None:
        self.close()

    def _context(self, nbytes: int) -> Pointer:
        context = self._ggml("ggml_init", _InitParams(nbytes + 1024, None, True))
        self._held.append(("ggml_free", context))
        return context
