"""The structures of csrc/include/lowbit_cuda.h, for everything in Python that calls it."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p

MAX_DIGITS = 8


class Product(ctypes.Structure):
    """lowbit_cuda_product."""

    _fields_ = (
        ("a_rows", c_int64),
        ("b_rows", c_int64),
        ("inputs", c_int64),
        ("a", c_void_p),
        ("b", c_void_p),
        ("c", c_void_p),
        ("stream", c_void_p),
    )


MATMUL = ctypes.CFUNCTYPE(c_int32, c_void_p, ctypes.POINTER(Product))  # lowbit_cuda_matmul


class Device(ctypes.Structure):
    """lowbit_cuda_device."""

    _fields_ = (
        ("architecture", c_int32),
        ("multiprocessors", c_int32),
        ("matmul", c_void_p),
        ("matmul_context", c_void_p),
    )


class Bits(ctypes.Structure):
    """lowbit_cuda_bits."""

    _fields_ = (
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("bits", c_int32),
        ("num_digits", c_int32),
        ("digits", c_int32 * MAX_DIGITS),
        ("group_size", c_int64),
        ("tiles", c_void_p),
        ("scales", c_void_p),
        ("scales_dtype", c_int32),
        ("offsets", c_void_p),
    )


class Signs(ctypes.Structure):
    """lowbit_cuda_signs."""

    _fields_ = (
        ("bits", Bits),
        ("experts", c_int32),
        ("router", c_void_p),
        ("in_scales", c_void_p),
        ("out_scales", c_void_p),
        ("out_scales_stride", c_int64),
        ("dtype", c_int32),
    )


class Scalar(ctypes.Structure):
    """lowbit_cuda_codebook_scalar."""

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


class Channel(ctypes.Structure):
    """lowbit_cuda_codebook_channel, its `canonical` member in place."""

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


class Vector(ctypes.Structure):
    """lowbit_cuda_codebook_vector."""

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
