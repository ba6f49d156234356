"""Converting a model while someone watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import lowbit


def convert(
    model: Any,
    scheme: lowbit.Scheme,
    step: Callable[[int, int], None],
    *,
    skip: Sequence[str],
    overrides: Mapping[str, lowbit.Scheme] | None = None,
) -> lowbit.Report:
    """``lowbit.replace_linear`` on one torch thread, telling ``step`` (layers done, layers in all).

    Quantisers work on pieces that fit a core's cache, thousands of short operations. More threads gain little
    there, and on a busy machine their barriers cost a factor of ten: every operation waits for the slowest
    thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return lowbit.replace_linear(
            model, scheme, skip=skip, overrides=overrides, progress=lambda done, total, _: step(done, total)
        )
    finally:
        torch.set_num_threads(threads)
