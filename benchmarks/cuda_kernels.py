"""Times of the GPU kernels beside torch's bf16 product: CUDA events around a captured graph, weights from
DRAM.

    python benchmarks/cuda_kernels.py [--output FOLDER]

Each graph holds calls on copies of a layer that together exceed the L2 cache three times (cold), or as many
on one copy (warm). Candidates alternate; weights, statistics and tables are those of ``kernels.py``. Needs an
NVIDIA GPU and no attention: a few minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ours
import torch
import typer
from lowbit.environment import environment
from lowbit.modules import make_linear
from lowbit.statistics import Spread
from reads import BIG, READ
from report.kernels import markdown
from report.tables import run_table
from rich.console import Console
from runs import Run
from shapes import Shape
from timing import Candidate, Samples

SHAPES = (Shape(4096, 4096), Shape(11008, 4096), Shape(8192, 8192), Shape(28672, 8192))
TOKENS = (1, 4, 8, 16, 64)
ROUNDS = 15
DEVICE = "cuda"  # and the name of its backend
L2_TIMES = 3
BF16, EMPTY = "torch bf16", "empty launch"
ENTRIES = (*ours.FAMILIES, ours.Entry("W4 rows", partial(ours.planes, bits=4, group=-1)))


def captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """A graph of all calls, warmed up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def microseconds(graph: torch.cuda.CUDAGraph, calls: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / calls


def copies(nbytes: int) -> int:
    return max(2, -(-L2_TIMES * torch.cuda.get_device_properties(0).L2_cache_size // nbytes))


def layers_of(shape: Shape) -> dict[str, list[torch.nn.Module]]:
    """Copies of a layer of every kind, weights on the GPU."""
    layers = {}
    for entry in ENTRIES:
        with torch.device(DEVICE):
            packed = entry.make(shape.out_features, shape.in_features)
        each = [ours.clone(packed) for _ in range(copies(packed.nbytes))]
        layers[entry.name] = [make_linear(copy, dtype=torch.bfloat16, backend=DEVICE) for copy in each]
    return layers


def candidates(
    shape: Shape, tokens: int, layers: dict[str, list[torch.nn.Module]], dense: Sequence[torch.Tensor]
) -> list[Candidate]:
    """Every layer, torch's product, a read of memory far larger than the caches, and a launch of nothing."""
    x = torch.randn(tokens, shape.in_features, dtype=torch.bfloat16, device=DEVICE)
    ends = x.nbytes + 2 * tokens * shape.out_features
    big, empty = torch.ones(BIG, dtype=torch.uint8, device=DEVICE).view(torch.float32), x.new_empty(1)
    product = [partial(torch.nn.functional.linear, x, weight) for weight in dense]
    found = [
        Candidate(EMPTY, [empty.zero_] * 100, 0),
        Candidate(f"{READ}: torch.sum", [partial(torch.sum, big)], big.nbytes),
        Candidate(BF16, product, dense[0].nbytes + ends, 16.0),
    ]
    for name, modules in layers.items():
        calls = [partial(module, x) for module in modules]
        nbytes = modules[0].nbytes
        found.append(Candidate(name, calls, nbytes + ends, 8.0 * nbytes / shape.weights))
    return found


def alternate(timed: Sequence[Candidate]) -> dict[str, Samples]:
    """Microseconds per call of all candidates, ``ROUNDS`` times in turn."""
    graphs = {
        candidate.name: (captured(candidate.calls), captured([candidate.calls[0]] * len(candidate.calls)))
        for candidate in timed
    }
    samples = {candidate.name: Samples() for candidate in timed}
    for _ in range(ROUNDS):
        for candidate in timed:
            cold, warm = graphs[candidate.name]
            samples[candidate.name].cold.append(microseconds(cold, len(candidate.calls)))
            samples[candidate.name].warm.append(microseconds(warm, len(candidate.calls)))
    return samples


@torch.inference_mode()
def shape_runs(shape: Shape, stamp: dict[str, object]) -> list[Run]:
    layers = layers_of(shape)
    weight = torch.randn(shape.out_features, shape.in_features, dtype=torch.bfloat16, device=DEVICE)
    dense = [weight.clone() for _ in range(copies(weight.nbytes))]
    runs = []
    for tokens in TOKENS:
        timed = candidates(shape, tokens, layers, dense)
        runs.append(Run.of(stamp, shape, tokens, timed, alternate(timed), {}))
    return runs


def main(output: Path = Path("benchmarks/results")) -> None:
    console = Console(stderr=True)
    if not torch.cuda.is_available():
        console.print("[red]no NVIDIA GPU: nothing to time[/red]")
        raise typer.Exit(1)
    stamp = environment() | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    runs: list[Run] = []
    for shape in SHAPES:
        with console.status(str(shape)):
            runs += shape_runs(shape, stamp)
        for run in runs[-len(TOKENS) :]:
            run.save(output / "cuda_kernels")
    floor = Spread.of([us for run in runs for us in run.lines[EMPTY].cold])
    title = f"# GPU kernels: {stamp['gpu']}\n\nAn empty launch inside a graph takes {floor} us."
    tables = [markdown(run_table(run)) for run in runs]
    (output / "cuda_kernels.md").write_text("\n\n".join([title, *tables]) + "\n", encoding="utf-8")
    console.print(output / "cuda_kernels.md")


if __name__ == "__main__":
    typer.run(main)
