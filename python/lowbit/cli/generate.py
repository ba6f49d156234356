"""``lowbit generate``: continue a prompt, token by token, and say how fast."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from lowbit.cli.arguments import DtypeOption, ModelArgument, check_prompt, load_model
from lowbit.cli.output import JsonOption, count, print_json, progress


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.", min=1)] = 128,
    temperature: Annotated[
        float, typer.Option(help="0: the most likely token; above 0: sample.", min=0.0)
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample among the tokens that make up this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random numbers, when sampling.")] = 0,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Compile the model's step first: a minute, less the next time; then faster tokens.",
        ),
    ] = False,
    dtype: DtypeOption = "bfloat16",
    json_output: JsonOption = False,
) -> None:
    """Continue a prompt; the text goes to stdout as it is made, the speed to stderr."""
    from lowbit.generation import generate_text

    check_prompt(prompt)
    loaded = load_model(model, dtype)
    decoder = None
    if fast:
        from lowbit.decoding import fast_decode

        decoder = fast_decode(loaded.model)
        with progress("Compiling"):
            decoder.warm_up()
    started = False

    def write(text: str) -> None:
        nonlocal started
        sys.stdout.write(text if started else prompt + text)
        sys.stdout.flush()
        started = True

    result = generate_text(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        decoder=decoder,
        on_text=None if json_output else write,
    )
    speed = result.tokens_per_second
    if json_output:
        compiled = {} if decoder is None else {"compile_seconds": decoder.compile_seconds[1]}
        print_json(
            {"model": model, "prompt": prompt, **asdict(result), "tokens_per_second": speed, **compiled}
        )
        return
    write("\n")
    pace = f", {speed:.1f} tokens/s" if speed is not None else ""
    compiling = "" if decoder is None else f"; compiling took {decoder.compile_seconds[1]:.0f} s before"
    print(
        f"{count(result.new_tokens, 'token')}{pace}; first token after {result.prefill_seconds:.2f} s "
        f"({count(result.prompt_tokens, 'prompt token')}){compiling}",
        file=sys.stderr,
    )
