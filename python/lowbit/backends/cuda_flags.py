"""A setting of torch that the operators of the CUDA kernels ask for: torch's stable C interface has none.

`lowbit::fp16_accumulation() -> bool` is torch.backends.cuda.matmul.allow_fp16_accumulation at the time of the
call. The operators call it for products of very many tokens alone, which they leave to torch otherwise.
"""

from __future__ import annotations

from functools import cache

import torch


def fp16_accumulation() -> bool:
    """Whether torch may sum products of fp16 in fp16."""
    return bool(torch.backends.cuda.matmul.allow_fp16_accumulation)


@cache
def register() -> None:
    torch.library.define("lowbit::fp16_accumulation", "() -> bool")
    torch.library.impl("lowbit::fp16_accumulation", "CompositeExplicitAutograd", fp16_accumulation)
