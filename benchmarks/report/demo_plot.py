"""The picture of the demo: one idea per panel, readable in a README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib import pyplot as plt

from report.style import BASE, INK, MUTED, OURS, dress, save, short


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
    colours = [BASE, *[OURS] * (len(variants) - 1)]
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
                f"{variant.name}\n{short(y)}",
                (x, y),
                xytext=(0, 9 if above else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8.5,
                color=INK,
            )
        dress(axes, label)
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(bits) * 0.6, max(bits) * 1.7)
        axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axes.minorticks_off()
        axes.set_xlabel("bits per weight, everything counted", color=MUTED, fontsize=9)
    speed.set_ylim(0, 1.25 * max(variant.tokens_per_second for variant in variants))
    quality.set_yscale("log")
    low, high = quality.get_ylim()
    room = (high / low) ** 0.25  # for the labels, on a logarithmic axis
    quality.set_ylim(low / room, high * room)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    save(figure, path, footer)


def _steps(bits: float, other: float) -> float:
    """Distance on the axis of bits."""
    return abs(math.log(bits / other))
