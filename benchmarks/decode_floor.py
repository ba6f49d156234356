"""How fast a low-bit model can decode through `generate` on this machine at best, and how fast it does.

    python benchmarks/decode_floor.py MODEL --scheme bipolar_int:group_size=64,asymmetric=true

Four models take turns: the original, its low-bit version (head included), one whose linears read as
many bytes as the packed ones and do nothing else, and the loop alone, whose linears return zeros. No kernel
can beat

    floor = time of the loop alone + bytes of the low-bit weights / read bandwidth of the same run,

and hardly the third model: reading also drives the interpreter's own data out of the caches, which slows the
rest of the loop down, and the floor does not have that.

Leaves decode_floor.json and decode_floor.md in --output.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lowbit
import torch
from lowbit.cli.convert import convert
from lowbit.cli.output import quiet_libraries
from lowbit.cli.schemes import SCHEME_HELP, parse_scheme, scheme_label
from lowbit.environment import describe, disturbance, environment, last_level_cache
from lowbit.errors import LowbitError
from lowbit.measure import decode_speed, weight_size
from lowbit.models import load
from lowbit.modules import QuantizedLinear
from lowbit.statistics import Spread
from report import markdown_table, write_json
from rich.console import Console
from timing import Candidate, alternate
from torch import Tensor, nn

ORIGINAL, LOW_BIT, READING, LOOP = "original", "low-bit", "reading", "loop alone"
PROMPT = "The capital of France is"


class ReturnsZeros(nn.Module):
    """A linear layer that costs nothing but its output."""

    def __init__(self, linear: nn.Linear | QuantizedLinear) -> None:
        super().__init__()
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)


class OnlyReads(ReturnsZeros):
    """A packed linear layer that reads as many bytes as it holds, on torch's threads, and does no more."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__(linear)
        self.words = torch.ones(linear.nbytes // 4, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        torch.max(self.words)
        return super().forward(x)


def with_linears(model: nn.Module, kind: type[nn.Module], instead: Callable[[Any], nn.Module]) -> nn.Module:
    """A copy with other modules in place of the linear layers of a kind; everything else runs as it is."""
    changed = copy.deepcopy(model)
    for name, linear in [(n, part) for n, part in changed.named_modules() if isinstance(part, kind)]:
        changed.set_submodule(name, instead(linear))
    return changed


@dataclass(frozen=True)
class Floor:
    """Milliseconds per token, medians of alternating runs, and what they are made of."""

    scheme: str
    original: float
    low_bit: float
    reads: float
    loop: float
    weight_bytes: int
    gigabytes_per_second: float
    rounds: dict[str, list[float]]

    @property
    def reading(self) -> float:
        return self.weight_bytes / self.gigabytes_per_second / 1e6

    @property
    def floor(self) -> float:
        return self.loop + self.reading

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {
            "reading": self.reading,
            "floor": self.floor,
            "times_faster": self.original / self.low_bit,
            "times_faster_at_best": self.original / self.floor,
        }

    def table(self) -> str:
        rows = [
            (ORIGINAL, self.original, 1.0),
            (self.scheme, self.low_bit, self.original / self.low_bit),
            ("linears that only read their packed tensors", self.reads, self.original / self.reads),
            ("floor: loop alone + reading the weights", self.floor, self.original / self.floor),
            (LOOP, self.loop, self.original / self.loop),
        ]
        cells = [(name, f"{ms:.2f}", f"{faster:.2f}") for name, ms, faster in rows]
        return markdown_table(("", "ms/token", "x faster"), cells)


def read_bandwidth(rounds: int) -> float:
    """GB/s of torch.sum over an array far larger than the last-level cache."""
    big = torch.ones(max(4 * last_level_cache(), 256 * 1024**2) // 4)
    calls = [partial(torch.sum, part) for part in big.chunk(4)]
    candidate = Candidate("memory read", calls, big.nbytes // 4)
    cold = Spread.of(alternate([candidate], rounds=rounds)[candidate.name].cold)
    return candidate.bytes / cold.median / 1000


def measure(source: str, scheme: lowbit.Scheme, *, new_tokens: int, rounds: int) -> Floor:
    """All figures of the model at ``source`` in one run."""
    quiet_libraries()
    original = load(source)
    low_bit = copy.deepcopy(original.model)
    convert(low_bit, scheme, lambda done, total: None, skip=())
    models = {
        ORIGINAL: original.model,
        LOW_BIT: low_bit,
        READING: with_linears(low_bit, QuantizedLinear, OnlyReads),
        LOOP: with_linears(original.model, nn.Linear, ReturnsZeros),
    }
    ids = original.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    speeds = decode_speed(models, ids, new_tokens=new_tokens, rounds=rounds)
    return Floor(
        scheme=scheme_label(scheme),
        original=speeds[ORIGINAL].ms_per_token,
        low_bit=speeds[LOW_BIT].ms_per_token,
        reads=speeds[READING].ms_per_token,
        loop=speeds[LOOP].ms_per_token,
        weight_bytes=weight_size(low_bit).bytes,
        gigabytes_per_second=read_bandwidth(max(rounds, 3)),
        rounds={name: list(speed.rounds) for name, speed in speeds.items()},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model directory, .gguf file, or gemma3-270m")
    parser.add_argument("--scheme", default="bipolar_int:group_size=64,asymmetric=true", help=SCHEME_HELP)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    console = Console()
    stamp = environment()
    try:
        floor = measure(
            given.model, parse_scheme(given.scheme), new_tokens=given.new_tokens, rounds=given.rounds
        )
    except LowbitError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, style="bold red")
        return 1
    bound = (
        f"{floor.weight_bytes / 1e6:.0f} MB at {floor.gigabytes_per_second:.1f} GB/s "
        f"take {floor.reading:.2f} ms. "
        f"{describe(stamp)}. {disturbance(stamp) or ''}"
    ).strip()
    text = f"# Decoding {given.model}: the floor\n\n{floor.table()}\n\n{bound}\n"
    given.output.mkdir(parents=True, exist_ok=True)
    write_json(given.output / "decode_floor.json", {"environment": stamp, "decode_floor": floor.to_dict()})
    (given.output / "decode_floor.md").write_text(text)
    console.print(text, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
