"""Whole language models beside each other: decode and prefill, over the context's length and the batch.

    python benchmarks/model_level.py gemma3-270m --scheme bipolar_int:group_size=64,asymmetric=true

Every scheme packs all linears, head included. It decodes as the original does: through transformers'
`generate`, through the same with a decoder's steps (`in_generate`), and through the decoder alone
(`fast_decode`). Where llama.cpp is installed (`make rivals`) it decodes the same model from *pure* files of
its own types. All take turns at batch 1. Then `fast_decode` alone: time per token against the positions seen,
and against the batch, and what of a token's time its linear layers take.

Leaves model_level.json and model_level.md in --output.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import lowbit
import torch
from gguf import GGUFReader
from lowbit.cli.convert import convert
from lowbit.cli.output import quiet_libraries
from lowbit.cli.schemes import SCHEME_HELP, parse_scheme, scheme_label
from lowbit.decoding import FastDecoder
from lowbit.environment import describe, disturbance, environment
from lowbit.errors import LowbitError
from lowbit.generation import decode_seconds
from lowbit.measure import weight_size
from lowbit.models import gguf_file, load
from lowbit.statistics import median_interval, paired_ratio
from report import markdown_table, write_json
from rich.console import Console
from rivals import Missing, llama_cpp

ORIGINAL = "original"
WAYS = ("generate", "in_generate", "fast_decode")
PROMPT_TOKENS = 16
PREFILL_TOKENS = 512
SPLIT_STEPS = 25  # that are timed part by part
CONTEXT_STEPS = 16  # tokens decoded at every length
LLAMA_TYPES = ("Q4_0", "Q1_0")


class Runner(Protocol):
    """Something that continues a prompt of token ids [batch, length]."""

    weight_bytes: int

    def decode(self, ids: torch.Tensor, new_tokens: int) -> float:
        """Seconds per token."""

    def prefill(self, ids: torch.Tensor) -> float:
        """Seconds for the prompt."""


class Transformers:
    """A model through `generate`, or its FastDecoder."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weight_bytes = weight_size(_module(model)).bytes

    def decode(self, ids: torch.Tensor, new_tokens: int) -> float:
        return decode_seconds(self.model, ids, new_tokens)

    @torch.no_grad()
    def prefill(self, ids: torch.Tensor) -> float:
        began = time.perf_counter()
        _module(self.model)(input_ids=ids, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - began


class InGenerate(Transformers):
    """A model through `generate`, with the steps of its FastDecoder."""

    def decode(self, ids: torch.Tensor, new_tokens: int) -> float:
        with self.model.in_generate():
            return decode_seconds(self.model.model, ids, new_tokens)


class LlamaCpp:
    """A GGUF file through llama.cpp in this process."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        self.weight_bytes = sum(tensor.n_bytes for tensor in GGUFReader(path).tensors)
        self._decoder = llama_cpp.Decoder(path, threads=threads, context=context)

    def decode(self, ids: torch.Tensor, new_tokens: int) -> float:
        token = self._decoder.prefill(ids[0].tolist())
        began = time.perf_counter()
        for _ in range(new_tokens - 1):
            token = self._decoder.step(token)
        return (time.perf_counter() - began) / (new_tokens - 1)

    def prefill(self, ids: torch.Tensor) -> float:
        began = time.perf_counter()
        self._decoder.prefill(ids[0].tolist())
        return time.perf_counter() - began


@dataclass
class Figures:
    """One runner: seconds of every round."""

    weight_bytes: int
    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Milliseconds of a recorded step of `fast_decode`."""

    linears: float
    attention: float
    rest: float  # compiled by Inductor: norms, rotations, residuals, the most likely token

    @property
    def total(self) -> float:
        return self.linears + self.attention + self.rest


@dataclass
class Result:
    """Everything a run found. `context` and `batch` are milliseconds per step of `fast_decode`."""

    runners: dict[str, Figures]
    missing: dict[str, str]
    split: dict[str, Split] = field(default_factory=dict)
    context: dict[str, dict[int, float]] = field(default_factory=dict)
    batch: dict[str, dict[int, float]] = field(default_factory=dict)

    def table(self) -> str:
        rows = []
        plain = self.runners[f"{ORIGINAL}, {WAYS[0]}"]
        for name, found in self.runners.items():
            same = self.runners.get(f"{ORIGINAL}, {name.rpartition(', ')[2]}")
            rows.append(
                (
                    name,
                    f"{found.weight_bytes / 1e6:.0f}",
                    f"{1000 * median(found.decode):.2f}",
                    median_interval([1 / seconds for seconds in found.decode]),
                    paired_ratio(plain.decode, found.decode),
                    "" if same is None else paired_ratio(same.decode, found.decode),
                    f"{PREFILL_TOKENS / median(found.prefill):.0f}",
                )
            )
        faster = f"x {ORIGINAL}, {WAYS[0]}", f"x {ORIGINAL}, the same way"
        head = ("", "MB", "ms/token", "tokens/s", *faster, f"prefill of {PREFILL_TOKENS}, tokens/s")
        return markdown_table(head, rows)

    def sections(self) -> list[str]:
        found = [self.table()]
        found += [f"Not run: {name}: {why}." for name, why in self.missing.items()]
        for title, sweep in (("positions seen", self.context), ("batch", self.batch)):
            if sweep:
                sizes = sorted({size for line in sweep.values() for size in line})
                lines = [(name, *(f"{line[size]:.2f}" for size in sizes)) for name, line in sweep.items()]
                found.append(markdown_table((f"ms/step, {title}", *map(str, sizes)), lines))
        if self.split:
            lines = [
                (name, *(f"{ms:.2f}" for ms in (part.total, part.linears, part.attention, part.rest)))
                for name, part in self.split.items()
            ]
            head = ("ms of a step, replayed", "all", "linear layers", "attention", "the rest")
            found.append(markdown_table(head, lines))
        return found


def _module(model: Any) -> Any:
    return model.model if isinstance(model, FastDecoder) else model


def prompt(vocabulary: int, batch: int, length: int) -> torch.Tensor:
    """Token ids [batch, length] that mean nothing: speed does not depend on them."""
    return torch.randint(5, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))


