"""What the kernels are compiled for."""

from __future__ import annotations

import torch
import triton


def has_prmt() -> bool:
    """Whether permutations of bytes are an instruction: on NVIDIA GPUs, not in the interpreter."""
    return torch.version.hip is None and not interpreted()


def interpreted() -> bool:
    """Whether kernels are interpreted. The interpreter takes bfloat16 operands of a product for integers."""
    return bool(triton.knobs.runtime.interpret)
