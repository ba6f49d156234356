"""``lowbit quantize``: convert a model's linears and save the checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import lowbit
from lowbit.cli.arguments import DtypeOption, ModelArgument, load_model
from lowbit.cli.convert import convert
from lowbit.cli.output import JsonOption, print_json, print_line, progress
from lowbit.cli.schemes import SCHEME_HELP, parse_override, parse_scheme, scheme_label
from lowbit.errors import CheckpointError
from lowbit.report import size

HEAD = "lm_head"


def quantize(
    model: ModelArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to create, or an empty one.")],
    scheme: Annotated[str, typer.Option(help=SCHEME_HELP)],
    bits: Annotated[
        int | None, typer.Option(help="Bits per code of bipolar_int and scalar_codebook.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Inputs that share a scale; -1: the whole row.")
    ] = None,
    include_head: Annotated[
        bool, typer.Option("--include-head", help=f"Convert {HEAD} too, and the embedding tied to it.")
    ] = False,
    head_scheme: Annotated[
        str | None, typer.Option(help=f"Scheme of {HEAD} (NAME[:key=value,...]); implies --include-head.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=SCHEME: another scheme for layers whose name matches; repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Name pattern of layers to leave alone; repeatable.")
    ] = None,
    dtype: DtypeOption = "bfloat16",
    json_output: JsonOption = False,
) -> None:
    """Convert the linears of a model and save it, with its tokenizer, as a lowbit checkpoint."""
    chosen = parse_scheme(scheme, bits=bits, group_size=group_size)
    overrides = {} if head_scheme is None else {HEAD: parse_scheme(head_scheme)}
    for text in override or []:
        pattern, other = parse_override(text)
        if pattern in overrides:
            raise typer.BadParameter(f"the scheme of '{pattern}' is given twice")
        overrides[pattern] = other
    patterns = list(skip or [])
    if not include_head and head_scheme is None:
        patterns.append(HEAD)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(
            "the output exists already", found=str(output), allowed="a new or empty directory"
        )
    loaded = load_model(model, dtype)

    began = time.perf_counter()
    with progress(f"Converting to {scheme_label(chosen)}") as step:
        report = convert(loaded.model, chosen, step, skip=patterns, overrides=overrides)
    with progress(f"Saving {output}"):
        lowbit.save_pretrained(loaded.model, output, tokenizer=loaded.tokenizer)
    seconds = time.perf_counter() - began
    written = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    if json_output:
        print_json(
            {"model": model, "output": str(output), "scheme": chosen.to_config(), "seconds": seconds}
            | {"file_bytes": written}
            | report.to_dict()
        )
        return
    print_line(str(report))
    print_line(f"saved to {output}: weights {size(written)}, {seconds:.1f} s")