def take_turns(
    runners: dict[str, Runner], vocabulary: int, new_tokens: int, rounds: int
) -> dict[str, Figures]:
    """Decode and prefill of every runner in every round, after calls of both that are not counted."""
    figures = {name: Figures(runner.weight_bytes) for name, runner in runners.items()}
    short, long = prompt(vocabulary, 1, PROMPT_TOKENS), prompt(vocabulary, 1, PREFILL_TOKENS)
    for runner in runners.values():
        runner.decode(short, 4)
        runner.prefill(long)
    for _ in range(rounds):
        for name, runner in runners.items():
            figures[name].decode.append(runner.decode(short, new_tokens))
            figures[name].prefill.append(runner.prefill(long))
    return figures


def split(decoder: FastDecoder) -> Split:
    """Where a step's time goes: the median of every call, at the positions that were last decoded."""
    steps = [decoder.time_step() for _ in range(SPLIT_STEPS)]
    spent = {"linears": 0.0, "attention": 0.0, "rest": 0.0}
    for calls in zip(*steps, strict=True):
        name = calls[0][0]
        part = "attention" if "attention" in name else "linears" if "_linear" in name else "rest"
        spent[part] += 1000 * median(seconds for _, seconds in calls)
    return Split(**spent)


def sweep_context(decoder: FastDecoder, vocabulary: int, lengths: Sequence[int]) -> dict[int, float]:
    """Positions seen -> milliseconds per token."""
    return {
        length: 1000 * decode_seconds(decoder, prompt(vocabulary, 1, length), CONTEXT_STEPS)
        for length in lengths
    }


def sweep_batch(decoder: FastDecoder, vocabulary: int, sizes: Sequence[int]) -> dict[int, float]:
    """Sequences at once -> milliseconds per step; every size is compiled first."""
    found = {}
    for size in sizes:
        decoder.warm_up(size)
        found[size] = 1000 * decode_seconds(decoder, prompt(vocabulary, size, PROMPT_TOKENS), CONTEXT_STEPS)
    return found


def llama_runners(source: str, scratch: Path, context: int, missing: dict[str, str]) -> dict[str, Runner]:
    """llama.cpp's own types of the same model; what is not there, with the reason, in `missing`."""
    found: dict[str, Runner] = {}
    threads = torch.get_num_threads()
    for kind in LLAMA_TYPES:
        name = f"llama.cpp {kind}, pure"
        try:
            target = scratch / f"{kind}.gguf"
            llama_cpp.quantize_model(gguf_file(source), target, kind, threads)
            found[name] = LlamaCpp(target, threads, context)
        except (Missing, LowbitError) as reason:
            missing[name] = str(reason)
    return found


def ways(name: str, decoder: FastDecoder) -> dict[str, Runner]:
    """The ways a model decodes here."""
    runners = Transformers(decoder.model), InGenerate(decoder), Transformers(decoder)
    return {f"{name}, {way}": runner for way, runner in zip(WAYS, runners, strict=True)}


def measure(source: str, schemes: Sequence[lowbit.Scheme], given: argparse.Namespace) -> Result:
    """All figures of the model at `source` in one run."""
    quiet_libraries()
    original = load(source)
    vocabulary = original.model.config.get_text_config(decoder=True).vocab_size
    runners = ways(ORIGINAL, lowbit.fast_decode(original.model))
    decoders: dict[str, FastDecoder] = {}
    for scheme in schemes:
        model = copy.deepcopy(original.model)
        convert(model, scheme, lambda done, total: None, skip=())
        label = scheme_label(scheme)
        decoders[label] = lowbit.fast_decode(model)
        runners |= ways(label, decoders[label])
    missing: dict[str, str] = {}
    context = max(PREFILL_TOKENS, PROMPT_TOKENS + given.new_tokens)
    with tempfile.TemporaryDirectory(prefix="lowbit-models-") as scratch:
        runners |= llama_runners(source, Path(scratch), context, missing)
        figures = take_turns(runners, vocabulary, given.new_tokens, given.rounds)
    return Result(
        figures,
        missing,
        {name: split(decoder) for name, decoder in decoders.items()},
        {name: sweep_context(decoder, vocabulary, given.contexts) for name, decoder in decoders.items()},
        {name: sweep_batch(decoder, vocabulary, given.batches) for name, decoder in decoders.items()},
    )


def sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model directory, .gguf file, or gemma3-270m")
    parser.add_argument("--scheme", action="append", default=[], help=SCHEME_HELP)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contexts", type=sizes, default=sizes("64,512,2048"))
    parser.add_argument("--batches", type=sizes, default=sizes("1,4,16"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    if given.new_tokens < 2 or given.rounds < 1:
        parser.error("--new-tokens must be 2 or more, --rounds 1 or more")
    stamp = environment()
    try:
        result = measure(given.model, [parse_scheme(spec) for spec in given.scheme], given)
    except LowbitError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, style="bold red")
        return 1
    remarks = filter(None, (disturbance(stamp), describe(stamp)))
    text = "\n\n".join((f"# {given.model}: whole models", *result.sections(), *remarks)) + "\n"
    write_json(given.output / "model_level.json", {"environment": stamp, "model_level": result})
    (given.output / "model_level.md").write_text(text)
    Console().print(text, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
