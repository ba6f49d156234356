"""config.json of a checkpoint: read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lowbit.checkpoint.schemes import check_scheme
from lowbit.errors import CheckpointError, FormatError
from lowbit.formats import QuantizationConfig, format_of
from lowbit.targets import scheme_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def read_settings(path: Path) -> dict[str, Any]:
    """The file as a dict.

    Raises:
        CheckpointError: no directory, no file, or no JSON object in it.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"'{path}' is not a checkpoint", found="no such directory", allowed="a directory"
        )
    file = path / CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read '{file}': {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"'{file}' is no configuration", found=type(settings).__name__, allowed="an object"
        )
    return settings


def read_quantization(path: Path, settings: Mapping[str, Any]) -> QuantizationConfig:
    """The section `quantization_config`, with the metadata of every layer checked.

    Raises:
        CheckpointError: it is missing, of another method or version, or wrong.
    """
    section = settings.get("quantization_config")
    if not isinstance(section, dict):
        raise CheckpointError(
            f"'{path / CONFIG}' is not of a lowbit checkpoint", found="no quantization_config", allowed="one"
        )
    try:
        config = QuantizationConfig.from_dict(section)
        for name, metadata in config.layers.items():
            format_of(metadata, name).expected(metadata, name)
    except FormatError as error:
        raise CheckpointError(f"'{path / CONFIG}': {error}") from error
    if not config.layers:
        raise CheckpointError(
            f"'{path / CONFIG}' lists no packed layers", found="layers: {}", allowed="one or more"
        )
    for alias, owner in config.tied.items():
        if owner not in config.layers:
            raise CheckpointError(f"'{path / CONFIG}': tied to a layer not listed", layer=alias, found=owner)
    return config


def check_schemes(path: Path, config: QuantizationConfig) -> None:
    """Every layer can come from the scheme that the configuration gives it.

    Raises:
        CheckpointError: one cannot.
    """
    try:
        for name, metadata in config.layers.items():
            check_scheme(scheme_of(config, name), metadata, name)
    except FormatError as error:
        raise CheckpointError(f"'{path / CONFIG}': {error}") from error


def saved_dtype(path: Path, settings: Mapping[str, Any]) -> torch.dtype:
    """The dtype the model computed in when it was saved."""
    name = settings.get("dtype", "float32")
    if not isinstance(name, str) or name not in DTYPES:
        raise CheckpointError(f"'{path / CONFIG}': bad dtype", found=repr(name), allowed=", ".join(DTYPES))
    return DTYPES[name]
