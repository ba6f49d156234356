"""Kernel times of every family beside torch's own linears: one alternating run per shape, cold and warm.

    python benchmarks/kernels.py [--shapes 4096x4096,11008x4096] [--tokens 1,512] [--check-targets]

One token is the decode step: the weights are read once, and bytes decide. 512 tokens are the prefill: the
rival is unpacking the weights to bfloat16 and calling torch. Leaves kernels.json, kernels.md and kernels.png
in --output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lowbit import backends
from lowbit.environment import describe, disturbance, environment, last_level_cache
from lowbit.errors import BackendError
from lowbit.formats import CodebookChannel, CodebookScalar, CodebookVector, PackedWeight, Planes, Signs
from report import markdown_table, write_json
from rich.console import Console
from rich.progress import Progress
from timing import Candidate, Spread, alternate, copies_needed, figures, ratio
from torch import Tensor
from torch.nn import functional as F

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))  # out x in
BF16, FP32, READ = "torch bf16", "torch fp32", "memory read"
BINARY_MOS, W4 = "BinaryMoS (4 experts)", "W4 g128"
UNPACK = "unpack + torch bf16: "
PRECISION = {"fast": 0, "high": 1}
GROUP = 128


# --- Packed weights with random contents: speed does not depend on the values
# --------------------------------------


def _bits(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _scales(*shape: int) -> Tensor:
    return (torch.rand(shape) * 0.02 + 0.01).half()


def binary_mos(n: int, k: int) -> Signs:
    return Signs(
        _bits(n, k // 8),
        k,
        router=(torch.randn(4, k) * 0.02).half(),
        in_scales=_scales(4, k) * 50,
        out_scales=_scales(4, n),
    )


def one_bit(n: int, k: int) -> Signs:
    return Signs(_bits(n, k // 8), k, in_scales=_scales(1, k) * 50, out_scales=_scales(1, n))


def planes(n: int, k: int, bits: int) -> Planes:
    return Planes(_bits(bits, n, k // 8), _scales(n, k // GROUP), k, GROUP)


def scalar_codebook(n: int, k: int) -> CodebookScalar:
    return CodebookScalar(_bits(3, n, k // 8), (torch.randn(n, 8) * 0.02).half(), k)


def channel_codebook(n: int, k: int) -> CodebookChannel:
    return CodebookChannel(
        (torch.randn(256, k) * 0.02).half(),
        torch.randint(0, 256, (n,), dtype=torch.uint8),
        0,
        k,
        n,
        low_rank_out=(torch.randn(n, 128) * 0.02).half(),
        low_rank_in=(torch.randn(128, k) * 0.02).half(),
    )


def vector_codebook(n: int, k: int) -> CodebookVector:
    return CodebookVector(_bits(2, n, k // 8), (torch.randn(2, 256, 8) * 0.02).half(), _scales(n) * 50, k)


@dataclass(frozen=True)
class Entry:
    """A line of the table: a packed weight and the precision its kernel runs with."""

    name: str
    make: Callable[[int, int], PackedWeight]
    precision: str = "fast"


ENTRIES = (
    Entry(BINARY_MOS, binary_mos),
    Entry(f"{BINARY_MOS}, high", binary_mos, "high"),
    Entry("OneBit", one_bit),
    Entry("W2 g128", partial(planes, bits=2)),
    Entry(W4, partial(planes, bits=4)),
    Entry("W3 scalar codebook", scalar_codebook),
    Entry("channel codebook, 256 + rank 128", channel_codebook),
    Entry("vector codebook, 2 x 8", vector_codebook),
)


# --- Calls
# -------------------------------------------------------------------------------------------------------


def operator_call(packed: PackedWeight, precision: str, x: Tensor, out: Tensor) -> Callable[[], object]:
    """The operator on one copy of the weight in the native layout, writing to ``out``."""
    metadata = packed.metadata()
    choice = backends.select(packed.kind, device=x.device, dtype=x.dtype, backend="cpu")
    t: Mapping[str, Tensor] = choice.backend.prepare(packed.tensors(), metadata)
    n, k, code = packed.out_features, packed.in_features, PRECISION[precision]
    ops = torch.ops.lowbit
    if packed.kind == "signs":
        mix = (t.get("router"), t.get("in_scales"), t.get("out_scales"))
        return partial(
            ops.signs_linear_out,
            x,
            t["weight"],
            t.get("scales"),
            *mix,
            None,
            [],
            k,
            n,
            packed.group_size,
            code,
            out,
        )
    if packed.kind == "planes":
        bits = int(metadata["bits"])
        weight = (t["weight"], t["scales"], t.get("offsets"))
        return partial(ops.planes_linear_out, x, *weight, None, k, n, packed.group_size, bits, 0, code, out)
    if packed.kind == "codebook_channel":
        assert isinstance(packed, CodebookChannel)
        weight = (t["weight"], t["labels"], t.get("low_rank_out"), t.get("low_rank_in"))
        return partial(ops.codebook_channel_linear_out, x, *weight, None, k, n, packed.axis, code, out)
    if packed.kind == "codebook_scalar":
        weight = (t["weight"], t["tables"], None, None, None)
        return partial(ops.codebook_scalar_linear_out, x, *weight, None, k, code, out)
    weight = (t["weight"], t["codebooks"], t["out_scales"])
    return partial(ops.codebook_vector_linear_out, x, *weight, None, k, code, out)


# Row b holds the eight values +1 / -1 of byte b: one look-up unpacks eight weights.
_SIGNS_OF_BYTE = (((torch.arange(256)[:, None] >> torch.arange(8)) & 1) * 2 - 1).to(torch.bfloat16)


def _signs_bf16(bits: Tensor) -> Tensor:
    return _SIGNS_OF_BYTE.index_select(0, bits.flatten().int()).reshape(bits.shape[0], -1)


def unpack_and_multiply(packed: PackedWeight, x: Tensor) -> Tensor:
    """The way without these kernels: unpack to bfloat16, as fast as plain torch can, and call torch."""
    if isinstance(packed, Signs):
        assert packed.in_scales is not None
        assert packed.out_scales is not None
        gates = packed.gates(x).to(x.dtype)
        y = F.linear(x * (gates @ packed.in_scales.to(x.dtype)), _signs_bf16(packed.weight))
        return y * (gates @ packed.out_scales.to(x.dtype))
    if isinstance(packed, Planes):
        weight = _signs_bf16(packed.weight[0])
        for plane in packed.weight[1:]:
            weight = weight.mul_(2).add_(_signs_bf16(plane))
        groups = weight.view(packed.out_features, -1, packed.group_size)
        groups.mul_(packed.scales.to(weight.dtype)[:, :, None])
        return F.linear(x, weight)
    return F.linear(x, packed.dequantize().to(x.dtype))


def check(entry: Entry, packed: PackedWeight, x: Tensor) -> None:
    """A wrong kernel is not worth timing.

    Raises:
        BackendError: the kernel's result is not that of the format.
    """
    y = torch.empty(x.shape[0], packed.out_features, dtype=x.dtype)
    operator_call(packed, entry.precision, x, y)()
    some = torch.tensor([0, len(x) // 2, len(x) - 1]).unique()  # of many tokens, a few
    expected = packed.linear(x[some].float(), precision=entry.precision)
    error = ((y[some] - expected).norm() / expected.norm()).item()
    if not error < 5e-3:  # a bfloat16 result costs 1.7e-3
        raise BackendError(f"{entry.name}: wrong result of the kernel", found=f"relative error {error:.2e}")


# --- One run
# -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One line: times in microseconds, bandwidth in GB/s, ratios above 1 where the kernel is faster."""

    out_features: int
    in_features: int
    tokens: int
    name: str
    bits_per_weight: float | None
    cold: Spread
    warm: Spread
    gigabytes_per_second: float
    share_of_bandwidth: float
    cold_vs_bf16: Spread
    warm_vs_bf16: Spread
    cold_vs_fp32: Spread | None
    cold_vs_unpack: Spread | None


