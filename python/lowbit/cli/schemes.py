"""Schemes on the command line: ``NAME`` or ``NAME:key=value,key=value``; keys are the scheme's fields."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from lowbit.schemes import SCHEMES, Scheme

SCHEME_HELP = f"NAME[:key=value,...]; names: {', '.join(SCHEMES)}"
# --bits means the field that sets a scheme's width.
_BITS_FIELDS = {"bipolar_int": "weight_bits", "scalar_codebook": "bits"}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_scheme(spec: str, *, bits: int | None = None, group_size: int | None = None) -> Scheme:
    """The scheme a specification names, e.g. ``bipolar_int:weight_bits=4,group_size=32``.

    Args:
        bits, group_size: values of the options of that name, refused where the scheme has no such field.

    Raises:
        typer.BadParameter: unknown scheme or field, or a value the scheme refuses.
    """
    name, _, rest = spec.partition(":")
    name = name.strip().replace("-", "_")
    if name not in SCHEMES:
        raise typer.BadParameter(f"unknown scheme '{name}'; allowed {', '.join(SCHEMES)}")
    kind = SCHEMES[name]
    fields = [field.name for field in dataclasses.fields(kind)]
    values = _pairs(rest, name)
    for option, value, field in (
        ("--bits", bits, _BITS_FIELDS.get(name, "")),
        ("--group-size", group_size, "group_size"),
    ):
        if value is None:
            continue
        if field not in fields:
            raise typer.BadParameter(
                f"{option} means nothing for scheme {name}; its fields: {', '.join(fields)}"
            )
        if field in values:
            raise typer.BadParameter(f"{option} and '{field}' of '{spec}' set the same field")
        values[field] = str(value)
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, text in values.items():
        if key not in fields:
            raise typer.BadParameter(f"scheme {name} has no field '{key}'; its fields: {', '.join(fields)}")
        arguments[key] = _convert(text, hints[key], f"{name}:{key}")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def parse_override(text: str) -> tuple[str, Scheme]:
    """``PATTERN=SCHEME`` of ``--override``."""
    pattern, separator, spec = text.partition("=")
    if not separator or not pattern or not spec:
        raise typer.BadParameter(f"'{text}' is not PATTERN=SCHEME")
    return pattern, parse_scheme(spec)


def scheme_label(scheme: Scheme) -> str:
    """Specification of a scheme: its width, and the other fields that differ from their defaults."""
    default = type(scheme)()
    names = [field.name for field in dataclasses.fields(scheme)]
    changed = [
        f"{name}={getattr(scheme, name)}"
        for name in names
        if name == _BITS_FIELDS.get(scheme.name) or getattr(scheme, name) != getattr(default, name)
    ]
    return scheme.name + (":" + ",".join(changed) if changed else "")


def unique_labels(chosen: Sequence[Scheme]) -> list[str]:
    """Labels of several schemes.

    Raises:
        typer.BadParameter: the same scheme twice.
    """
    labels = [scheme_label(scheme) for scheme in chosen]
    for label in labels:
        if labels.count(label) > 1:
            raise typer.BadParameter(f"scheme {label} is given twice")
    return labels


def _pairs(text: str, name: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = (piece.strip() for piece in pair.partition("="))
        key = key.replace("-", "_")
        if not separator or not value:
            raise typer.BadParameter(f"'{pair}' of scheme {name} is not key=value")
        if key in values:
            raise typer.BadParameter(f"'{key}' of scheme {name} is given twice")
        values[key] = value
    return values


def _convert(text: str, hint: Any, where: str) -> object:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for kind in options:
        try:
            if kind is bool:
                return _WORDS[text.lower()]
            if kind in (int, float, str):
                return kind(text)
        except (KeyError, ValueError):
            continue
    wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise typer.BadParameter(f"{where}: '{text}' is not {wanted}")
