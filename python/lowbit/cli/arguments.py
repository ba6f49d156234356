"""Arguments several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.output import progress, quiet_libraries
from lowbit.models import DTYPES, SOURCES, LoadedModel, load, require_transformers

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"Which model: {SOURCES}.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        help=f"Of the floating-point weights and activations: {', '.join(DTYPES)}. "
        "A lowbit checkpoint keeps its own.",
        metavar="DTYPE",
    ),
]


def load_model(source: str, dtype: str) -> LoadedModel:
    """The model, quietly, with a sign of life on a terminal.

    Raises:
        typer.BadParameter: unknown dtype.
        CheckpointError: the model cannot be loaded.
        LowbitError: transformers is not installed.
    """
    if dtype not in DTYPES:
        raise typer.BadParameter(f"unknown dtype '{dtype}'; allowed {', '.join(DTYPES)}")
    require_transformers()
    quiet_libraries()
    with progress(f"Loading {source}"):
        return load(source, dtype=DTYPES[dtype])


def check_prompt(prompt: str) -> None:
    """Before a model is loaded for it.

    Raises:
        typer.BadParameter: it is empty.
    """
    if not prompt:
        raise typer.BadParameter("the prompt is empty: there is nothing to continue", param_hint="--prompt")
