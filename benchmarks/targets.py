"""What this project claims of its CPU kernels, held against runs: met, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from lowbit.statistics import Interval, median_interval, ratio_of_medians
from ours import BINARY_MOS, FAMILIES, ONE_BIT, PRODUCT, Q1_0, SCALAR, W2, W4, W8
from rivals import unpacked
from runs import COLD, Run
from shapes import Shape

_DECODE = (Shape(4096, 4096), Shape(11008, 4096), Shape(4096, 14336))
_SQUARE = _DECODE[0]
# Weights a second that two cores can multiply at one bit; where memory is faster, this is the floor.
_COMPUTE_LIMIT = 400e9
# Times of neighbouring batch sizes come from two runs: this much is drift between them.
_DRIFT = 1.10


@dataclass(frozen=True)
class Claim:
    """A figure and the bound it should keep.

    Attributes:
        measured: None where the run lacks one of its sides.
        by_reading: what a kernel would have that takes as long as the best read loop over its tensors; None
            where no loop ran.
    """

    text: str
    measured: Interval | None
    at_least: float | None = None
    at_most: float | None = None
    by_reading: Interval | None = None

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        if self.at_least is not None:
            return self.measured.value >= self.at_least
        assert self.at_most is not None
        return self.measured.value <= self.at_most

    @property
    def verdict(self) -> str:
        return "not measured" if self.measured is None else "met" if self.met else "MISSED"

    @property
    def wanted(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def __str__(self) -> str:
        limit = f"; by reading alone {self.by_reading.value:.3g}" if self.by_reading else ""
        return f"{self.verdict:12} {self.text}: {self.measured or '-'} (wanted {self.wanted}{limit})"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """All claims about the shapes and batch sizes that ``runs`` has."""
    found: list[Claim] = []
    for run in runs:
        if run.tokens == 1 and run.shape in _DECODE:
            found += [*_signs(run), *_planes(run)]
            found += _hot(run) if run.shape == _SQUARE else ()
        if run.shape == _SQUARE:
            found += _batches(run)
        if run.tokens == 512:
            found += _prompts(run)
    return found + list(_no_cliff(runs))


def _signs(run: Run) -> Iterator[Claim]:
    at = f"{run.shape}, M = 1, cold"
    faster = _faster(run, at)
    for kernel in (BINARY_MOS, ONE_BIT):
        yield _floor(
            run, kernel, f"{kernel}, {at}: time over the best read loop, or within 400 G weights/s", 1.10
        )
        yield faster(kernel, "llama.cpp Q1_0", 4)
        yield faster(kernel, "llama.cpp TQ2_0", 2.8)
        yield faster(kernel, "torch fp32", 50)
        yield faster(kernel, "torch bf16", 25)
        yield Claim(
            f"{kernel}, {at}: time of high over fast",
            run.times_faster(kernel, f"{kernel}, high"),
            at_most=1.9,
        )
        avx2, vnni = f"{kernel} [avx2]", f"{kernel} [avxvnni]"
        yield Claim(f"{avx2}, {at}: time over the best read loop", run.of_read(avx2), at_most=1.2)
        yield faster(avx2, "llama.cpp Q1_0", 3)
        if vnni in run.lines:
            yield faster(vnni, avx2, 1)
    yield faster(Q1_0, "llama.cpp Q1_0", 3)


def _planes(run: Run) -> Iterator[Claim]:
    at = f"{run.shape}, M = 1, cold"
    faster = _faster(run, at)
    for kernel, bound in ((W4, 1.15), (W2, 1.15), (SCALAR, 1.3)):
        yield Claim(f"{kernel}, {at}: time over the best read loop", run.of_read(kernel), at_most=bound)
    yield faster(W4, "torch bf16", 4)
    yield faster(W4, "llama.cpp Q4_0 repacked", 1.05)
    yield faster(W4, "llama.cpp Q4_K repacked", 1.05)
    yield faster(W2, "llama.cpp Q2_K repacked", 1.4)
    yield faster(W2, "llama.cpp TQ2_0", 1.3)
    yield faster(SCALAR, _first(run, "llama.cpp Q3_K repacked", "llama.cpp Q3_K"), 1)
    whole = f"{W8}, 8 active"
    for bits in (1, 2, 4):
        name = f"{W8}, {bits} active"
        ratio = run.times_faster(whole, than=name)
        if ratio is not None:
            ratio = _scaled(ratio, run.lines[whole].bytes / run.lines[name].bytes)
        yield Claim(f"{name}, {at}: time per byte read over that of all 8 planes", ratio, at_most=1.15)


def _hot(run: Run) -> Iterator[Claim]:
    at = f"{run.shape}, M = 1, warm"
    for kernel in (BINARY_MOS, ONE_BIT):
        entry = f"{kernel}, C entry"
        inside = _us(run, entry)
        yield Claim(f"{entry}, {at}: us", inside, at_most=40)
        through = run.lines.get(kernel)
        extra = None
        if inside is not None and through is not None:
            rounds = zip(through.warm, run.lines[entry].warm, strict=True)
            extra = median_interval([around - alone for around, alone in rounds])
        yield Claim(f"{kernel}, {at}: us more through torch.ops than through the C entry", extra, at_most=5)
    share = run.times_faster(BINARY_MOS, than=PRODUCT, temperature=COLD)
    if share is not None:
        share = Interval(1 - share.value, 1 - share.high, 1 - share.low)
    yield Claim(
        f"{BINARY_MOS}, {run.shape}, M = 1, cold: share of router and scale mixing", share, at_most=0.12
    )


def _batches(run: Run) -> Iterator[Claim]:
    at = f"{run.shape}, M = {run.tokens}, cold"
    faster = _faster(run, at)
    dynamic = "torch int8 dynamic"
    if run.tokens in (4, 16):
        rivals = [line for line in run.kernels if line.name == dynamic or line.name.startswith("llama.cpp")]
        best = min(rivals, key=lambda line: line.us(), default=None)
        for kernel in (BINARY_MOS, ONE_BIT):
            yield faster(kernel, best.name if best else dynamic, 3 if run.tokens == 4 else 1.5)
    if run.tokens == 512:
        for kernel in (BINARY_MOS, ONE_BIT):
            yield faster(kernel, dynamic, 1)


def _prompts(run: Run) -> Iterator[Claim]:
    """Of every shape: narrow layers leave less to gain than square ones."""
    faster = _faster(run, f"{run.shape}, M = {run.tokens}, cold")
    for entry in FAMILIES:
        for dtype in (torch.bfloat16, torch.float32):
            yield faster(entry.name, unpacked.name(entry.name, dtype), 1)


def _no_cliff(runs: Sequence[Run]) -> Iterator[Claim]:
    """Time per token of each batch size over that of the next smaller one that was run."""
    by_shape: dict[Shape, list[Run]] = {}
    for run in runs:
        by_shape.setdefault(run.shape, []).append(run)
    for shape, same in by_shape.items():
        for smaller, larger in pairwise(same):
            for kernel in (BINARY_MOS, ONE_BIT):
                ratio = ratio_of_medians(larger.lines[kernel].cold, smaller.lines[kernel].cold)
                yield Claim(
                    f"{kernel}, {shape}, cold: us per token, M = {larger.tokens} over M = {smaller.tokens}",
                    _scaled(ratio, smaller.tokens / larger.tokens),
                    at_most=_DRIFT,
                )


def _faster(run: Run, at: str) -> Callable[[str, str, float], Claim]:
    def claim(kernel: str, rival: str, wanted: float) -> Claim:
        read = run.best_read(kernel)
        return Claim(
            f"{kernel}, {at}: times faster than {rival}",
            run.times_faster(kernel, rival),
            at_least=wanted,
            by_reading=None if read is None else run.times_faster(read.name, rival),
        )

    return claim


def _floor(run: Run, kernel: str, text: str, bound: float) -> Claim:
    """Time over the read loop's or over what the cores can compute, whichever is the higher floor."""
    ratio = run.of_read(kernel)
    best = run.best_read(kernel)
    if ratio is not None and best is not None:
        compute = run.shape.weights / _COMPUTE_LIMIT * 1e6
        # The bound allows `bound` times the read or the whole of the compute time.
        ratio = _scaled(ratio, min(1.0, bound * best.us() / compute))
    return Claim(text, ratio, at_most=bound)


def _us(run: Run, name: str) -> Interval | None:
    return median_interval(run.lines[name].warm) if name in run.lines else None


def _first(run: Run, *names: str) -> str:
    return next((name for name in names if name in run.lines), names[-1])


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)


def summary(found: Sequence[Claim]) -> str:
    """One line."""
    verdicts = [claim.verdict for claim in found]
    return ", ".join(f"{verdicts.count(each)} {each}" for each in ("met", "MISSED", "not measured"))
