"""``lowbit bench``: decode speed, size and memory of a model beside its low-bit versions."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import lowbit
from lowbit.cli.arguments import DtypeOption, ModelArgument, check_prompt, load_model
from lowbit.cli.convert import convert
from lowbit.cli.output import JsonOption, count, print_json, print_line, print_table, progress
from lowbit.cli.quantize import HEAD
from lowbit.cli.schemes import SCHEME_HELP, parse_scheme, unique_labels
from lowbit.environment import describe, disturbance, environment
from lowbit.report import size

PROMPT = "The history of computing begins with"


def bench(
    model: ModelArgument,
    scheme: Annotated[
        list[str] | None,
        typer.Option(help=f"Convert a copy of MODEL and measure it too; repeatable. {SCHEME_HELP}"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Another model to measure beside it, e.g. a checkpoint's original."
        ),
    ] = None,
    include_head: Annotated[
        bool,
        typer.Option("--include-head", help=f"Schemes convert {HEAD} too, and the embedding tied to it."),
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Measure fast_decode too; compiling takes a minute per model.")
    ] = False,
    new_tokens: Annotated[int, typer.Option(help="Tokens per run.", min=2)] = 64,
    rounds: Annotated[int, typer.Option(help="Alternating runs of each model.", min=1)] = 3,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = PROMPT,
    dtype: DtypeOption = "bfloat16",
    json_output: JsonOption = False,
) -> None:
    """Decode speed at batch 1, weight bytes and peak memory; all models alternate in one run."""
    from lowbit.measure import decode_speed, weight_size
    from lowbit.memory import peak_memory

    check_prompt(prompt)
    stamp = environment()
    chosen = [parse_scheme(spec) for spec in scheme or []]
    labels = unique_labels(chosen)
    loaded = load_model(model, dtype)
    if chosen and loaded.kind == "lowbit":
        raise typer.BadParameter(f"--scheme converts an original model, and '{model}' is a lowbit checkpoint")
    models: dict[str, Any] = {model: loaded.model}
    sources: dict[str, str | Path] = {model: model}
    if against == model:
        raise typer.BadParameter(f"--against is MODEL itself: '{model}'")
    if against is not None:
        models = {against: load_model(against, dtype).model, **models}
        sources[against] = against
    with tempfile.TemporaryDirectory(prefix="lowbit-bench-") as scratch:
        for index, (label, item) in enumerate(zip(labels, chosen, strict=True)):
            with progress(f"Converting to {label}") as step:
                models[label] = copy.deepcopy(loaded.model)
                convert(models[label], item, step, skip=() if include_head else (HEAD,))
                sources[label] = Path(scratch) / str(index)
                lowbit.save_pretrained(models[label], sources[label], tokenizer=loaded.tokenizer)
        with progress("Peak memory"):
            memory = {name: peak_memory(sources[name], dtype=dtype) for name in models}
    with progress("Decoding") as step:
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        compiled = {_fast(name): lowbit.fast_decode(other) for name, other in models.items() if fast}
        speeds = decode_speed(models | compiled, ids, new_tokens=new_tokens, rounds=rounds, progress=step)

    baseline = next(iter(models))
    rows = []
    for name in models:
        weights = weight_size(models[name])
        rows.append(
            {
                "model": name,
                **speeds[name].to_dict(),
                "times_faster": speeds[name].times_faster_than(speeds[baseline]),
                "fast_decode": speeds[_fast(name)].to_dict() if fast else None,
                "bits_per_weight": weights.bits_per_weight,
                "weight_bytes": weights.bytes,
                "memory": {**asdict(memory[name]), "decode_above_imports": memory[name].decode_above_imports},
            }
        )
    if json_output:
        print_json(
            {
                "baseline": baseline,
                "new_tokens": new_tokens,
                "rounds": rounds,
                "models": rows,
                "environment": stamp,
            }
        )
        return
    _print(rows, stamp, new_tokens, rounds)


def _fast(name: str) -> str:
    return f"{name}, fast_decode"


def _print(rows: list[dict[str, Any]], stamp: dict[str, object], new_tokens: int, rounds: int) -> None:
    print_table(
        "decode, batch 1",
        (
            "model",
            "tokens/s",
            "ms/token",
            "min-max",
            "fast_decode",
            "x faster",
            "bits/weight",
            "weights",
            "peak memory",
            "of it model",
        ),
        [
            (
                row["model"],
                f"{row['tokens_per_second']:.1f}",
                f"{row['ms_per_token']:.2f}",
                f"{row['ms_per_token_min']:.2f}-{row['ms_per_token_max']:.2f}",
                f"{row['fast_decode']['tokens_per_second']:.1f}" if row["fast_decode"] else "-",
                f"{row['times_faster']:.2f}",
                f"{row['bits_per_weight']:.2f}",
                size(row["weight_bytes"]),
                size(row["memory"]["decode_peak"]),
                size(row["memory"]["decode_above_imports"]),
            )
            for row in rows
        ],
    )
    print_line(
        f"Medians of {count(rounds, 'alternating run')} of {count(new_tokens, 'token')} "
        "by transformers' generate. fast_decode: tokens/s of the compiled step (--fast) in the same rounds.\n"
        "Memory: while decoding, each model in a process of its own; Python and torch take the rest."
    )
    for line in filter(None, (disturbance(stamp), describe(stamp))):
        print_line(line)
