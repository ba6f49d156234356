"""Times of the GPU kernels beside torch's bf16 product: CUDA events around a captured graph, weights from
DRAM.

    python benchmarks/cuda_kernels.py [--output FOLDER]

Each graph holds calls on copies of a layer that together exceed the L2 cache three times, so every call reads
its weights from memory. Candidates alternate; figures are medians and quartiles of rounds. Needs an NVIDIA
GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import typer
from lowbit.environment import environment
from lowbit.formats import CodebookScalar, CodebookVector, PackedWeight, Planes, Signs
from lowbit.modules import make_linear
from report import markdown_table, write_json
from rich.console import Console
from timing import Spread, figures
from torch import Tensor

SHAPES = ((4096, 4096), (11008, 4096), (8192, 8192), (28672, 8192))
TOKENS = (1, 4, 8, 16, 64)
ROUNDS = 15
L2_TIMES = 3


def layers_of(n: int, k: int) -> dict[str, PackedWeight]:
    """Random weights of every kind, on the GPU: speed does not depend on the bits."""

    def bits(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")

    def scales(*shape: int) -> Tensor:
        return torch.rand(shape, device="cuda").half()

    row, groups = k // 8, k // 128
    return {
        "BinaryMoS, 4 experts": Signs(
            bits(n, row), k, router=scales(4, k), in_scales=scales(4, k), out_scales=scales(4, n)
        ),
        "signs g128": Signs(bits(n, row), k, scales(n, groups), 128),
        "W2 g128": Planes(bits(2, n, row), scales(n, groups), k, 128),
        "W4 g128": Planes(bits(4, n, row), scales(n, groups), k, 128),
        "W4 rows": Planes(bits(4, n, row), scales(n, 1), k, -1),
        "W3 scalar codebook": CodebookScalar(bits(3, n, row), scales(n, 8), k),
        "vector codebook, 2 x 8": CodebookVector(bits(2, n, row), scales(2, 256, 8), scales(n), k),
    }


def captured(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
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


@torch.inference_mode()
def shape_results(n: int, k: int) -> list[dict[str, object]]:
    dense = torch.randn(n, k, dtype=torch.bfloat16, device="cuda") / k**0.5
    layers: dict[str, list[torch.nn.Module]] = {}
    for name, packed in layers_of(n, k).items():
        first = make_linear(packed, dtype=torch.bfloat16, backend="cuda")
        rest = [make_linear(packed, dtype=torch.bfloat16) for _ in range(copies(first.nbytes) - 1)]
        layers[name] = [first, *rest]
    weights = [dense.clone() for _ in range(copies(dense.nbytes))]
    results = []
    for tokens in TOKENS:
        x = torch.randn(tokens, k, dtype=torch.bfloat16, device="cuda")
        empty = torch.empty(1, device="cuda")
        calls: dict[str, list[Callable[[], object]]] = {
            "torch bf16": [partial(torch.nn.functional.linear, x, w) for w in weights],
            "empty launch": [empty.zero_] * 100,
        }
        calls |= {name: [partial(m, x) for m in modules] for name, modules in layers.items()}
        graphs = {name: captured(each) for name, each in calls.items()}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                samples[name].append(microseconds(graph, len(calls[name])))
        for name, times in samples.items():
            nbytes = dense.nbytes if name == "torch bf16" else layers[name][0].nbytes if name in layers else 0
            results.append({"out_features": n, "in_features": k, "tokens": tokens, "kernel": name})
            results[-1] |= {"bytes": nbytes, "us": times}
    return results


def table(results: list[dict[str, object]]) -> str:
    rows = []
    for result in results:
        spread = Spread.of(result["us"])
        gbs = result["bytes"] / spread.median / 1e3
        shape = (
            f"{result['out_features']} x {result['in_features']}, M = {result['tokens']}: {result['kernel']}"
        )
        rows.append((shape, spread, figures(gbs) if result["bytes"] else ""))
    return markdown_table(("layer", "us", "GB/s"), rows)


def main(output: Path = Path("benchmarks/results")) -> None:
    console = Console(stderr=True)
    if not torch.cuda.is_available():
        console.print("[red]no NVIDIA GPU: nothing to time[/red]")
        raise typer.Exit(1)
    results = []
    for n, k in SHAPES:
        with console.status(f"{n} x {k}"):
            results += shape_results(n, k)
    stamp = environment() | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    write_json(output / "cuda_kernels.json", {"environment": stamp, "results": results})
    (output / "cuda_kernels.md").write_text(
        f"# GPU kernels: {stamp['gpu']}\n\n{table(results)}\n", encoding="utf-8"
    )
    console.print(output / "cuda_kernels.md")


if __name__ == "__main__":
    typer.run(main)
