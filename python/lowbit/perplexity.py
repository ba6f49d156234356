"""Perplexity of a causal language model on a text, defined so that anyone can repeat the number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lowbit.errors import ValueRangeError

# Positions whose logits are widened to fp32 at once: with a vocabulary of 262,144 that is 64 MB.
_CHUNK = 64


@dataclass(frozen=True)
class Perplexity:
    """``value = exp(nll)``; ``nll`` is the mean negative log-likelihood in nats over ``positions`` tokens."""

    value: float
    nll: float
    tokens: int  # of the text that were used
    positions: int  # scored
    windows: int
    window: int
    bos: bool
    seconds: float

    @property
    def definition(self) -> str:
        """How the number was obtained, in one sentence."""
        content = f"BOS and {self.window - 1} tokens" if self.bos else f"{self.window} tokens"
        windows = "1 window" if self.windows == 1 else f"{self.windows} windows"
        return (
            f"exp of the mean negative log-likelihood of {self.positions:,} tokens; {windows} of {content}, "
            "no overlap, every token of a window but its first scored"
        )


def default_text() -> str:
    """English technical prose every Python installation has: ``pydoc_data.topics``, keys sorted, joined by a
    blank line.

    The text differs a little from one Python version to the next, so compare figures of one version only.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[key] for key in sorted(topics))


@torch.inference_mode()
def perplexity(
    model: Any,
    tokenizer: Any,
    text: str | None = None,
    *,
    window: int = 512,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity of ``model`` on the first ``max_tokens`` tokens of ``text`` (default: :func:`default_text`).

    The text is tokenised once, without special tokens, and cut into windows that do not overlap. Each window
    starts with the BOS token, which is not scored; where the tokenizer has none, the window's first token
    takes its place. A last window that is not full is dropped, unless it is the only one.

    Args:
        progress: called with (windows done, windows in all) after each window.

    Raises:
        ValueRangeError: ``window`` or ``max_tokens`` is too small, or the text has too few tokens to score
        one.
    """
    if window < 2:
        raise ValueRangeError("perplexity window too small", found=window, allowed="2 or more")
    if max_tokens is not None and max_tokens < 1:
        raise ValueRangeError("too few tokens", found=max_tokens, allowed="1 or more")
    ids = tokenizer(default_text() if text is None else text, add_special_tokens=False)["input_ids"][
        :max_tokens
    ]
    bos = tokenizer.bos_token_id
    prefix = [] if bos is None else [bos]
    step = window - len(prefix)
    starts = range(0, max(len(ids) - step, 0) + 1, step)
    windows = [prefix + ids[start : start + step] for start in starts]
    if len(windows[0]) < 2:
        raise ValueRangeError("the text is too short for a perplexity", found=f"{len(ids)} tokens")

    began = time.perf_counter()
    total, positions = 0.0, 0
    for index, content in enumerate(windows):
        tokens = torch.tensor([content], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
        targets = tokens[0, 1:]
        for start in range(0, len(targets), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            total += F.cross_entropy(logits[chunk].float(), targets[chunk], reduction="sum").item()
        positions += len(targets)
        if progress is not None:
            progress(index + 1, len(windows))
    nll = total / positions
    return Perplexity(
        value=math.exp(nll) if nll < 700 else math.inf,
        nll=nll,
        tokens=sum(len(content) - len(prefix) for content in windows),
        positions=positions,
        windows=len(windows),
        window=len(windows[0]),
        bos=bool(prefix),
        seconds=time.perf_counter() - began,
    )
