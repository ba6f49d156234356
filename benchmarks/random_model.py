"""Decoding of a large model with random 1-bit weights, beside loops that read the same bytes and do no more.

    python benchmarks/random_model.py [DIRECTORY] --kind binary_mos

Speed does not depend on what the weights are, so a model of any size is made from its `config.json` alone:
packed bits are drawn for one layer after another, and the dense weights, which may not fit the memory, never
exist. Without DIRECTORY it has the shape of Llama 3 8B. `fast_decode` and the read loops take turns.

Leaves random_model.json and random_model.md in --output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lowbit
import ours
import reads
import torch
from lowbit.checkpoint.skeleton import build_skeleton
from lowbit.cli.output import quiet_libraries
from lowbit.decoding import FastDecoder
from lowbit.environment import describe, disturbance, environment
from lowbit.errors import LowbitError
from lowbit.formats import PackedWeight
from lowbit.generation import decode_seconds
from lowbit.modules import QuantizedLinear, make_linear
from lowbit.statistics import Interval, paired_ratio
from model_level import PROMPT_TOKENS, Split, prompt, split
from report import markdown_table, write_json
from rich.console import Console
from torch import nn
from transformers import LlamaConfig

DTYPE = torch.bfloat16  # of everything that is not packed
KINDS: Mapping[str, Callable[[int, int], PackedWeight]] = {
    "binary_mos": ours.binary_mos,
    "one_bit": ours.one_bit,
}
LLAMA3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
    "architectures": ["LlamaForCausalLM"],
}


def random_model(directory: Path, make: Callable[[int, int], PackedWeight]) -> Any:
    """The model that a directory's `config.json` describes, every linear layer packed and random.

    Args:
        make: out_features, in_features -> a weight.
    """
    torch.manual_seed(0)
    model: Any = build_skeleton(directory, DTYPE)
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    for name, linear in linears.items():
        bias = None if linear.bias is None else torch.zeros(linear.out_features, dtype=DTYPE)
        weight = make(linear.out_features, linear.in_features)
        model.set_submodule(name, make_linear(weight, bias, dtype=DTYPE, name=name))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:  # embeddings
            owner, _, own = name.rpartition(".")
            values = torch.randn(parameter.shape, dtype=DTYPE)
            setattr(model.get_submodule(owner), own, nn.Parameter(values, requires_grad=False))
    return model


@dataclass(frozen=True)
class Result:
    """Attributes:
    weight_bytes: of all linear layers, as a token reads them.
    compile_seconds: of the decoding step.
    decode: milliseconds per token, for every round.
    reads: the same for one pass of every read loop.
    split: what of a token the layers take, in a run of its own.
    """

    kind: str
    parameters: int
    weight_bytes: int
    compile_seconds: float
    decode: list[float]
    reads: dict[str, list[float]]
    split: Split

    @property
    def best_read(self) -> str:
        return min(self.reads, key=lambda name: median(self.reads[name]))

    @property
    def share(self) -> Interval:
        """Of the read bandwidth: time of the best read loop over that of a token."""
        return paired_ratio(self.reads[self.best_read], self.decode)

    def table(self) -> str:
        best = self.best_read
        lines = [
            (f"{self.kind}, fast_decode", self.decode, self.share),
            (f"reading its weights: {best}", self.reads[best], "1"),
        ]
        rows = [
            (name, f"{median(ms):.2f}", f"{self.weight_bytes / median(ms) / 1e6:.1f}", share)
            for name, ms, share in lines
        ]
        return markdown_table(("", "ms/token", "GB/s", "of the read bandwidth"), rows)

    def sections(self) -> list[str]:
        return [
            self.table(),
            f"{self.parameters / 1e9:.2f} G weights in linear layers, {self.weight_bytes / 1e6:.0f} MB with "
            f"their scales. The best of {len(self.reads)} read loops over the same tensors. A step replayed "
            f"part by part: {self.split.linears:.2f} ms in linear layers, {self.split.attention:.2f} in "
            f"attention, {self.split.rest:.2f} in the rest. Compiling the step took "
            f"{self.compile_seconds:.0f} s.",
        ]


def measure(directory: Path, kind: str, *, new_tokens: int, rounds: int) -> Result:
    """All figures of one model in one run."""
    quiet_libraries()
    model = random_model(directory, KINDS[kind])
    layers = [part for part in model.modules() if isinstance(part, QuantizedLinear)]
    tensors = {
        f"{index} {name}": tensor
        for index, layer in enumerate(layers)
        for name, tensor in layer.runtime_tensors().items()
    }
    loops = {loop.name: loop.calls[0] for loop in reads.candidates("read", [tensors])}
    decoder: FastDecoder = lowbit.fast_decode(model)
    compile_seconds = decoder.warm_up()
    ids = prompt(model.config.vocab_size, 1, PROMPT_TOKENS)
    decode_seconds(decoder, ids, 3)
    decode: list[float] = []
    passes: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        decode.append(1000 * decode_seconds(decoder, ids, new_tokens))
        for name, loop in loops.items():
            began = time.perf_counter()
            loop()
            passes[name].append(1000 * (time.perf_counter() - began))
    return Result(
        kind,
        sum(layer.in_features * layer.out_features for layer in layers),
        sum(layer.nbytes for layer in layers),
        compile_seconds,
        decode,
        passes,
        split(decoder),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, help="with a config.json; default: Llama 3 8B's")
    parser.add_argument("--kind", choices=KINDS, default="binary_mos")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    if given.new_tokens < 2 or given.rounds < 1:
        parser.error("--new-tokens must be 2 or more, --rounds 1 or more")
    stamp = environment()
    try:
        with tempfile.TemporaryDirectory(prefix="lowbit-model-") as scratch:
            if given.directory is None:
                LlamaConfig(**LLAMA3_8B).save_pretrained(scratch)
            result = measure(
                given.directory or Path(scratch),
                given.kind,
                new_tokens=given.new_tokens,
                rounds=given.rounds,
            )
    except LowbitError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, style="bold red")
        return 1
    what = str(given.directory or "Llama 3 8B")
    remarks = filter(None, (disturbance(stamp), describe(stamp)))
    text = "\n\n".join((f"# The shape of {what}, random weights", *result.sections(), *remarks)) + "\n"
    share = asdict(result.share)
    write_json(
        given.output / "random_model.json", {"environment": stamp, "random_model": result, "share": share}
    )
    (given.output / "random_model.md").write_text(text)
    Console().print(text, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
