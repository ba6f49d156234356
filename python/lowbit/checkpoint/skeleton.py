"""A transformers model of a given configuration without its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lowbit.errors import CheckpointError


class _EmptyOnMeta(TorchFunctionMode):
    """Lets `torch.empty` allocate nothing.

    Layers make their weights with it, to be filled later. Everything that is computed at construction (rotary
    frequencies, masks, scale factors) comes from other functions and so has its value, which a model built
    wholly on the meta device would lack.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_skeleton(directory: Path, dtype: torch.dtype) -> nn.Module:
    """The model that `config.json` of a directory describes; its weights are on the meta device.

    Raises:
        CheckpointError: transformers is missing, or does not know the architecture.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"'{directory}' needs transformers to be loaded; or build the model and pass it as model=",
            found="no transformers",
            allowed="pip install 'lowbit[transformers]'",
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        name = (getattr(config, "architectures", None) or [""])[0]
        model_class = getattr(transformers, name, None)
        if model_class is None:
            raise ValueError(f"unknown architecture {name!r}")
        with _EmptyOnMeta():
            model: nn.Module = model_class._from_config(config, dtype=dtype)
        if (directory / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(directory)  # type: ignore[assignment]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"cannot build the model of '{directory / 'config.json'}': {error}",
            allowed="an architecture of the installed transformers, or a model passed as model=",
        ) from error
    return model.eval()
