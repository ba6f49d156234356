"""`make demo`: Gemma 3 270M beside itself at 4.5, 3 and 1 bits per weight, on this machine, in a few minutes.

Prints a table with size, perplexity, speed, memory and a sample of each version's text, and leaves it as
JSON, Markdown and a picture in demo_results/.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import lowbit
from decode import Result, Settings, Stages, Version, measure, show, write
from lowbit import backends
from lowbit.environment import environment
from lowbit.errors import LowbitError
from lowbit.models import DEMO_MODEL
from rich.console import Console

TITLE = "Gemma 3 270M on a CPU"
VERSIONS = (
    Version("bf16 original"),
    Version("W4 planes", lowbit.BipolarInt(weight_bits=4, group_size=64, asymmetric=True)),
    Version("W3 scalar codebook", lowbit.ScalarCodebook(bits=3)),
    Version("1-bit BinaryMoS", lowbit.BinaryMoS(experts=4)),
)
NOTE = (
    "Low-bit versions have every linear packed, and the embedding together with the head. One bit per weight "
    "does not survive rounding: without training the 1-bit version writes noise, and its perplexity says so. "
    "BinaryMoS is a training method and rounding is only its starting point; that row shows the size and the "
    "speed a trained model of this shape has. The original comes from a Q4_K_M file: its weights have been "
    "rounded once before."
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo_results"))
    arguments = parser.parse_args()
    console = Console()
    began = time.perf_counter()
    native = backends.availability()["cpu"]
    if not native.ok:
        console.print(
            f"The native kernels are not there ({native.reason}): plain torch runs, far slower.",
            style="bold red",
        )
    settings = Settings(new_tokens=64 if native.ok else 8)
    stamp = environment()
    try:
        with Stages(VERSIONS) as stages:
            measured = measure(DEMO_MODEL, VERSIONS, settings, stages)
        result = Result(TITLE, measured, settings, stamp, NOTE)
        write(arguments.output, "demo", result)
    except LowbitError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, style="bold red")
        return 1
    show(console, result)
    files = ", ".join(str(arguments.output / f"demo.{kind}") for kind in ("md", "png", "json"))
    console.print(f"\n{time.perf_counter() - began:.0f} s; saved {files}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
