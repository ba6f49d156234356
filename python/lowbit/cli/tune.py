"""``lowbit tune``: measure the tiles of the Triton kernels on this GPU, and keep what is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lowbit import backends, tuning
from lowbit.backends import packed_format
from lowbit.cli.arguments import load_model
from lowbit.cli.output import JsonOption, print_json, print_line, print_table, progress
from lowbit.cli.schemes import SCHEME_HELP, parse_scheme
from lowbit.errors import BackendError
from lowbit.formats import PRECISIONS, PackedWeight
from lowbit.models import DTYPES
from lowbit.modules import QuantizedLinear, make_linear
from lowbit.schemes import Scheme


def tune(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A checkpoint, made by lowbit quantize.")
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(help="Instead of MODEL: layers of these sizes, OUTxIN,OUTxIN,...", metavar="SHAPES"),
    ] = None,
    scheme: Annotated[str, typer.Option(help=f"Of --shapes. {SCHEME_HELP}")] = "bipolar_int",
    dtype: Annotated[str, typer.Option(help=f"Of the activations: {', '.join(DTYPES)}.")] = "bfloat16",
    precision: Annotated[str, typer.Option(help=f"Of the layers: {', '.join(PRECISIONS)}.")] = "high",
    json_output: JsonOption = False,
) -> None:
    """Time the Triton kernels with other tiles, layer by layer, and keep the fastest for this GPU."""
    if (model is None) == (shapes is None):
        raise typer.BadParameter("give MODEL or --shapes, one of them")
    if dtype not in DTYPES or precision not in PRECISIONS:
        raise typer.BadParameter(f"unknown --dtype '{dtype}' or --precision '{precision}'")
    sizes = [] if shapes is None else [_size(text) for text in shapes.split(",")]
    chosen = parse_scheme(scheme)
    gpu = device()
    layers: Sequence[Callable[[], PackedWeight]]
    if model is not None:
        layers = [module.packed for module in _layers(model, dtype)]
    else:
        layers = [partial(_random, chosen, size) for size in sizes]
    name = torch.cuda.get_device_name(gpu)
    rows = list(_tuned(layers, gpu, DTYPES[dtype], precision))
    file = tuning.store(name, {row.product: row.tiles for row in rows if row.tiles is not None})
    _report(name, file, rows, json_output)


def device() -> torch.device:
    """The current GPU.

    Raises:
        BackendError: Triton cannot run there; the message says why.
    """
    answer = backends.get("triton").available()
    if answer.ok and not torch.cuda.is_available():
        answer = backends.Availability(False, f"{answer.reason}; torch finds no GPU")
    if not answer.ok:
        raise BackendError("tiles are measured on a GPU with Triton", found=answer.reason)
    return torch.device("cuda", torch.cuda.current_device())


def _size(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise typer.BadParameter(f"'{text}' is no OUTxIN, such as 4096x14336")
    return int(rows), int(columns)


def _random(scheme: Scheme, size: tuple[int, int]) -> PackedWeight:
    return scheme.quantize(torch.randn(size))


def _layers(model: str, dtype: str) -> list[QuantizedLinear]:
    loaded = load_model(model, dtype)
    if loaded.kind != "lowbit":
        raise typer.BadParameter(f"'{model}' is no lowbit checkpoint; --shapes takes sizes without a model")
    return [module for module in loaded.model.modules() if isinstance(module, QuantizedLinear)]


def _tuned(
    layers: Sequence[Callable[[], PackedWeight]], gpu: torch.device, dtype: torch.dtype, precision: str
) -> Iterator[Any]:
    """What is found for each product, once."""
    from lowbit.backends import triton_tune
    from lowbit.triton_kernels import gpu as described

    done: dict[str, object] = {}
    with progress("Measuring") as step:
        for index, packed in enumerate(layers):
            step(index, len(layers))
            layer = packed()
            tensors = {name: tensor.to(gpu) for name, tensor in layer.tensors().items()}
            module = make_linear(
                packed_format(tensors, layer.metadata()), dtype=dtype, precision=precision, backend="triton"
            )
            x = torch.randn(1, layer.in_features, device=gpu).to(dtype)
            with torch.no_grad():
                found = triton_tune.tune(partial(module, x), gpu, done, triton_tune.microseconds)
            done |= {one.product: one for one in found}
            yield from found
    described.forget()


def _report(gpu: str, file: Path, rows: Sequence[Any], json_output: bool) -> None:
    if json_output:
        print_json({"gpu": gpu, "file": str(file), "products": [asdict(row) for row in rows]})
        return
    print_table(
        f"one token, {gpu}",
        ("product", "us", "tuned us", "programs, rows, warps, stages"),
        [
            (
                row.product,
                f"{row.before:.2f}",
                f"{row.after:.2f}",
                "as it was" if row.tiles is None else ", ".join(str(size or "-") for size in row.tiles),
            )
            for row in rows
        ],
    )
    print_line(f"kept in {file}")
