"""Pictures of the kernel runs: a roofline, ratios at one token, time per token against the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from runs import Run

from report.style import BASE, INK, MUTED, OURS, dress, save, short

_RIVALS = ("torch", "llama.cpp", "bitsandbytes")


def draw(output: Path, runs: Sequence[Run], footer: str) -> list[Path]:
    """The pictures that ``runs`` have data for."""
    decode = [run for run in runs if run.tokens == 1]
    paths = []
    if decode:
        paths.append(_bars(output / "kernels.png", decode[-3:], footer))
        paths.append(_roofline(output / "kernels_roofline.png", decode[-1], footer))
    if any(run.tokens > 1 for run in runs):
        paths.append(_batches(output / "kernels_batch.png", runs, footer))
    return paths


def _is_rival(name: str) -> bool:
    return name.startswith(_RIVALS)


def _bars(path: Path, runs: Sequence[Run], footer: str) -> Path:
    """Times faster than torch bf16 at one token, cold; whiskers are 95 % intervals."""
    most = max(sum(1 for _ in run.kernels) for run in runs)
    figure, panels = plt.subplots(
        1, len(runs), figsize=(5.2 * len(runs), 0.22 * most + 1), squeeze=False, constrained_layout=True
    )
    for axes, run in zip(panels[0], runs, strict=True):
        named = [(line.name, run.times_faster(line.name, "torch bf16")) for line in run.kernels]
        bars = [(name, ratio) for name, ratio in named if ratio is not None][::-1]
        values = [ratio.value for _, ratio in bars]
        errors = [[r.value - r.low for _, r in bars], [r.high - r.value for _, r in bars]]
        colours = [BASE if _is_rival(name) else OURS for name, _ in bars]
        axes.barh(range(len(bars)), values, xerr=errors, color=colours, ecolor=MUTED, height=0.7)
        for index, (_, ratio) in enumerate(bars):
            axes.annotate(short(ratio.value), (ratio.high, index), xytext=(3, 0), textcoords="offset points",
                          va="center", fontsize=7, color=INK)  # fmt: skip
        axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
        axes.axvline(1, color=MUTED, linewidth=0.8)
        dress(axes, f"{run.shape}, cold: times torch bf16")
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(axis="y", visible=False)
    return save(figure, path, footer)


def _roofline(path: Path, run: Run, footer: str) -> Path:
    """Weights per second against weights per byte; the line is the read bandwidth of the same run.

    Variants of a kernel are left to the table: here their names would cover each other.
    """
    figure, axes = plt.subplots(figsize=(8, 5.5), constrained_layout=True)
    lines = [line for line in run.kernels if not line.name.endswith(("]", "active", "C entry"))]
    for line in lines:
        x, y = run.shape.weights / line.bytes, run.shape.weights / line.us() / 1e3
        axes.scatter(x, y, c=BASE if _is_rival(line.name) else OURS, s=22, zorder=2)
        axes.annotate(line.name, (x, y), xytext=(4, -2), textcoords="offset points", fontsize=6, color=INK)
    ends = [min(run.shape.weights / line.bytes for line in lines) / 1.5, 12]
    axes.plot(ends, [run.bandwidth * end for end in ends], color=MUTED, linewidth=1)
    axes.annotate(
        f"read, {run.bandwidth:.1f} GB/s", (ends[0], run.bandwidth * ends[0]), fontsize=8, color=MUTED
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("weights per byte read and written", color=MUTED, fontsize=9)
    axes.set_ylabel("G weights/s, cold", color=MUTED, fontsize=9)
    dress(axes, f"{run.shape}, M = 1: how near memory")
    return save(figure, path, footer)


def _batches(path: Path, runs: Sequence[Run], footer: str) -> Path:
    """Time per token against the number of tokens, for the shape with the most batch sizes."""
    shapes = [run.shape for run in runs]
    shape = max(dict.fromkeys(shapes), key=shapes.count)
    same = [run for run in runs if run.shape == shape]
    figure, axes = plt.subplots(figsize=(8, 5.5), constrained_layout=True)
    names = [line.name for line in same[-1].kernels if not line.name.endswith("]")]
    for name in names:
        points = [(run.tokens, run.lines[name].us() / run.tokens) for run in same if name in run.lines]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1,
                  color=BASE if _is_rival(name) else OURS)  # fmt: skip
        axes.annotate(name, points[-1], xytext=(4, 0), textcoords="offset points", fontsize=6, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([run.tokens for run in same], [str(run.tokens) for run in same])
    axes.set_xlabel("tokens", color=MUTED, fontsize=9)
    axes.set_ylabel("us per token, cold", color=MUTED, fontsize=9)
    dress(axes, f"{shape}: time per token")
    return save(figure, path, footer)
