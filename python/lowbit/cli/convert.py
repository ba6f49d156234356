"""Converting a model while someone watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lowbit


def convert(
    model: Any,
    scheme: lowbit.Scheme,
    step: Callable[[int, int], None],
    *,
    skip: Sequence[str],
    overrides: Mapping[str, lowbit.Scheme] | None = None,
) -> lowbit.Report:
    """``lowbit.replace_linear``, telling ``step`` (layers done, layers in all)."""
    return lowbit.replace_linear(
        model, scheme, skip=skip, overrides=overrides, progress=lambda done, total, _: step(done, total)
    )
