"""bitsandbytes' CPU kernels: 4-bit NF4 with groups of 64."""

from __future__ import annotations

from functools import partial

from timing import Candidate

from rivals import Missing, Problem

NAME = "bitsandbytes nf4"
GROUP = 64


def candidates(problem: Problem) -> list[Candidate]:
    try:
        import bitsandbytes
        from bitsandbytes import functional
    except Exception as error:  # its import runs code of its own that may fail in many ways
        raise Missing(f"{type(error).__name__}: {error}") from error
    x = problem.x.bfloat16()
    weight = problem.weight().bfloat16()
    try:
        packed, state = functional.quantize_4bit(weight, blocksize=GROUP, quant_type="nf4")
        bitsandbytes.matmul_4bit(x, packed.t(), state)
    except Exception as error:
        raise Missing(f"{type(error).__name__}: {error}") from error
    nbytes = packed.nbytes + state.absmax.nbytes
    copies = [packed, *(packed.clone() for _ in range(problem.copies(nbytes) - 1))]
    return [
        Candidate(
            NAME,
            [partial(bitsandbytes.matmul_4bit, x, copy.t(), state) for copy in copies],
            problem.traffic(nbytes, 2),
            bits_per_weight=8.0 * nbytes / problem.shape.weights,
        )
    ]
