"""``lowbit tune``: measure the tiles of the Triton kernels on this GPU, and keep what is faster."""

from __future__ import annotations

from collections import Counter
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
from lowbit.modules import PlanesLinear, QuantizedLinear, make_linear
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
    precision: Annotated[
        str | None,
        typer.Option(help=f"Of the layers: {', '.join(PRECISIONS)}; default: their own, else high."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Time the Triton kernels with other tiles, layer by layer, and keep the fastest for this GPU."""
    if (model is None) == (shapes is None):
        raise typer.BadParameter("give MODEL or --shapes, one of them")
    if dtype not in DTYPES or precision not in (None, *PRECISIONS):
        raise typer.BadParameter(f"unknown --dtype '{dtype}' or --precision '{precision}'")
    sizes = [] if shapes is None else [_size(text) for text in shapes.split(",")]
    chosen = parse_scheme(scheme)
    gpu = device()
    make = partial(_on, gpu, DTYPES[dtype], precision)
    layers: Sequence[Callable[[], QuantizedLinear]]
    if model is not None:
        layers = [partial(_twin, make, module) for module in _layers(model, dtype)]
    else:
        layers = [partial(_random, make, chosen, size) for size in sizes]
    name = torch.cuda.get_device_name(gpu)
    rows: list[Any] = []
    for found in _tuned(layers, gpu, DTYPES[dtype]):
        tuning.store(name, {row.product: row.tiles for row in found})
        rows += found
    _report(name, tuning.path(name), rows, json_output)


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


def _on(
    gpu: torch.device,
    dtype: torch.dtype,
    asked: str | None,
    packed: PackedWeight,
    scheme: Scheme | None,
    precision: str | None = None,
) -> QuantizedLinear:
    """A layer there, run by Triton. Without a precision that was asked for, or one of its own, `high`."""
    tensors = {name: tensor.to(gpu) for name, tensor in packed.tensors().items()}
    return make_linear(
        packed_format(tensors, packed.metadata()),
        dtype=dtype,
        precision=asked or precision or "high",
        backend="triton",
        scheme=scheme,
    )


def _random(make: Callable[..., QuantizedLinear], scheme: Scheme, size: tuple[int, int]) -> QuantizedLinear:
    return make(scheme.quantize(torch.randn(size)), scheme)


def _twin(make: Callable[..., QuantizedLinear], module: QuantizedLinear) -> QuantizedLinear:
    """What computes the same as the layer of a model."""
    # The property would answer for the device where the model is.
    twin = make(module.packed(), module.scheme, module._precision)
    if isinstance(module, PlanesLinear) and isinstance(twin, PlanesLinear):
        twin.active_bits = module.active_bits
        twin.activation_bits = module.activation_bits
    return twin


def _layers(model: str, dtype: str) -> list[QuantizedLinear]:
    loaded = load_model(model, dtype)
    if loaded.kind != "lowbit":
        raise typer.BadParameter(f"'{model}' is no lowbit checkpoint; --shapes takes sizes without a model")
    return [module for module in loaded.model.modules() if isinstance(module, QuantizedLinear)]


def _tuned(
    layers: Sequence[Callable[[], QuantizedLinear]], gpu: torch.device, dtype: torch.dtype
) -> Iterator[Sequence[Any]]:
    """What is found for the products of each layer that none before it had."""
    from lowbit.backends import triton_tune
    from lowbit.triton_kernels import gpu as described

    done: dict[str, object] = {}
    with progress("Measuring") as step:
        for index, layer in enumerate(layers):
            step(index, len(layers))
            module = layer()
            x = torch.randn(1, module.in_features, device=gpu).to(dtype)
            with torch.no_grad():
                found = triton_tune.tune(partial(module, x), gpu, done, triton_tune.microseconds)
            done |= {one.product: one for one in found}
            if found:
                yield found
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
    impossible = sum((Counter(row.impossible) for row in rows), Counter())
    for reason, count in impossible.most_common():
        print_line(f"passed over, {count} times: {reason}")
    print_line(f"kept in {file}")
