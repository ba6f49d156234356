"""Triton kernels on GPUs, compiled at their first use by Triton itself: no nvcc, no compiler of ours.

The layouts are drawn in triton_layout.py (signs, planes) and triton_codebook_layout.py. With
TRITON_INTERPRET=1 the kernels are interpreted on the CPU, for tests: only who asks for the backend by name
gets that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit.backends import triton_codebook_layout
from lowbit.backends.arguments import ARGUMENTS
from lowbit.backends.base import Availability, KernelChoice, Tensors, packed_format
from lowbit.backends.triton_layout import lay_out_bits, restore_bits, rows_of_bits
from lowbit.formats import FORMATS
from lowbit.formats.base import Metadata

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST = (8, 0)  # compute capability
# Why: see sm_75 in benchmarks/results/triton_report.md.
WHY_OLDEST = "for older ones Triton compiles `exact` alone: int8 has no products, and codebooks spill"
KINDS_OF_BITS = ("signs", "planes")


def interpreted() -> bool:
    """Whether Triton is told to run kernels in Python; read without importing it."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class TritonBackend:
    """Kernels of lowbit.triton_kernels through torch operators on the current stream."""

    name = "triton"
    packs_digits = True

    def __init__(self) -> None:
        self._operators: dict[str, Callable[..., Tensor]] = {}

    def available(self) -> Availability:
        # Not at the top: the functional operators choose among backends, so their package imports this one.
        from lowbit.ops import _library

        failure = _library.load_triton()
        if failure is not None:
            return Availability(False, failure)
        if not self._operators:
            self._operators = {kind: _library.operator(f"triton_{kind}_linear") for kind in FORMATS}
        import triton

        version = f"Triton {triton.__version__}"
        if interpreted():
            return Availability(True, f"{version}, interpreted (TRITON_INTERPRET=1): when asked for by name")
        if not torch.cuda.is_available():
            return Availability(False, f"{version}, but torch finds no GPU, or no driver for it")
        return Availability(True, version)

    def supports(
        self, kind: str, device: torch.device, dtype: torch.dtype, *, forced: bool = False
    ) -> Availability:
        if device.type != "cuda" and not (interpreted() and device.type == "cpu"):
            return Availability(False, f"runs on CUDA tensors, the layer is on {device}")
        if interpreted() and not forced:
            return Availability(False, "interpreted (TRITON_INTERPRET=1): when asked for by name")
        if dtype not in DTYPES:
            return Availability(False, f"takes float32, float16 or bfloat16 activations, not {dtype}")
        answer = self.available()
        if not answer.ok or interpreted():
            return answer
        name = torch.cuda.get_device_name(device)
        if torch.version.hip is not None:
            return Availability(True, f"{answer.reason}, {name}: never tested on AMD GPUs")
        capability = torch.cuda.get_device_capability(device)
        name = f"{name}, compute capability {capability[0]}.{capability[1]}"
        if capability < OLDEST:
            needed = f"needs compute capability 8.0 or newer ({WHY_OLDEST})"
            return Availability(False, f"{needed}; {device} is {name}")
        return Availability(True, f"{answer.reason}, {name}")

    def prepare(self, tensors: Tensors, metadata: Metadata, any_bits: bool = False) -> Tensors:
        if metadata["kind"] not in KINDS_OF_BITS:
            return triton_codebook_layout.lay_out(tensors, metadata)
        blocks = lay_out_bits(tensors["weight"], int(metadata["in_features"]), any_bits)
        return dict(tensors) | {"weight": blocks}

    def restore(self, tensors: Tensors, metadata: Metadata) -> Tensors:
        if metadata["kind"] not in KINDS_OF_BITS:
            return triton_codebook_layout.restore(tensors, metadata)
        planes = restore_bits(tensors["weight"], int(metadata["in_features"]), int(metadata["out_features"]))
        return dict(tensors) | {"weight": planes if metadata["kind"] == "planes" else planes[0]}

    def rows(self, tensors: Tensors, metadata: Metadata, ids: Tensor) -> Tensor:
        if metadata["kind"] not in KINDS_OF_BITS:
            return triton_codebook_layout.rows(tensors, metadata, ids)
        bits = rows_of_bits(tensors["weight"], int(metadata["in_features"]), ids)
        some = dict(tensors) | {"weight": bits if metadata["kind"] == "planes" else bits[0]}
        for name in ("scales", "offsets"):
            if name in tensors:
                some[name] = tensors[name][ids]
        if "out_scales" in tensors:
            some["out_scales"] = tensors["out_scales"][:, ids]
        return packed_format(some, metadata)._expand(torch.arange(ids.shape[0], device=ids.device))

    def operator(self, kind: str) -> Callable[..., Tensor]:
        return self._operators[kind]

    def choose(self, kind: str, x: Tensor, arguments: Sequence[Any]) -> KernelChoice:
        from torch._subclasses.fake_tensor import FakeTensorMode

        from lowbit.ops._triton import KERNELS
        from lowbit.triton_kernels.gpu import note_origins
        from lowbit.triton_kernels.launch import dry_run

        with FakeTensorMode() as mode, dry_run() as launches, note_origins() as origins:
            fake = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
            on_device = torch.empty(x.shape, dtype=x.dtype, device=fake[0].device)
            record: Callable[..., Any] = ARGUMENTS[kind]
            KERNELS[kind](record(on_device, *fake))
        tiles = f"tiles {', '.join(dict.fromkeys(origins.values()))}" if origins else ""
        return KernelChoice(" + ".join(map(str, launches)), tiles)
