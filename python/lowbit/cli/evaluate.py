"""``lowbit eval``: perplexity."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.arguments import DtypeOption, ModelArgument, load_model
from lowbit.cli.output import JsonOption, print_json, print_line, progress
from lowbit.errors import LowbitError


def evaluate(
    model: ModelArgument,
    text: Annotated[
        Path | None,
        typer.Option(
            help="UTF-8 text file; default: Python's pydoc_data.topics, keys sorted, joined by blank lines."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Use only this many tokens of the text; a last window that they do not fill is left out, "
            "unless it is the only one.",
            min=1,
        ),
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window, BOS included.", min=2)] = 512,
    dtype: DtypeOption = "bfloat16",
    json_output: JsonOption = False,
) -> None:
    """Perplexity on a text, with the definition of the number."""
    from lowbit.perplexity import perplexity

    content = None if text is None else _read(text)
    loaded = load_model(model, dtype)
    with progress("Perplexity") as step:
        result = perplexity(
            loaded.model, loaded.tokenizer, content, window=window, max_tokens=tokens, progress=step
        )
    source = "pydoc_data.topics of this Python" if text is None else str(text)
    if json_output:
        print_json(
            {"model": model, "text": source, "perplexity": result.value}
            | {key: value for key, value in asdict(result).items() if key != "value"}
            | {"definition": result.definition}
        )
        return
    print_line(
        f"perplexity {result.value:.4f} on {source} ({result.tokens:,} tokens, {result.seconds:.1f} s)"
    )
    print_line(f"  {result.definition}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LowbitError(f"cannot read the text '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LowbitError(f"cannot read the text '{path}': {error}") from error
