"""Alternating timing of several ways to do one thing, with weights that do and do not fit the caches.

Every round calls each candidate, so a disturbance of the machine meets all of them, and ratios are taken
within a round. *Cold* calls go through copies of the weights, and no copy is met again before all other
candidates have had their turn: far more bytes than any cache holds lie between, so that every call reads
memory. *Warm* calls repeat one copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median

Call = Callable[[], object]


@dataclass
class Candidate:
    """One way to do the work.

    Attributes:
        name: unique in a run.
        calls: the same work on different copies of the weights.
        bytes: read and written by one call, everything counted.
        bits_per_weight: of the stored weight, everything counted; None where there is no weight.
        activation_error: relative error of the product that rounding activations makes; None: not measured.
        setting: entered around each turn, outside the time, e.g. to force an instruction set.
    """

    name: str
    calls: Sequence[Call]
    bytes: int
    bits_per_weight: float | None = None
    activation_error: float | None = None
    setting: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass
class Samples:
    """Microseconds per call, one figure (the median of its calls) per round."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


def copies_needed(weight_bytes: int) -> int:
    """Copies of a weight for cold calls: 160 MB, a turn long and little enough for dozens of candidates."""
    return max(2, -(-160_000_000 // weight_bytes))


def alternate(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    round_ms: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Samples]:
    """Time all candidates, ``rounds`` times in turn, cold and then warm, about ``round_ms`` each.

    The first call of every candidate is not counted. Cold calls go on through the copies where the round
    before stopped, and a turn meets no copy twice.
    """
    samples = {candidate.name: Samples() for candidate in candidates}
    positions = dict.fromkeys(samples, 0)
    counts = {candidate.name: _calls_per_round(candidate, round_ms) for candidate in candidates}
    for done in range(rounds):
        for candidate in candidates:
            count, start = counts[candidate.name], positions[candidate.name]
            order = [candidate.calls[(start + i) % len(candidate.calls)] for i in range(count)]
            positions[candidate.name] = start + count
            with candidate.setting():
                samples[candidate.name].cold.append(_time(order))
                samples[candidate.name].warm.append(_time([order[-1]] * count))
        if progress is not None:
            progress(done + 1, rounds)
    return samples


def _calls_per_round(candidate: Candidate, round_ms: float) -> int:
    with candidate.setting():
        candidate.calls[0]()
        microseconds = _time([candidate.calls[1 % len(candidate.calls)]] * 2)
    return int(min(max(round_ms * 1000 / microseconds, 1), 200, len(candidate.calls)))


def _time(calls: Sequence[Call]) -> float:
    clock = time.perf_counter_ns
    times = []
    for call in calls:
        began = clock()
        call()
        times.append(clock() - began)
    return median(times) / 1000