def candidates(
    n: int, k: int, tokens: int, entries: tuple[Entry, ...]
) -> tuple[list[Candidate], dict[str, float]]:
    """Everything timed for one shape, and the bits per weight of the packed ones."""
    cache = last_level_cache()
    x = torch.randn(tokens, k).bfloat16()
    x32 = x.float()
    found: list[Candidate] = []
    bits: dict[str, float] = {}

    def dense(name: str, activations: Tensor) -> None:
        size = n * k * activations.element_size()
        weights = [torch.randn(n, k).to(activations.dtype) * 0.02]
        weights += [weights[0].clone() for _ in range(copies_needed(size, cache) - 1)]
        traffic = size + (n + k) * tokens * activations.element_size()
        found.append(Candidate(name, [partial(F.linear, activations, weight) for weight in weights], traffic))

    big = torch.ones(max(4 * cache, 256 * 1024**2) // 4)
    found.append(Candidate(READ, [partial(torch.sum, part) for part in big.chunk(4)], big.nbytes // 4))
    dense(BF16, x)
    if tokens == 1:
        dense(FP32, x32)
    for entry in entries:
        packed = entry.make(n, k)
        check(entry, packed, x)
        y = torch.empty(tokens, n, dtype=x.dtype)
        copies = copies_needed(packed.nbytes, cache)
        calls = [operator_call(_copy(packed), entry.precision, x, y) for _ in range(copies)]
        found.append(Candidate(entry.name, calls, packed.nbytes + x.nbytes + y.nbytes))
        bits[entry.name] = packed.bits_per_weight
        if tokens > 1 and entry.precision == "fast":
            rivals = [partial(unpack_and_multiply, _copy(packed), x) for _ in range(2)]
            found.append(Candidate(UNPACK + entry.name, rivals, packed.nbytes + n * k * 4))
    return found, bits


def _copy(packed: PackedWeight) -> PackedWeight:
    tensors = {name: tensor.clone() for name, tensor in packed.tensors().items()}
    return type(packed).from_tensors(tensors, packed.metadata())


def run(n: int, k: int, tokens: int, rounds: int, progress: Callable[[int, int], None]) -> list[Result]:
    """All results of one shape."""
    entries = ENTRIES if tokens == 1 else tuple(entry for entry in ENTRIES if entry.precision == "fast")
    timed, bits = candidates(n, k, tokens, entries)
    samples = alternate(timed, rounds=rounds, round_ms=10 if tokens == 1 else 1, progress=progress)

    def speed(candidate: Candidate) -> float:
        return candidate.bytes / Spread.of(samples[candidate.name].cold).median / 1000

    bandwidth = speed(timed[0])
    results = []
    for candidate in timed:
        mine = samples[candidate.name]
        fp32, unpack = samples.get(FP32), samples.get(UNPACK + candidate.name)
        results.append(
            Result(
                out_features=n,
                in_features=k,
                tokens=tokens,
                name=candidate.name,
                bits_per_weight=bits.get(candidate.name),
                cold=Spread.of(mine.cold),
                warm=Spread.of(mine.warm),
                gigabytes_per_second=speed(candidate),
                share_of_bandwidth=speed(candidate) / bandwidth,
                cold_vs_bf16=ratio(mine.cold, samples[BF16].cold),
                warm_vs_bf16=ratio(mine.warm, samples[BF16].warm),
                cold_vs_fp32=ratio(mine.cold, fp32.cold) if fp32 else None,
                cold_vs_unpack=ratio(mine.cold, unpack.cold) if unpack else None,
            )
        )
    return results


# --- Targets and tables
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A claim about one result."""

    text: str
    measured: float
    wanted: float

    @property
    def met(self) -> bool:
        return self.measured >= self.wanted


def targets(results: list[Result]) -> list[Target]:
    """The claims of this project on the CPU, where the run has what they need; all on cold medians."""
    found = []
    for r in results:
        where = f"{r.name}, {r.out_features}x{r.in_features}, M = {r.tokens}"
        if r.tokens == 1 and r.name == BINARY_MOS:
            found.append(Target(f"{where}: times faster than torch bf16", r.cold_vs_bf16.median, 8.0))
            assert r.cold_vs_fp32 is not None
            found.append(Target(f"{where}: times faster than torch fp32", r.cold_vs_fp32.median, 20.0))
        if r.tokens == 1 and r.name == W4:
            found.append(Target(f"{where}: times faster than torch bf16", r.cold_vs_bf16.median, 4.0))
        if r.cold_vs_unpack is not None and r.name in (BINARY_MOS, W4):
            found.append(
                Target(f"{where}: times faster than unpack + torch bf16", r.cold_vs_unpack.median, 1.0)
            )
    return found


def tables(results: list[Result]) -> str:
    """Markdown, one table per shape and token count."""
    parts = []
    for n, k, m in dict.fromkeys((r.out_features, r.in_features, r.tokens) for r in results):
        lines = [r for r in results if (r.out_features, r.in_features, r.tokens) == (n, k, m)]
        other = "vs fp32" if m == 1 else "vs unpack + bf16"
        columns = [
            "kernel",
            "bits/weight",
            "cold us",
            "warm us",
            "GB/s",
            "% of read",
            "vs bf16",
            "warm",
            other,
        ]
        rows = []
        for r in lines:
            second = r.cold_vs_fp32 if m == 1 else r.cold_vs_unpack
            timed = [
                str(r.cold),
                str(r.warm),
                f"{r.gigabytes_per_second:.1f}",
                f"{100 * r.share_of_bandwidth:.0f}",
            ]
            ratios = [str(r.cold_vs_bf16), figures(r.warm_vs_bf16.median), str(second) if second else ""]
            if r.name == READ:
                ratios = ["", "", ""]
            rows.append([r.name, f"{r.bits_per_weight:.2f}" if r.bits_per_weight else "", *timed, *ratios])
        parts.append(f"### {n} x {k} (out x in), M = {m}\n\n" + markdown_table(columns, rows))
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", default=",".join(f"{n}x{k}" for n, k in SHAPES), help="OUTxIN,...; in: multiples of 128"
    )
    parser.add_argument("--tokens", default="1,512", help="values of M")
    parser.add_argument("--rounds", type=int, default=21, help="alternations at M = 1; a third of it above")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--check-targets", action="store_true", help="print each target; exit code 1 unless all are met"
    )
    arguments = parser.parse_args()
    shapes = [tuple(int(extent) for extent in shape.split("x")) for shape in arguments.shapes.split(",")]
    counts = [int(count) for count in arguments.tokens.split(",")]

    stamp = environment()
    results: list[Result] = []
    torch.manual_seed(0)
    with (
        torch.inference_mode(),
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
    ):
        for n, k in shapes:
            for tokens in counts:
                task = bar.add_task(f"{n} x {k}, M = {tokens}", total=None)
                step = partial(_advance, bar, task)
                rounds = arguments.rounds if tokens == 1 else max(3, arguments.rounds // 3)
                results += run(n, k, tokens, rounds, step)
    claims = targets(results)
    write(arguments.output, stamp, results, claims)
    print(tables(results))
    for line in filter(None, (disturbance(stamp), describe(stamp), f"written to {arguments.output}")):
        print("\n" + line)
    if arguments.check_targets:
        for claim in claims:
            verdict = "met   " if claim.met else "MISSED"
            print(f"{verdict} {claim.text}: {claim.measured:.2f} (wanted {claim.wanted:g})")
        return 0 if all(claim.met for claim in claims) else 1
    return 0


def _advance(bar: Progress, task: Any, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def write(output: Path, stamp: dict[str, object], results: list[Result], claims: list[Target]) -> None:
    """kernels.json, kernels.md and kernels.png."""
    from plots import plot_kernels

    write_json(output / "kernels.json", {"environment": stamp, "results": results, "targets": claims})
    notes = (
        "Microseconds per call: median (quartiles) of alternating rounds. Cold: copies of the weights rotate "
        "past the last-level cache. GB/s: everything a call reads and writes, cold; % of the read bandwidth "
        "that `torch.sum` reaches in the same run. Ratios above 1: faster than torch, rounds paired."
    )
    parts = ("# Kernels", describe(stamp), disturbance(stamp), notes, tables(results))
    (output / "kernels.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    plot_kernels(
        output / "kernels.png", [r for r in results if r.tokens == 1 and r.name != READ], describe(stamp)
    )


if __name__ == "__main__":
    sys.exit(main())
