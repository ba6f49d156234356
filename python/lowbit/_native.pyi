"""Native CPU kernels without torch: packing, capabilities, and products on NumPy arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float16]

def version() -> str: ...
def available_isas() -> list[str]: ...
def current_isa() -> str: ...
def set_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def read(arrays: Sequence[NDArray[Any]], *, accumulators: int = 4, prefetch_bytes: int = 0) -> int: ...
def pack_signs(values: NDArray[np.float32] | NDArray[np.bool_]) -> NDArray[np.uint8]: ...
def unpack_signs(packed: NDArray[np.uint8], in_features: int) -> NDArray[np.int8]: ...
def tile_bits(packed: NDArray[np.uint8], in_features: int) -> NDArray[np.uint8]: ...
def tile_scales(scales: Floats | NDArray[np.int16]) -> Floats | NDArray[np.int16]: ...
def quantize_activations(
    x: Floats, precision: str = "fast", *, activation_bits: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def signs_prologue(
    x: Floats, router: Floats | None, in_scales: Floats
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def signs_linear(
    x: Floats,
    tiles: NDArray[np.uint8],
    out_features: int,
    *,
    scales: Floats | None = None,
    group_size: int = -1,
    router: Floats | None = None,
    in_scales: Floats | None = None,
    out_scales: Floats | None = None,
    bias: Floats | None = None,
    precision: str = "fast",
) -> Floats: ...
def planes_linear(
    x: Floats,
    tiles: NDArray[np.uint8],
    out_features: int,
    scales: Floats,
    *,
    group_size: int = -1,
    offsets: NDArray[np.int16] | None = None,
    active_bits: int | None = None,
    activation_bits: int = 0,
    bias: Floats | None = None,
    precision: str = "fast",
) -> Floats: ...
