"""Measures, on the GPU at hand, which tiles the Triton kernels are fastest with.

A product is timed for one token, weights out of the cache. What is chosen holds up to 16 tokens, among which
a row of y must not change its bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from triton.errors import TritonError
from triton.testing import do_bench

from lowbit.triton_kernels.gpu import assume, gpu_of, note_origins
from lowbit.triton_kernels.launch import dry_run
from lowbit.tuning import Tiles, candidates

Run = Callable[[], object]
Timer = Callable[[Run], float]
LEAST_GAIN = 0.02  # less is noise, and not worth a change


@dataclass(frozen=True)
class Tuned:
    """A product: microseconds with the tiles that it has unmeasured, and with `tiles`, None where nothing was
    faster.

    `impossible`: how many tiles the GPU or the compiler refused, by reason.
    """

    product: str
    before: float
    after: float
    tiles: Tiles | None
    impossible: Mapping[str, int]


def microseconds(run: Run) -> float:
    """Median time on the GPU of `run` in a graph, the second-level cache emptied before each."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return 1e3 * float(do_bench(graph.replay, return_mode="median"))


def products(run: Run, on: torch.device) -> list[str]:
    """What tiles may be chosen for in `run`, which is not carried out."""
    with assume(gpu_of(on)), note_origins() as origins, dry_run():
        run()
    return list(origins)


def tune(run: Run, on: torch.device, done: Mapping[str, object], time: Timer) -> Sequence[Tuned]:
    """The fastest tiles of every product in `run` but those in `done`, one after the other.

    Tiles that cannot be had are passed over and counted: the GPU has too few registers or too little memory
    for them, or the compiler fails.
    """
    gpu = gpu_of(on)
    found: list[Tuned] = []

    def timed(product: str, tiles: Tiles | None) -> float:
        chosen = {one.product: one.tiles for one in found if one.tiles is not None}
        with assume(gpu._replace(tuned=chosen if tiles is None else {**chosen, product: tiles})):
            return time(run)

    for product in products(run, on):
        if product in done:
            continue
        before = after = timed(product, None)
        best, impossible = None, Counter[str]()
        for tiles in candidates(product):
            try:
                needed = timed(product, tiles)
            except (TritonError, RuntimeError) as error:  # the latter from torch and from MLIR
                impossible[f"{type(error).__name__}: {error}".splitlines()[0]] += 1
                continue
            if needed < min(after, before * (1 - LEAST_GAIN)):
                best, after = tiles, needed
        found.append(Tuned(product, before, after, best, dict(impossible)))
    return found
