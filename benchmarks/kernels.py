"""Kernel times of every family beside torch, llama.cpp and others: one alternating run per shape and batch.

    python benchmarks/kernels.py --shapes llama3-8b,4096x4096 --tokens 1,16     time, one file per run
    python benchmarks/kernels.py --shapes none --check-targets                  report on the runs there are

Every run is a process's worth of copies and takes half a minute or more. Each leaves its samples in
OUTPUT/kernels/; every call then writes the report of all runs found there: OUTPUT/kernels.{md,html} and
pictures.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

import ours
import reads
import rivals
import shapes
import torch
from lowbit import _native
from lowbit.environment import environment
from report.kernels import write_report
from rich.console import Console
from rich.progress import Progress
from runs import Run, load_all
from shapes import Shape
from targets import claims
from timing import Candidate, alternate

# Read loops are timed beside these kernels: the ones a target holds against the floor.
_FLOORED = (ours.BINARY_MOS, ours.ONE_BIT, ours.Q1_0, ours.W2, ours.W4, ours.SCALAR)


def candidates(problem: rivals.Problem) -> list[Candidate]:
    """Everything timed for one problem.

    Loops over a kernel's tensors come long after the kernel itself, which has left some of them in the cache.
    """
    mine = []
    for entry in ours.entries(problem.tokens):
        if problem.shape.in_features % ours.GROUP:
            raise SystemExit(f"in_features of {problem.shape} are not a multiple of {ours.GROUP}")
        mine.append(ours.candidate(problem, entry))
    found = [each.candidate for each in mine]
    if problem.tokens == 1:
        signs = [each for each in mine if each.entry in ours.entries(1)[:2]]
        found += [ours.without_torch(problem, each) for each in signs]
    found += rivals.gather(problem, rivals.all_rivals())
    loops = [reads.bandwidth()]
    if problem.tokens == 1:
        loops += [
            reads.candidates(each.entry.name, each.copies) for each in mine if each.entry.name in _FLOORED
        ]
    found += [loop for same in zip(*loops, strict=True) for loop in same]
    return found


def run(shape: Shape, tokens: int, rounds: int, bar: Progress) -> Run:
    """One shape and batch size."""
    stamp = environment() | {"rivals": rivals.versions()}
    problem = rivals.Problem(shape, tokens)
    task = bar.add_task(f"{shape}, M = {tokens}", total=None)
    timed = candidates(problem)
    samples = alternate(
        timed,
        rounds=rounds,
        round_ms=10 if tokens == 1 else 4,
        progress=lambda done, total: bar.update(task, completed=done, total=total),
    )
    return Run.of(stamp, shape, tokens, timed, samples, problem.missing)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="llama3-8b", help=f"OUTxIN, {', '.join(shapes.MODELS)}, or none")
    parser.add_argument(
        "--tokens", default="1", help=f"values of M, e.g. {','.join(map(str, shapes.TOKENS))}"
    )
    parser.add_argument("--rounds", type=int, default=21, help="alternations")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--check-targets", action="store_true", help="print each target; exit code 1 unless all are met"
    )
    arguments = parser.parse_args()
    chosen = () if arguments.shapes == "none" else shapes.parse(arguments.shapes)
    folder = arguments.output / "kernels"
    torch.manual_seed(0)
    _native.set_num_threads(
        torch.get_num_threads()
    )  # the read loops and the C entry have threads of their own
    console = Console(stderr=True)
    with torch.inference_mode(), Progress(console=console, disable=not sys.stderr.isatty()) as bar:
        for shape in chosen:
            for tokens in map(int, arguments.tokens.split(",")):
                console.print(run(shape, tokens, arguments.rounds, bar).save(folder), markup=False)
                gc.collect()
    runs = load_all(folder)
    found = claims(runs)
    write_report(arguments.output, runs, found)
    if not arguments.check_targets:
        return 0
    for claim in found:
        print(claim)
    return 0 if all(claim.met for claim in found) else 1


if __name__ == "__main__":
    sys.exit(main())
