"""Pictures of the benchmarks: one idea per panel, readable in a README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_INK, _MUTED, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_BASE, _OURS = "#9aa3b2", "#2563eb"


class Variant(Protocol):
    """A line of the demo's table, as far as its picture needs it."""

    name: str
    bits_per_weight: float
    tokens_per_second: float
    perplexity: float


def plot_demo(path: Path, variants: Sequence[Variant], title: str, footer: str) -> None:
    """Decode speed and perplexity against bits per weight; the first variant is the original."""
    figure, (speed, quality) = plt.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
    bits = [variant.bits_per_weight for variant in variants]
    colours = [_BASE, *[_OURS] * (len(variants) - 1)]
    for axes, values, label in (
        (speed, [variant.tokens_per_second for variant in variants], "tokens per second, batch 1"),
        (quality, [variant.perplexity for variant in variants], "perplexity (lower is better)"),
    ):
        axes.scatter(bits, values, c=colours, s=70, zorder=2)
        for index, (variant, x, y) in enumerate(zip(variants, bits, values, strict=True)):
            near = min(
                (other for other in range(len(bits)) if other != index), key=lambda o: _steps(bits[o], x)
            )
            above = y >= values[near]  # the labels of neighbours point away from each other
            axes.annotate(
                f"{variant.name}\n{_short(y)}",
                (x, y),
                xytext=(0, 9 if above else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8.5,
                color=_INK,
            )
        _dress(axes, label)
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(bits) * 0.6, max(bits) * 1.7)
        axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axes.minorticks_off()
        axes.set_xlabel("bits per weight, everything counted", color=_MUTED, fontsize=9)
    speed.set_ylim(0, 1.25 * max(variant.tokens_per_second for variant in variants))
    quality.set_yscale("log")
    low, high = quality.get_ylim()
    room = (high / low) ** 0.25  # for the labels, on a logarithmic axis
    quality.set_ylim(low / room, high * room)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK, fontweight="bold")
    _save(figure, path, footer)


def plot_kernels(path: Path, results: Sequence[Any], footer: str) -> None:
    """Times faster than torch bf16 at one token, cold, one panel per shape; torch itself is the line at 1."""
    shapes = list(dict.fromkeys((r.out_features, r.in_features) for r in results))
    if not shapes:
        return
    figure, axes_row = plt.subplots(
        1, len(shapes), figsize=(4.6 * len(shapes), 4.2), sharey=True, squeeze=False, constrained_layout=True
    )
    for axes, (n, k) in zip(axes_row[0], shapes, strict=True):
        lines = [r for r in results if (r.out_features, r.in_features) == (n, k)][::-1]
        values = [r.cold_vs_bf16.median for r in lines]
        errors = [
            [value - r.cold_vs_bf16.low for value, r in zip(values, lines, strict=True)],
            [r.cold_vs_bf16.high - value for value, r in zip(values, lines, strict=True)],
        ]
        colours = [_BASE if r.bits_per_weight is None else _OURS for r in lines]
        axes.barh(range(len(lines)), values, xerr=errors, color=colours, ecolor=_MUTED, height=0.65)
        for index, value in enumerate(values):
            axes.annotate(
                _short(value),
                (errors[1][index] + value, index),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=_INK,
            )
        axes.set_yticks(range(len(lines)), [r.name for r in lines], fontsize=9)
        axes.axvline(1, color=_MUTED, linewidth=0.8)
        axes.set_xlim(0, 1.2 * max(values))
        _dress(axes, f"{n} x {k}: times faster than torch bf16")
        axes.grid(axis="y", visible=False)
    _save(figure, path, footer)


def _steps(bits: float, other: float) -> float:
    """Distance on the axis of bits."""
    return abs(math.log(bits / other))


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_MUTED, labelsize=9)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _short(value: float) -> str:
    if value >= 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _save(figure: Any, path: Path, footer: str) -> None:
    figure.supxlabel(footer, x=0.01, ha="left", fontsize=7.5, color=_MUTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)
